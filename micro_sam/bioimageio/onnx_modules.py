"""The parts of a model as networks of plain tensor operations, which can be exported to ONNX.

The prompt decoder has the interface that Segment Anything documents for ONNX (github.com/facebookresearch/segment-anything,
``scripts/export_onnx_model.py``), with one addition: several objects can be decoded at once.
"""

from __future__ import annotations

import copy

import torch
from segment_anything.modeling import Sam
from torch import nn
from torch.nn import functional as F

from micro_sam.mask_decoding import LOW_RES
from micro_sam.models.build_sam import EMBED_DIM, IMAGE_SIZE
from micro_sam.models.decoder_adapter import Decoder

_BEST_OF_THREE_BELOW = 2.5  # points: one click is ambiguous, so the best of three masks is taken
_BOX_CORNER = 2  # a box is as sure as three points
_SURELY = 1000.0
_STABILITY_OFFSET = 1.0


class ImageEncoderModule(nn.Module):
    """The image encoder with normalisation and padding: RGB (1, 3, h, w) in [0, 255], the longer side 1024, to embeddings."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.encoder = sam.image_encoder
        self.register_buffer("mean", sam.pixel_mean[None].clone())
        self.register_buffer("std", sam.pixel_std[None].clone())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, h, w) -> (1, 256, 64, 64)."""
        x = (image - self.mean) / self.std
        side = self.encoder.img_size
        return self.encoder(F.pad(x, (0, side - x.shape[-1], 0, side - x.shape[-2])))


