"""Automatic mask generation gives what Segment Anything's own generator gives, for less work."""

import sys
from pathlib import Path

import numpy as np
import pytest
from segment_anything import SamAutomaticMaskGenerator
from skimage import data

from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation import AutomaticMaskGenerator, NotInitializedError

sys.path.insert(0, str(Path(__file__).parents[1]))
from segmentation_toys import draw_ellipses, embeddings_of, toy_predictor  # noqa: E402


def image_of(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, 220, 20).astype(np.uint8)[..., None].repeat(3, axis=-1)


def records_match(ours: list[dict], theirs: list[dict]) -> float:
    """Fraction of records that have a partner of IoU >= 0.99 with equal scores."""
    if not ours and not theirs:
        return 1.0
    matched = 0
    for a in theirs:
        for b in ours:
            both = np.count_nonzero(a["segmentation"] & b["segmentation"])
            union = np.count_nonzero(a["segmentation"] | b["segmentation"])
            same = abs(a["predicted_iou"] - b["predicted_iou"]) < 1e-5
            if both >= 0.99 * union and same and abs(a["stability_score"] - b["stability_score"]) < 0.01:
                matched += 1
                break
    return matched / max(len(ours), len(theirs))


@pytest.mark.parametrize(
    ("shape", "thresholds"),
    [((256, 256), (0.88, 0.95)), ((300, 512), (0.5, 0.6)), ((700, 330), (0.9, 0.8)), ((1100, 1024), (0.0, 0.0))],
)
def test_equals_segment_anything(shape, thresholds):
    predictor = toy_predictor()
    image = image_of(draw_ellipses(shape, 12, (min(shape) // 30, min(shape) // 8)))
    settings = {"pred_iou_thresh": thresholds[0], "stability_score_thresh": thresholds[1]}
    theirs = SamAutomaticMaskGenerator(predictor.model, points_per_side=12, **settings).generate(image)
    generator = AutomaticMaskGenerator(predictor, points_per_side=12)
    generator.initialize(image)
    ours = generator.generate(output_mode="binary_mask", **settings)
    assert [set(theirs[0]) - set(ours[0])] == [set()] if theirs else not ours
    ours = [record for record in ours if record["area"]]
    theirs = [record for record in theirs if record["area"]]
    assert len(ours) == len(theirs)
    assert records_match(ours, theirs) == 1.0
