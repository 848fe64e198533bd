"""Automatic instance segmentation as one network: an image in, instance labels and the decoder's maps out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from micro_sam.bioimageio.predictor_adaptor import SamAdaptor, check_image, plane_of
from micro_sam.errors import CheckpointError
from micro_sam.instance_segmentation.ais import InstanceSegmentationWithDecoder
from micro_sam.instance_segmentation.settings import settings_for
from micro_sam.models.decoder_adapter import DecoderAdapter, get_decoder


class AutomaticSegmentationAdaptor(SamAdaptor):
    """Segments every object of an image with the instance segmentation decoder.

    The weights are ``{"model_state": ..., "decoder_state": ...}``, the layout in which micro_sam exports models, so that
    the same file opens there as a checkpoint.

    Args:
        model_type: The encoder ("vit_b"), or a registered model with that encoder.
        settings: Parameters of automatic segmentation (`InstanceSegmentationWithDecoder.generate`).

    Raises:
        ParameterError: A parameter is unknown or out of range.
    """

    decoder: DecoderAdapter | None

    def __init__(self, model_type: str, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(model_type)
        self.settings = settings_for("ais", None, **(settings or {}))
        self.decoder = None

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The weights of the network and of the decoder."""
        state = {"model_state": super().state_dict(*args, **kwargs)}
        return state if self.decoder is None else {**state, "decoder_state": self.decoder.decoder.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the weights; the decoder is built as they say.

        Raises:
            CheckpointError: There is no decoder, or names or shapes differ.
        """
        decoder_state = state_dict.get("decoder_state")
        if decoder_state is None:
            raise CheckpointError("The weights have no decoder_state, which automatic segmentation needs.")
        result = super().load_state_dict(state_dict, strict, assign)
        self.decoder = get_decoder(self.sam.image_encoder, decoder_state, self.predictor.device, "float32")
        return result

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Segment images.

        Args:
            image: (B, 3, H, W), any intensities; each image is scaled to its minimum and maximum.

        Returns:
            Instance labels (B, 1, H, W), int32, 0 is background; and the maps (B, 3, H, W), float32: foreground
            probability, distance to the object's centre, and to its boundary.

        Raises:
            ImageError: The image has another shape.
            CheckpointError: No weights were loaded.
        """
        check_image(image)
        if self.decoder is None:
            raise CheckpointError("There are no weights yet: call load_state_dict first.")
        results = [self._segment(plane_of(image[i : i + 1])) for i in range(len(image))]
        labels, maps = (torch.from_numpy(np.stack(parts)).to(self.predictor.device) for parts in zip(*results))
        return labels[:, None], maps

    def _segment(self, plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        segmenter = InstanceSegmentationWithDecoder(self.predictor, self.decoder)
        segmenter.initialize(plane)
        labels = segmenter.generate(**self.settings.generate_kwargs())
        return np.asarray(labels, dtype=np.int32), np.stack(list(segmenter.get_state().values()))