class ToOriginalSize(nn.Module):
    """Undoes SAM's resizing and padding for any size of the original image, which is a tensor here.

    Equal to interpolating to 1024 x 1024, cropping, and interpolating to the original size (both bilinear). Each is linear
    and separable, so that it is a product with one matrix for the rows and one for the columns.

    Args:
        side: Side of the square maps that come in.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        weights = torch.eye(side)[None]
        if side != IMAGE_SIZE:
            weights = F.interpolate(weights, IMAGE_SIZE, mode="linear", align_corners=False)
        self.register_buffer("to_padded", weights[0].T.contiguous())

    def forward(self, maps: torch.Tensor, orig_im_size: torch.Tensor) -> torch.Tensor:
        """(B, C, side, side) and the original (height, width) -> (B, C, height, width)."""
        longest = torch.maximum(orig_im_size[0], orig_im_size[1])
        rows, columns = (self._weights(orig_im_size[axis], longest) for axis in (0, 1))
        return rows @ maps @ columns.T

    def _weights(self, length: torch.Tensor, longest: torch.Tensor) -> torch.Tensor:
        """(length, side): how a line of the original image is made from a line of the maps."""
        resized = torch.floor(length * (IMAGE_SIZE / longest) + 0.5)
        count = length.to(torch.int64)
        if not torch.jit.is_tracing():  # the exporter of old opsets needs it as a tensor, the other one as a number
            count = count.item()
            torch._check(count >= 1)
        position = (torch.arange(count, dtype=torch.float32) + 0.5) * (resized / length) - 0.5
        position = torch.minimum(position.clamp(min=0.0), resized - 1)
        low = position.floor()
        high = torch.minimum(low + 1, resized - 1)
        part = (position - low)[:, None]
        return self.to_padded[low.to(torch.int64)] * (1 - part) + self.to_padded[high.to(torch.int64)] * part


class PromptDecoderModule(nn.Module):
    """Prompt encoder, mask decoder and upscaling.

    Args:
        sam: The model.
        return_single_mask: One mask an object instead of four: for a box or several points the one for sure prompts, for
            one point the best of the three for ambiguous ones.
        use_stability_score: Score masks by how little they change with the threshold, instead of the predicted IoU.
        return_extra_metrics: Return stability scores and areas, too.
    """

    def __init__(
        self,
        sam: Sam,
        return_single_mask: bool = True,
        use_stability_score: bool = False,
        return_extra_metrics: bool = False,
    ) -> None:
        super().__init__()
        self.prompts, self.decoder = sam.prompt_encoder, sam.mask_decoder
        self.threshold, self.image_size = sam.mask_threshold, sam.image_encoder.img_size
        self.return_single_mask, self.use_stability_score = return_single_mask, use_stability_score
        self.return_extra_metrics = return_extra_metrics
        self.register_buffer("position", sam.prompt_encoder.get_dense_pe().detach().clone())
        self.to_original = ToOriginalSize(LOW_RES)

    @property
    def output_names(self) -> list[str]:
        """The names of what is returned."""
        extra = ["stability_scores", "areas"] if self.return_extra_metrics else []
        return ["masks", "iou_predictions", *extra, "low_res_masks"]

    def forward(
        self,
        image_embeddings: torch.Tensor,
        point_coords: torch.Tensor,
        point_labels: torch.Tensor,
        mask_input: torch.Tensor,
        has_mask_input: torch.Tensor,
        orig_im_size: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Decode the prompts of n objects.

        Args:
            image_embeddings: (1, 256, 64, 64).
            point_coords: (n, k, 2) in (x, y), in pixels of the image resized to a longer side of 1024.
            point_labels: (n, k) float: 1 in the object, 0 outside, 2 and 3 a box's first and last corner, -1 padding (one
                such point is needed where there is no box).
            mask_input: (n, 1, 256, 256) logits, of no importance without has_mask_input.
            has_mask_input: (1,), 1 or 0.
            orig_im_size: (2,) float, height and width of the image.

        Returns:
            Mask logits (n, 1 or 4, height, width), predicted IoUs (n, 1 or 4), low resolution logits (n, 1 or 4, 256, 256).
        """
        masks, scores = self.decoder.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=self.position,
            sparse_prompt_embeddings=self._embed_points(point_coords, point_labels),
            dense_prompt_embeddings=self._embed_masks(mask_input, has_mask_input),
        )
        if self.use_stability_score:
            scores = self._stability(masks)
        if self.return_single_mask:
            masks, scores = self._best(masks, scores, point_labels)
        upscaled = self.to_original(masks, orig_im_size)
        if not self.return_extra_metrics:
            return upscaled, scores, masks
        areas = (upscaled > self.threshold).float().sum((-2, -1))
        return upscaled, scores, self._stability(upscaled), areas, masks

    def _embed_points(self, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        encoded = self.prompts.pe_layer._pe_encoding((points + 0.5) / self.image_size)
        labels = labels[..., None]
        encoded = torch.where(labels == -1, self.prompts.not_a_point_embed.weight, encoded)
        for kind, embedding in enumerate(self.prompts.point_embeddings):
            encoded = encoded + (labels == kind).float() * embedding.weight
        return encoded

    def _embed_masks(self, masks: torch.Tensor, has_masks: torch.Tensor) -> torch.Tensor:
        nothing = self.prompts.no_mask_embed.weight.reshape(1, EMBED_DIM, 1, 1)
        return has_masks * self.prompts.mask_downscaling(masks) + (1 - has_masks) * nothing

    def _stability(self, masks: torch.Tensor) -> torch.Tensor:
        """IoU of the masks at a stricter and at a laxer threshold; (n, m)."""
        strict, lax = (
            (masks > self.threshold + offset).float().sum((-2, -1))
            for offset in (_STABILITY_OFFSET, -_STABILITY_OFFSET)
        )
        return strict / lax

    @staticmethod
    def _best(masks: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n_points = torch.ones_like(labels).sum(1, keepdim=True) + (labels == _BOX_CORNER).float().sum(1, keepdim=True)
        first = torch.zeros_like(scores[:1])
        first[:, 0] = _SURELY
        best = (scores + (n_points - _BEST_OF_THREE_BELOW) * first).argmax(1, keepdim=True)
        masks = masks.gather(1, best[..., None, None].expand(-1, -1, *masks.shape[-2:]))
        return masks, scores.gather(1, best)


class InstanceDecoderModule(nn.Module):
    """The instance segmentation decoder: embeddings to foreground probability and distances to centre and boundary."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        with torch.no_grad():
            side = decoder.maps(torch.zeros(1, EMBED_DIM, 1, 1)).shape[-1] * (IMAGE_SIZE // 16)
        self.to_original = ToOriginalSize(side)

    def forward(self, image_embeddings: torch.Tensor, orig_im_size: torch.Tensor) -> torch.Tensor:
        """(1, 256, 64, 64) and the original (height, width) -> (1, 3, height, width)."""
        maps = self.decoder.maps(image_embeddings)
        if self.decoder.final_activation is not None:
            maps = self.decoder.final_activation(maps)
        return self.to_original(maps, orig_im_size)


def with_fast_gelu(module: nn.Module) -> nn.Module:
    """A copy that approximates GELU by tanh, for runtimes that lack the exact one or compute it slowly."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(part, nn.GELU):
            part.approximate = "tanh"
    return module
