import numpy as np
import pytest
from scipy import ndimage

from micro_sam.errors import ParameterError
from micro_sam.sample_data import synthetic_data
from micro_sam.sample_data.synthetic import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_an_image_and_its_instances(kind):
    image, labels = synthetic_data((120, 160), seed=3, kind=kind, diameter=24)
    assert image.shape == labels.shape == (120, 160)
    assert image.dtype == np.uint8 and labels.dtype == np.uint32
    ids = np.unique(labels[labels > 0])
    assert len(ids) > 4 and ids[0] == 1 and ids[-1] == len(ids)
    assert image.std() > 5


@pytest.mark.parametrize("kind", KINDS)
def test_labels_follow_what_is_seen_in_the_image(kind):
    """Without noise, the strongest edges of the image lie at the borders of the objects."""
    image, labels = synthetic_data((160, 160), seed=5, kind=kind, diameter=40, density=0.4, noise=0)
    edges = ndimage.gaussian_gradient_magnitude(image.astype(float), 1)
    border = ndimage.morphological_gradient(labels, size=5) > 0
    assert edges[border].mean() > 1.5 * edges[~border].mean()


def test_the_same_seed_gives_the_same_data():
    first, again, other = (synthetic_data((64, 64), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


def test_volumes_hold_objects_that_go_on_through_slices():
    image, labels = synthetic_data((24, 64, 64), seed=0, diameter=16)
    assert image.shape == labels.shape == (24, 64, 64)
    extents = [(labels == i).any((1, 2)).sum() for i in range(1, labels.max() + 1)]
    assert max(extents) > 5


@pytest.mark.parametrize(
    "shape, kind, told",
    [((5,), "nuclei", "two or three axes"), ((9, 9), "stars", "one of"), ((4, 9, 9), "rods", "volumes")],
)
def test_what_cannot_be_made_is_said(shape, kind, told):
    with pytest.raises(ParameterError, match=told):
        synthetic_data(shape, kind=kind)
