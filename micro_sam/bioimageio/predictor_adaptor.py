"""Segment Anything as one network: an image and prompts in, masks out, as the BioImage.IO tools call it.

Packages of the model zoo name `PredictorAdaptor` as their architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from micro_sam.embeddings.preprocessing import to_image
from micro_sam.errors import ImageError, PromptError
from micro_sam.mask_decoding import LOW_RES, Prompts, Upscaler, decode_batches, default_batch_size
from micro_sam.models.accelerate import accelerate_sam
from micro_sam.models.build_sam import EMBED_DIM, build_empty_sam
from micro_sam.models.checkpoint import check_names_and_shapes
from micro_sam.models.predictor import SamPredictor
from micro_sam.models.spec import get_spec


class SamAdaptor(nn.Module):
    """Holds a Segment Anything network and reads its weights; without weights until `load_state_dict`.

    Args:
        model_type: The encoder ("vit_b"), or a registered model with that encoder.
    """

    def __init__(self, model_type: str) -> None:
        super().__init__()
        self.encoder = get_spec(model_type).encoder
        self.sam = accelerate_sam(build_empty_sam(self.encoder), "float32")
        self.predictor = SamPredictor(self.sam, self.encoder)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The weights under Segment Anything's own names."""
        return self.sam.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights under Segment Anything's own names, or ``{"model_state": ...}`` as exported models have them.

        Raises:
            CheckpointError: With `strict`, names or shapes differ.
        """
        state = state_dict.get("model_state", state_dict)
        if strict:
            check_names_and_shapes(state, self.sam.state_dict(), "The weights", self.encoder)
        return self.sam.load_state_dict(state, strict=strict, assign=assign)


class PredictorAdaptor(SamAdaptor):
    """Segments the objects that prompts point at.

    The weights are those of the flat Segment Anything layout.

    Args:
        model_type: The encoder ("vit_b"), or a registered model with that encoder.
    """

    @torch.no_grad()
    def forward(
        self,
        image: torch.Tensor,
        box_prompts: torch.Tensor | None = None,
        point_prompts: torch.Tensor | None = None,
        point_labels: torch.Tensor | None = None,
        mask_prompts: torch.Tensor | None = None,
        embeddings: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Segment n objects; all prompts that are given hold for each of them together.

        Args:
            image: (1, 3, H, W), any intensities; they are scaled to their minimum and maximum.
            box_prompts: (1, n, 4) as min x, min y, max x, max y in pixels.
            point_prompts: (1, n, k, 2) as x, y in pixels.
            point_labels: (1, n, k), 1 for points in the object, 0 for points outside of it, -1 for no point.
            mask_prompts: (1, n, 1, 256, 256), logits at Segment Anything's low resolution.
            embeddings: (1, 256, 64, 64), what this returned for the image before; saves most of the time.

        Returns:
            Masks (1, n, 1, H, W), uint8, 0 or 1; predicted IoUs (1, n, 1); and the image embeddings (1, 256, 64, 64).
            Without prompts n is 0.

        Raises:
            ImageError: The image or the embeddings have another shape.
            PromptError: Prompts have another shape, or are not for the same number of objects.
        """
        shape = check_image(image)
        prompts = _prompts(box_prompts, point_prompts, point_labels, mask_prompts)
        self._set_image(image, shape, embeddings)
        masks, scores = self._segment(prompts, shape)
        return masks[None], scores[None], self.predictor.features

    def _set_image(self, image: torch.Tensor, shape: tuple[int, int], embeddings: torch.Tensor | None) -> None:
        predictor = self.predictor
        if embeddings is None:
            predictor.set_image(plane_of(image))
            return
        expected = (1, EMBED_DIM, *self.sam.prompt_encoder.image_embedding_size)
        if tuple(embeddings.shape) != expected:
            raise ImageError(f"Embeddings have the shape {expected}, got {tuple(embeddings.shape)}.")
        predictor.reset_image()
        predictor.original_size = shape
        predictor.input_size = predictor.transform.get_preprocess_shape(*shape, predictor.transform.target_length)
        predictor.features = embeddings.to(predictor.device, torch.float32)
        predictor.is_image_set = True

    def _segment(self, prompts: Prompts, shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.predictor.device
        upscaler = Upscaler.of(self.predictor)
        masks = torch.zeros((len(prompts), 1, *shape), dtype=torch.uint8, device=device)
        scores = torch.zeros((len(prompts), 1), device=device)
        size = default_batch_size(device)
        for which, logits, ious in decode_batches(self.predictor, prompts, multimask=False, batch_size=size):
            masks[which] = (upscaler.full(logits) > self.sam.mask_threshold).to(torch.uint8)
            scores[which] = ious
        return masks, scores


def check_image(image: torch.Tensor) -> tuple[int, int]:
    """Height and width of an image (B, 3, H, W).

    Raises:
        ImageError: It has another shape.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise ImageError(f"The image has the shape (batch, 3, height, width), got {tuple(image.shape)}.")
    return int(image.shape[2]), int(image.shape[3])


def plane_of(image: torch.Tensor) -> np.ndarray:
    """The only image of a batch (1, 3, H, W) as the 8 bit RGB image (H, W, 3) the encoder sees.

    Raises:
        ImageError: There are more images.
    """
    if len(image) != 1:
        raise ImageError(f"Prompts belong to one image, got a batch of {len(image)}: pass one after another.")
    return to_image(image[0].permute(1, 2, 0).cpu().numpy())


def _prompts(
    boxes: torch.Tensor | None,
    points: torch.Tensor | None,
    labels: torch.Tensor | None,
    masks: torch.Tensor | None,
) -> Prompts:
    """The prompts as micro_sam takes them, their shapes checked."""
    if (points is None) != (labels is None):
        raise PromptError("Points need labels and labels points: give point_prompts and point_labels together.")
    expected = {
        "box_prompts": (boxes, (4,)),
        "point_prompts": (points, None if points is None else (points.shape[2] if points.ndim > 2 else 1, 2)),
        "point_labels": (labels, None if points is None else tuple(points.shape[2:3])),
        "mask_prompts": (masks, (1, LOW_RES, LOW_RES)),
    }
    counts = {}
    for name, (value, rest) in expected.items():
        if value is None:
            continue
        if value.ndim < 2 or len(value) != 1 or tuple(value.shape[2:]) != rest:
            shape = ", ".join(map(str, ("1", "objects", *rest)))
            raise PromptError(f"{name} have the shape ({shape}), got {tuple(value.shape)}.")
        counts[name] = value.shape[1]
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise PromptError(f"All prompts are for the same objects, got {found}.")
    boxes, points, labels = (None if x is None else x[0].cpu().numpy() for x in (boxes, points, labels))
    return Prompts(points, labels, boxes, None if masks is None else masks[0])
