"""Decoding around an object gives the logits that decoding everything gives."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from micro_sam.models.fast_mask_decoder import FastMaskDecoder
from micro_sam.models.local_mask_decoder import LocalMaskDecoder, MaskPatch

SIDE = 16
OUTSIDE = -6.9
PATCHES = [(2, 6, 3, 8), (0, 3, 10, 16), (5, 12, 5, 9), (9, 14, 0, 4), (1, 5, 1, 5)]


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    encoder = PromptEncoder(32, (SIDE, SIDE), (256, 256), 8).eval()
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=4)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, num_multimask_outputs=3).eval()
    return encoder, decoder, torch.randn(1, 32, SIDE, SIDE)


def _prompts(n: int):
    rng = np.random.default_rng(n)
    corner = torch.as_tensor(rng.uniform(10, 120, (n, 2)), dtype=torch.float32)
    boxes = torch.cat([corner, corner + 60], dim=1)
    points = torch.as_tensor(rng.uniform(10, 240, (n, 3, 2)), dtype=torch.float32), torch.ones(n, 3, dtype=torch.int)
    masks = torch.full((n, 1, 4 * SIDE, 4 * SIDE), OUTSIDE)
    patches = []
    for k, window in enumerate(PATCHES[:n]):
        y0, y1, x0, x1 = (4 * side for side in window)
        masks[k, 0, y0:y1, x0:x1] = torch.as_tensor(rng.normal(0, 3, (y1 - y0, x1 - x0)))
        patches.append(MaskPatch(masks[k, 0, y0:y1, x0:x1].clone(), window))
    return points, boxes, masks, patches


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kinds", ["boxes", "points", "masks", "boxes and masks"])
@pytest.mark.parametrize("n", [1, 5])
@torch.no_grad()
def test_the_logits_are_those_of_the_whole_image(parts, n, kinds, multimask):
    encoder, stock, image = parts
    points, boxes, masks, patches = _prompts(n)
    given = {"points": points, "boxes": boxes, "masks": masks}
    given = {name: value if name in kinds else None for name, value in given.items()}
    sparse, dense = encoder(**given)
    expected, ious = stock(image, encoder.get_dense_pe(), sparse, dense, multimask)
    windows = [(2, 10, 1, 9)] * n
    decoder = LocalMaskDecoder(encoder, FastMaskDecoder(stock, "float32"), image, OUTSIDE)
    found = decoder(
        given["points"], given["boxes"], patches if "masks" in kinds else None, windows, multimask, threshold=1e6
    )
    assert [local.window for local in found] == windows
    for local, all_logits, scores in zip(found, expected, ious, strict=True):
        torch.testing.assert_close(local.logits, all_logits[:, 8:40, 4:36], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(local.ious, scores, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_mask_that_reaches_the_border_of_its_window_is_computed_everywhere(parts):
    encoder, stock, image = parts
    _, boxes, _, _ = _prompts(1)
    sparse, dense = encoder(points=None, boxes=boxes, masks=None)
    expected, _ = stock(image, encoder.get_dense_pe(), sparse, dense, False)
    decoder = LocalMaskDecoder(encoder, FastMaskDecoder(stock, "float32"), image, OUTSIDE)
    threshold = float(expected.min()) - 1  # everything is above
    (local,) = decoder(None, boxes, None, [(2, 10, 1, 9)], False, threshold)
    assert local.window == (0, SIDE, 0, SIDE)
    torch.testing.assert_close(local.logits, expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("boxed", [False, True])
@torch.no_grad()
def test_prompts_with_different_numbers_of_points_are_decoded_together(parts, boxed):
    encoder, stock, image = parts
    (coordinates, labels), boxes, _, _ = _prompts(5)
    counts = [3, 1, 2, 3, 1]
    for k, count in enumerate(counts):
        labels[k, count:] = -1
    decoder = LocalMaskDecoder(encoder, FastMaskDecoder(stock, "float32"), image, OUTSIDE)
    windows = [(2, 10, 1, 9)] * 5
    found = decoder((coordinates, labels), boxes if boxed else None, None, windows, False, 1e6, counts)
    for k, (local, count) in enumerate(zip(found, counts, strict=True)):
        points = coordinates[k : k + 1, :count], labels[k : k + 1, :count]
        sparse, dense = encoder(points, boxes[k : k + 1] if boxed else None, None)
        expected, ious = stock(image, encoder.get_dense_pe(), sparse, dense, False)
        torch.testing.assert_close(local.logits, expected[0, :, 8:40, 4:36], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(local.ious, ious[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_another_precision_than_the_decoders_own_can_be_asked_for(parts):
    encoder, stock, image = parts
    _, boxes, _, _ = _prompts(5)
    fast, windows = FastMaskDecoder(stock, "float32"), [(2, 10, 1, 9)] * 5
    fine = LocalMaskDecoder(encoder, fast, image, OUTSIDE)(None, boxes, None, windows, False, 1e6)
    coarse = LocalMaskDecoder(encoder, fast, image, OUTSIDE, "bfloat16")(None, boxes, None, windows, False, 1e6)
    for a, b in zip(fine, coarse, strict=True):
        assert not torch.equal(a.logits, b.logits)
        torch.testing.assert_close(a.logits, b.logits, rtol=0.1, atol=0.1 * float(a.logits.std()))


def test_decoders_that_are_trained_or_of_another_kind_are_left_alone(parts):
    encoder, stock, image = parts
    fast = FastMaskDecoder(stock, "float32")

    def local(mask_decoder):
        model = SimpleNamespace(prompt_encoder=encoder, mask_decoder=mask_decoder, image_encoder=None)
        return LocalMaskDecoder.of(SimpleNamespace(model=model, features=image), OUTSIDE)

    assert local(stock) is None
    assert local(fast.train()) is None
    assert local(fast.eval()) is not None
    with pytest.raises(ValueError, match="FastMaskDecoder"):
        LocalMaskDecoder(encoder, stock, image, OUTSIDE)
