"""A Segment Anything network as it is trained: images are encoded once, many prompted objects decoded at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.image_encoder import Block, ImageEncoderViT
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..models.decoder_adapter import preprocess
from ..models.fast_tiny_vit import FastTinyViT
from ..models.fast_vit import FastViT, apply_block
from ..models.tiny_vit import AttentionStage, TinyViT

PAD, NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3


@dataclass
class Encoded:
    """What the encoder made of a batch of images of the same size.

    Attributes:
        features: (B, 256, h, w) image embeddings.
        input_shape: (height, width) of the images in the encoder's frame, in pixels, without the padding.
        original_shape: (height, width) of the images.
    """

    features: torch.Tensor
    input_shape: tuple[int, int]
    original_shape: tuple[int, int]

    @property
    def scale(self) -> float:
        """Frame pixels per pixel of the image."""
        return max(self.input_shape) / max(self.original_shape)


class TrainableSAM(nn.Module):
    """A `Sam` whose parameters lie below ``sam.``, as training checkpoints have them.

    Args:
        sam: The network.
        activation_checkpointing: Compute the encoder's blocks a second time in the backward pass instead of keeping
            what they computed: a third more time for the encoder, a fraction of its memory.
    """

    def __init__(self, sam: Sam, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.sam = sam
        self.activation_checkpointing = activation_checkpointing
        self.transform = ResizeLongestSide(sam.image_encoder.img_size)

    @property
    def image_size(self) -> int:
        """Side of the square frame the encoder takes, in pixels."""
        return self.sam.image_encoder.img_size

    def preprocess(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Resize, normalise and pad images (B, 3, H, W) in [0, 255]; the result and its (height, width) unpadded."""
        return preprocess(x, self.image_size)

    def encode(self, x: torch.Tensor) -> Encoded:
        """Encode images (B, 1 or 3, H, W) with values in [0, 255]."""
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        inputs, input_shape = self.preprocess(x.float())
        encoder = self.sam.image_encoder
        wants_gradients = torch.is_grad_enabled() and any(p.requires_grad for p in encoder.parameters())
        if self.activation_checkpointing and wants_gradients:
            features = _encode_in_pieces(encoder, inputs)
        else:
            # the fast encoders know their precision themselves when they are not trained
            is_fast = isinstance(encoder, FastViT | FastTinyViT) and not (encoder.training or wants_gradients)
            with torch.autocast(x.device.type, enabled=False) if is_fast else nullcontext():
                features = encoder(inputs)
        return Encoded(features.float(), input_shape, tuple(x.shape[-2:]))

    def image_embeddings_oft(
        self, batched_inputs: Sequence[Mapping[str, Any]]
    ) -> tuple[torch.Tensor, list[dict[str, Any]]]:
        """Encode the images of inputs in Segment Anything's format.

        Args:
            batched_inputs: Mappings with "image" (3, H, W) in [0, 255].

        Returns:
            Embeddings (B, 256, h, w), and the inputs with "input_size" filled in.
        """
        encoded = [self.encode(item["image"][None].to(self._device)) for item in batched_inputs]
        inputs = [{**item, "input_size": e.input_shape} for item, e in zip(batched_inputs, encoded)]
        return torch.cat([e.features for e in encoded]), inputs

    def forward(
        self,
        batched_inputs: Sequence[Mapping[str, Any]],
        image_embeddings: torch.Tensor,
        multimask_output: bool = False,
    ) -> list[dict[str, torch.Tensor]]:
        """Predict the masks of prompts, image by image.

        Args:
            batched_inputs: As `ConvertToSamInputs` makes them: "original_size" and any of "point_coords" (n, k, 2) with
                "point_labels" (n, k), "boxes" (n, 4), "mask_inputs" (n, 1, 256, 256), in pixels of the frame.
            image_embeddings: (B, 256, h, w).
            multimask_output: Return three masks for a prompt instead of one.

        Returns:
            Mappings with "low_res_masks" (n, m, 4h, 4w), "masks" (n, m, H, W), both logits, and "iou_predictions" (n, m).
        """
        outputs = []
        for item, features in zip(batched_inputs, image_embeddings):
            coords, labels = prompt_tokens(item, features.device)
            previous = item.get("mask_inputs")
            previous = None if previous is None else previous[:, 0].to(features.device)
            logits, iou = self.decode(features.expand(len(coords), -1, -1, -1), coords, labels, previous)
            chosen = slice(1, None) if multimask_output else slice(0, 1)
            size = tuple(item["original_size"])
            input_size = item.get("input_size") or ResizeLongestSide.get_preprocess_shape(*size, self.image_size)
            masks = self.sam.postprocess_masks(logits[:, chosen], input_size, size)
            outputs.append({"low_res_masks": logits[:, chosen], "masks": masks, "iou_predictions": iou[:, chosen]})
        return outputs

    def decode(
        self, features: torch.Tensor, coords: torch.Tensor, labels: torch.Tensor, previous: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict masks of objects in any of the images.

        Args:
            features: (n, 256, h, w) the embedding of each object's image.
            coords: (n, k, 2) points and box corners, (x, y) in pixels of the frame.
            labels: (n, k) what they are: PAD, NEGATIVE, POSITIVE, TOP_LEFT or BOTTOM_RIGHT.
            previous: (n, 4h, 4w) logits of an earlier prediction.

        Returns:
            Mask logits (n, 4, 4h, 4w), the single mask first, and predicted IoUs (n, 4).
        """
        prompt, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        if torch.is_autocast_enabled(features.device.type):
            features = features.to(torch.get_autocast_dtype(features.device.type))
        if previous is None:
            dense = prompt.no_mask_embed.weight.reshape(1, -1, 1, 1)
        else:
            dense = prompt.mask_downscaling(previous[:, None])
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(coords), -1, -1), self._embed_points(coords, labels)], dim=1)
        positions = prompt.get_dense_pe().to(features.dtype).expand_as(features)
        hidden, image = decoder.transformer(features + dense.to(features.dtype), positions, tokens)
        upscaled = decoder.output_upscaling(image.transpose(1, 2).reshape(features.shape))
        weights = torch.stack([mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], 1)
        masks = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        return masks.float(), decoder.iou_prediction_head(hidden[:, 0]).float()

    @property
    def _device(self) -> torch.device:
        return next(self.sam.parameters()).device

    def _embed_points(self, coords: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(n, k, 2) frame coordinates and (n, k) labels -> (n, k, 256)."""
        encoder = self.sam.prompt_encoder
        with torch.autocast(coords.device.type, enabled=False):  # positions need the full precision
            encoded = encoder.pe_layer.forward_with_coords(coords.float() + 0.5, encoder.input_image_size)
        encoded = encoded * (labels != PAD)[..., None]
        table = torch.cat([encoder.not_a_point_embed.weight, *(e.weight for e in encoder.point_embeddings)])
        return encoded + table[labels + 1]


def prompt_tokens(item: Mapping[str, Any], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompts of one image as coordinates (n, k, 2) and labels (n, k); points without a box get one padding token."""
    coords, labels = [], []
    if item.get("point_coords") is not None:
        points = torch.as_tensor(item["point_coords"], device=device).float()
        coords.append(points)
        labels.append(torch.as_tensor(item["point_labels"], device=device).long())
        if item.get("boxes") is None:
            coords.append(points.new_zeros(len(points), 1, 2))
            labels.append(torch.full((len(points), 1), PAD, device=device))
    if item.get("boxes") is not None:
        corners = torch.as_tensor(item["boxes"], device=device).float().reshape(-1, 2, 2)
        coords.append(corners)
        labels.append(torch.tensor([[TOP_LEFT, BOTTOM_RIGHT]], device=device).expand(len(corners), -1))
    return torch.cat(coords, 1), torch.cat(labels, 1)


def _encode_in_pieces(encoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The encoder's forward pass, whose blocks keep only their inputs for the backward pass."""
    if isinstance(encoder, ImageEncoderViT):
        x = encoder.patch_embed(x)
        x = x if encoder.pos_embed is None else x + encoder.pos_embed
        for block in encoder.blocks:
            call = apply_block if isinstance(encoder, FastViT) and type(block) is Block else _call
            x = checkpoint(call, block, x, use_reentrant=False)
        return encoder.neck(x.permute(0, 3, 1, 2))
    if isinstance(encoder, TinyViT):
        x = encoder.patch_embed(x.contiguous(memory_format=torch.channels_last))
        for layer in encoder.layers:
            x = _tiny_stage(layer, x)
        return encoder.neck(x)
    return checkpoint(encoder, x, use_reentrant=False)


def _tiny_stage(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    tokens = isinstance(layer, AttentionStage)
    x = x.permute(0, 2, 3, 1) if tokens else x
    for block in layer.blocks:
        x = checkpoint(_call, block, x, use_reentrant=False)
    x = x.permute(0, 3, 1, 2) if tokens else x
    return x if layer.downsample is None else checkpoint(_call, layer.downsample, x, use_reentrant=False)


def _call(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return module(x)


def low_resolution(values: torch.Tensor, encoded: Encoded, side: int, mode: str = "area") -> torch.Tensor:
    """Bring maps (n, c, H, W) of the image to the resolution of mask logits (n, c, side, side), zero in the padding.

    Args:
        values: Maps at the image's resolution.
        encoded: The encoded image.
        side: Side of the mask logits.
        mode: "area" or "nearest-exact".
    """
    frame = max(encoded.input_shape)
    size = tuple(max(1, round(n * side / frame)) for n in encoded.input_shape)
    small = F.interpolate(values, size, mode=mode)
    return F.pad(small, (0, side - size[1], 0, side - size[0]))
