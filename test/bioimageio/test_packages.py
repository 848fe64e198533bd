from __future__ import annotations

import hashlib
import zipfile

import numpy as np
import pytest
import yaml
from bioimageio.core import predict
from bioimageio.spec import InvalidDescr, load_model_description
from skimage.io import imread

from micro_sam.bioimageio import export_sam_model, model_export
from micro_sam.bioimageio.model_export import check_package
from micro_sam.errors import CheckpointError, ImageError, MissingDependencyError, OutputError, ParameterError
from micro_sam.instance_segmentation import InstanceSegmentationWithDecoder
from micro_sam.models.decoder_adapter import get_predictor_and_decoder
from micro_sam.models.predictor import get_sam_model

ABOUT = {
    "description": "Segments synthetic nuclei.",
    "authors": [{"name": "A. Microscopist", "affiliation": "Somewhere"}],
    "license": "MIT",
    "cite": [{"text": "Our paper", "doi": "10.1000/182"}],
    "tags": ["nuclei"],
    "documentation": "Trained on nothing in particular.",
    "version": "1.2.3",
}
SETTINGS = {"min_size": 20}


@pytest.fixture(scope="module")
def packages(tmp_path_factory, sample):
    """One package of each kind; the tests of bioimageio.core are run on them below."""
    folder = tmp_path_factory.mktemp("packages")
    arguments = (*sample, "vit_t_builtin", "Bundled test model")
    export_sam_model(*arguments, folder / "prompts.zip", verify=False, **ABOUT)
    export_sam_model(*arguments, folder / "automatic.zip", automatic=True, settings=SETTINGS, verify=False, **ABOUT)
    return folder


@pytest.mark.parametrize("kind", ["prompts", "automatic"])
def test_packages_pass_the_tests_of_bioimageio_core(packages, kind):
    check_package(packages / f"{kind}.zip")


def test_the_description_says_what_was_said_and_nothing_is_left_behind(packages):
    model = load_model_description(packages / "prompts.zip", perform_io_checks=False)
    assert not isinstance(model, InvalidDescr) and model.format_version.startswith("0.5")
    assert (model.name, str(model.license), str(model.version)) == ("Bundled test model", "MIT", "1.2.3")
    assert [author.name for author in model.authors] == ["A. Microscopist"]
    assert {"10.1000/182", "10.1038/s41592-024-02580-4"} <= {str(entry.doi) for entry in model.cite}
    assert [tensor.id for tensor in model.inputs] == [
        "image", "box_prompts", "point_prompts", "point_labels", "mask_prompts", "embeddings",
    ]  # fmt: skip
    assert [tensor.optional for tensor in model.inputs] == [False, True, True, True, True, True]
    assert sorted(path.name for path in packages.iterdir()) == ["automatic.zip", "prompts.zip"]
    with zipfile.ZipFile(packages / "prompts.zip") as archive:
        written = yaml.safe_load(archive.read("bioimageio.yaml"))
        weights = written["weights"]["pytorch_state_dict"]
        assert weights["sha256"] == hashlib.sha256(archive.read(weights["source"])).hexdigest()
        text = archive.read("README.md").decode()
        cover = imread(archive.open("cover.png"))
        environment = yaml.safe_load(archive.read("environment.yaml"))
    assert "Trained on nothing in particular." in text and "## Validation" in text
    assert cover.shape == (320, 640, 3) and (cover[:, :320] != cover[:, 320:]).any()
    assert any("micro_sam" in str(entry) for entry in environment["dependencies"])


def test_bioimageio_core_encodes_and_segments_without_embeddings(packages, sample):
    image = np.repeat(sample[0][None, None].astype("float32"), 3, axis=1)
    with zipfile.ZipFile(packages / "prompts.zip") as archive:
        boxes, expected = (
            np.load(archive.open(name)) for name in ("test_input_box_prompts.npy", "test_output_masks.npy")
        )
    result = predict(model=packages / "prompts.zip", inputs={"image": image, "box_prompts": boxes})
    masks, embeddings = (result.members[name].data.to_numpy() for name in ("masks", "embeddings_out"))
    with zipfile.ZipFile(packages / "prompts.zip") as archive:
        known = np.load(archive.open("test_input_embeddings.npy"))
    np.testing.assert_allclose(embeddings, known, atol=1e-4)
    ious = (masks & expected).sum((-2, -1)) / (masks | expected).sum((-2, -1))
    assert masks.shape == expected.shape and ious.min() > 0.5  # fewer prompts than in the test tensors


