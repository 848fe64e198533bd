"""Segment Anything for semantic segmentation of volumes: the encoder's blocks look at neighbouring slices.

After Chen et al., "MA-SAM: Modality-agnostic SAM adaptation for 3D medical image segmentation" (2024), as MedicoSAM (Archit
et al., 2025) uses it: slices go through the image encoder together, small adapters before each block mix them along the
depth, and the mask decoder predicts a map for each class in every slice.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import nn

from ..errors import ImageError
from .decoder_adapter import preprocess
from .peft_blocks import transformer_blocks
from .predictor import get_sam_model


def get_sam_3d_model(
    device: str | torch.device,
    n_classes: int,
    image_size: int,
    lora_rank: int | None = None,
    freeze_encoder: bool = False,
    model_type: str = "vit_b",
    checkpoint_path: str | os.PathLike | None = None,
) -> Sam3DWrapper:
    """Build a network that segments volumes into classes, with the weights of a Segment Anything model.

    Args:
        device: Where to put it.
        n_classes: Number of classes with background.
        image_size: Side of the square the slices are scaled to, a multiple of 16.
        lora_rank: Rank of updates of the encoder's attention; None trains the encoder itself.
        freeze_encoder: Train neither the encoder nor updates of it, the adapters only.
        model_type: A registered model with a ViT encoder.
        checkpoint_path: A model file of your own.
    """
    return Sam3DWrapper(
        load_for_volumes(device, n_classes, image_size, lora_rank, model_type, checkpoint_path),
        freeze_encoder,
        model_type,
    ).to(device)


def load_for_volumes(
    device: str | torch.device,
    n_classes: int,
    image_size: int,
    lora_rank: int | None,
    model_type: str,
    checkpoint_path: str | os.PathLike | None,
) -> Sam:
    """A SAM with an output for each class; weights that belong to another number of outputs begin anew."""
    peft: dict[str, Any] | None = None if lora_rank is None else {"rank": lora_rank}
    _, sam = get_sam_model(
        model_type, device, checkpoint_path, return_sam=True, peft_kwargs=peft, flexible_load_checkpoint=True,
        accelerate=False, num_multimask_outputs=n_classes, image_size=image_size,
    )  # fmt: skip
    return sam


class Sam3DWrapper(nn.Module):
    """Predicts classes of volumes.

    Args:
        sam_model: A SAM with a ViT encoder and a mask output for each class; changed in place.
        freeze_encoder: Do not train the encoder, only its adapters.
        model_type: The encoder, for messages.
    """

    def __init__(self, sam_model: Sam, freeze_encoder: bool, model_type: str = "vit_b") -> None:
        super().__init__()
        if freeze_encoder:
            sam_model.image_encoder.requires_grad_(False)
        blocks = transformer_blocks(sam_model.image_encoder)
        heads, dim = blocks[0].attn.num_heads, blocks[0].attn.qkv.in_features
        sam_model.image_encoder = ImageEncoderViT3DWrapper(sam_model.image_encoder, heads, dim)
        self.sam, self.freeze_encoder, self.model_type = sam_model, freeze_encoder, model_type

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Segment volumes.

        Args:
            x: (B, 1 or 3, D, H, W) with values in [0, 255].

        Returns:
            "masks": logits (B, n_classes, D, H, W).
        """
        slices, (batch, depth) = to_slices(x)
        inputs, input_shape = preprocess(slices, self.sam.image_encoder.img_size)
        features = self.sam.image_encoder(inputs, depth)
        prompt, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(slices), -1, -1)
        dense = prompt.no_mask_embed.weight.reshape(1, -1, 1, 1)
        positions = prompt.get_dense_pe().to(features.dtype).expand_as(features)
        hidden, image = decoder.transformer(features + dense, positions, own)
        upscaled = decoder.output_upscaling(image.transpose(1, 2).reshape(features.shape))
        weights = torch.stack([mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], 1)
        maps = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])[:, 1:].float()
        masks = self.sam.postprocess_masks(maps, input_shape, tuple(slices.shape[-2:]))
        return {"masks": masks.unflatten(0, (batch, depth)).movedim(1, 2)}


class ImageEncoderViT3DWrapper(nn.Module):
    """A ViT encoder whose blocks see the slices of a volume together.

    Args:
        image_encoder: The encoder; its parts are shared.
        num_heads: Heads of its attention.
        embed_dim: Its channels.
    """

    def __init__(self, image_encoder: nn.Module, num_heads: int = 12, embed_dim: int = 768) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.img_size = image_encoder.img_size
        channels = max(8, embed_dim // 2)
        self.image_encoder.blocks = nn.ModuleList(
            NDBlockWrapper(block, embed_dim, num_heads, adapter_channels=channels) for block in image_encoder.blocks
        )

    def forward(self, x: torch.Tensor, depth: int) -> torch.Tensor:
        """Encode the slices (B * D, 3, S, S) of volumes of D slices to (B * D, 256, S / 16, S / 16)."""
        encoder = self.image_encoder
        x = encoder.patch_embed(x)
        x = x if encoder.pos_embed is None else x + encoder.pos_embed
        for block in encoder.blocks:
            x = block(x, depth)
        return encoder.neck(x.permute(0, 3, 1, 2))


class NDBlockWrapper(nn.Module):
    """A transformer block behind an adapter that mixes neighbouring slices; the adapter adds nothing to begin with.

    Args:
        block: The block.
        dim: Its channels.
        num_heads: Heads of its attention.
        norm_layer: Makes the norm before the adapter.
        adapter_channels: Channels in the adapter.
    """

    def __init__(
        self,
        block: nn.Module,
        dim: int,
        num_heads: int,
        norm_layer: type[nn.Module] = nn.LayerNorm,
        adapter_channels: int = 384,
    ) -> None:
        super().__init__()
        self.block, self.num_heads = block, num_heads
        self.adapter_norm = norm_layer(dim)
        self.adapter_down = nn.Linear(dim, adapter_channels)
        self.adapter_conv = nn.Conv3d(
            adapter_channels, adapter_channels, (3, 1, 1), padding=(1, 0, 0), groups=adapter_channels
        )
        self.adapter_up = nn.Linear(adapter_channels, dim)
        nn.init.zeros_(self.adapter_up.weight)
        nn.init.zeros_(self.adapter_up.bias)

    def forward(self, x: torch.Tensor, depth: int) -> torch.Tensor:
        """(B * D, H, W, C) -> the same shape."""
        y = self.adapter_down(self.adapter_norm(x)).unflatten(0, (-1, depth))
        y = nn.functional.gelu(self.adapter_conv(y.permute(0, 4, 1, 2, 3)))
        return self.block(x + self.adapter_up(y.permute(0, 2, 3, 4, 1).flatten(0, 1)))


def to_slices(x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """Volumes (B, 1 or 3, D, H, W) as slices (B * D, 3, H, W) float32, and (B, D).

    Raises:
        ImageError: They have another shape.
    """
    if x.ndim != 5 or x.shape[1] not in (1, 3):
        raise ImageError(f"Expected volumes (B, 1 or 3, D, H, W), got {tuple(x.shape)}.")
    batch, _, depth, height, width = x.shape
    return x.expand(-1, 3, -1, -1, -1).movedim(2, 1).reshape(-1, 3, height, width).float(), (batch, depth)
