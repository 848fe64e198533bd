"""The way of a batch of images through a predictor's encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from segment_anything import SamPredictor


@torch.no_grad()
def encode_batch(predictor: SamPredictor, images: Sequence[np.ndarray]) -> np.ndarray:
    """Run images through the encoder in one batch.

    Args:
        predictor: The predictor whose model, transform and device are used. Its own state stays as it is.
        images: 8 bit RGB images of shape (H, W, 3), of any and different sizes.

    Returns:
        The features, shape (B, 256, 64, 64), float32, on the CPU.
    """
    inputs = torch.cat([_model_input(predictor, image) for image in images])
    return predictor.model.image_encoder(inputs).float().cpu().numpy()


def _model_input(predictor: SamPredictor, image: np.ndarray) -> torch.Tensor:
    """Resize the long side, normalise and pad an image: (1, 3, side, side), float32."""
    resized = torch.as_tensor(predictor.transform.apply_image(image), device=predictor.device)
    return predictor.model.preprocess(resized.permute(2, 0, 1).contiguous()[None])