def test_micro_sam_opens_a_package_as_a_checkpoint(packages, sample):
    for kind in ("prompts", "automatic"):
        path = packages / f"{kind}.zip"
        predictor, decoder = get_predictor_and_decoder("vit_t", path, "cpu", precision="float32")
        expected = get_sam_model("vit_t_builtin", "cpu", precision="float32")
        state = expected.model.state_dict()
        assert all((value == state[name]).all() for name, value in predictor.model.state_dict().items())
        assert predictor.defaults["ais"]["min_size"] == (20 if kind == "automatic" else 25)
    segmenter = InstanceSegmentationWithDecoder(predictor, decoder)
    segmenter.initialize(sample[0])
    with zipfile.ZipFile(path) as archive:
        labels = np.load(archive.open("test_output_labels.npy"))
    np.testing.assert_array_equal(segmenter.generate(**predictor.defaults["ais"]), labels[0, 0])


def test_the_extracted_weights_open_as_a_checkpoint_with_the_decoder_beside(packages, tmp_path):
    with zipfile.ZipFile(packages / "prompts.zip") as archive:
        archive.extractall(tmp_path)
    predictor, _ = get_predictor_and_decoder("vit_t", tmp_path / "vit_t.pt", "cpu")
    assert predictor.model_type == "vit_t"


def test_what_cannot_be_packed_is_refused_before_anything_is_written(sample, tmp_path):
    image, labels = sample
    target, name = tmp_path / "out.zip", "A good name"
    for arguments, keywords, error, message in [
        ((image, labels, "vit_t_builtin", name), {"colour": "red"}, ParameterError, "Unknown argument 'colour'"),
        ((image, labels, "vit_t_builtin", name), {"settings": {}}, ParameterError, "belong to automatic"),
        ((image, labels[:-1], "vit_t_builtin", name), {}, ImageError, "integers of the image's shape"),
        ((image, 0 * labels, "vit_t_builtin", name), {}, ImageError, "no object"),
        ((image[:32], labels[:32], "vit_t_builtin", name), {}, ImageError, "at least 64 pixels"),
    ]:
        with pytest.raises(error, match=message):
            export_sam_model(*arguments, target, **keywords)
    with pytest.raises(OutputError, match="does not exist"):
        export_sam_model(image, labels, "vit_t_builtin", name, tmp_path / "none" / "out.zip")
    assert list(tmp_path.iterdir()) == []


def test_an_invalid_description_is_named_before_anything_is_computed(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(model_export, "read_source", None)
    for name, about, message in [
        ("A good name", {"license": "Mine"}, "not be valid, at license"),
        ("A good name", {"authors": [{"surname": "A"}]}, "not be valid, at name"),
        ("A good name", {"cite": [{"text": "no reference"}]}, "doi"),
        ("Bad", {}, "not be valid, at name"),
    ]:
        with pytest.raises(ParameterError, match=message):
            export_sam_model(*sample, "vit_t_builtin", name, tmp_path / "out.zip", **about)


def test_a_package_that_fails_its_tests_is_not_left_behind(sample, tmp_path, monkeypatch, caplog):

    def fail(path):
        raise OutputError("The package does not pass.")

    monkeypatch.setattr(model_export, "check_package", fail)
    with pytest.raises(OutputError, match="does not pass"):
        export_sam_model(*sample, "vit_t_builtin", "A good name", tmp_path / "out.zip")
    assert list(tmp_path.iterdir()) == []
    assert "names no author" in caplog.text


def test_automatic_segmentation_needs_a_decoder(sample, source, tmp_path):
    import torch

    torch.save(source.model_state, tmp_path / "flat.pt")
    with pytest.raises(CheckpointError, match="no instance segmentation decoder"):
        export_sam_model(*sample, "vit_t", "A good name", tmp_path / "a.zip", tmp_path / "flat.pt", automatic=True)


def test_a_missing_package_is_named(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(model_export, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"micro_sam\[bioimageio\]"):
        export_sam_model(*sample, "vit_t_builtin", "A good name", tmp_path / "a.zip")
