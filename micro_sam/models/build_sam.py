"""Segment Anything networks for every encoder, without weights or with those of a checkpoint.

ViT encoders, prompt encoder and mask decoder are those of the segment-anything package (Kirillov et al., "Segment
Anything", ICCV 2023); ``vit_t`` is the TinyViT of MobileSAM. Parameter names and shapes are those of the published
checkpoints.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..errors import CheckpointError, ParameterError
from .checkpoint import check_names_and_shapes, read_checkpoint
from .tiny_vit import build_tiny_vit

logger = logging.getLogger(__name__)

IMAGE_SIZE = 1024
EMBED_DIM = 256
_PATCH = 16
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class _Vit(NamedTuple):
    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]


_VITS = {
    "vit_b": _Vit(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": _Vit(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": _Vit(1280, 32, 16, (7, 15, 23, 31)),
}


def build_sam(
    encoder: str,
    checkpoint: str | os.PathLike | None = None,
    num_multimask_outputs: int = 3,
    image_size: int = IMAGE_SIZE,
) -> Sam:
    """Build a Segment Anything network in evaluation mode.

    Args:
        encoder: "vit_t", "vit_b", "vit_l" or "vit_h".
        checkpoint: A file with weights of that encoder; initial weights if not given.
        num_multimask_outputs: How many masks the decoder proposes for an ambiguous prompt.
        image_size: Side in pixels of the square image the encoder takes, a multiple of 16. Weights for another side
            are adapted: their position embeddings are interpolated.

    Raises:
        CheckpointError: The checkpoint cannot be read or belongs to another network.
    """
    if checkpoint is None:
        return _architecture(encoder, num_multimask_outputs, image_size)
    content = read_checkpoint(checkpoint)
    if content.encoder != encoder:
        raise CheckpointError(f"{checkpoint} holds a {content.encoder} encoder, expected {encoder}.")
    sam = build_empty_sam(encoder, num_multimask_outputs, image_size)
    load_weights(sam, content.model_state, source=checkpoint)
    return sam


def build_sam_vit_h(
    checkpoint: str | os.PathLike | None = None, num_multimask_outputs: int = 3, image_size: int = IMAGE_SIZE
) -> Sam:
    """Build the SAM with the ViT-H encoder, see `build_sam`."""
    return build_sam("vit_h", checkpoint, num_multimask_outputs, image_size)


def build_sam_vit_l(
    checkpoint: str | os.PathLike | None = None, num_multimask_outputs: int = 3, image_size: int = IMAGE_SIZE
) -> Sam:
    """Build the SAM with the ViT-L encoder, see `build_sam`."""
    return build_sam("vit_l", checkpoint, num_multimask_outputs, image_size)


def build_sam_vit_b(
    checkpoint: str | os.PathLike | None = None, num_multimask_outputs: int = 3, image_size: int = IMAGE_SIZE
) -> Sam:
    """Build the SAM with the ViT-B encoder, see `build_sam`."""
    return build_sam("vit_b", checkpoint, num_multimask_outputs, image_size)


def build_sam_vit_t(
    checkpoint: str | os.PathLike | None = None, num_multimask_outputs: int = 3, image_size: int = IMAGE_SIZE
) -> Sam:
    """Build the SAM with MobileSAM's TinyViT encoder, see `build_sam`."""
    return build_sam("vit_t", checkpoint, num_multimask_outputs, image_size)


sam_model_registry: Mapping[str, Callable[..., Sam]] = {
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
    "vit_t": build_sam_vit_t,
}


def build_empty_sam(encoder: str, num_multimask_outputs: int = 3, image_size: int = IMAGE_SIZE) -> Sam:
    """Build a network whose parameters are not initialised, for loading all of them; several times faster."""
    with _NoInitialisation():
        return _architecture(encoder, num_multimask_outputs, image_size)


def parameter_shapes(encoder: str, num_multimask_outputs: int = 3, image_size: int = IMAGE_SIZE) -> dict[str, Any]:
    """Name -> tensor without memory (on the meta device) of every parameter and buffer in a checkpoint."""
    with torch.device("meta"):
        return _architecture(encoder, num_multimask_outputs, image_size).state_dict()


def load_weights(sam: nn.Module, state: Mapping[str, torch.Tensor], source: Any, flexible: bool = False) -> None:
    """Load weights into a SAM.

    Args:
        sam: The network.
        state: Weights under the original names, of any floating point type.
        source: Where they come from, for messages.
        flexible: Load what fits in name and shape and leave the rest as it is, instead of refusing.

    Raises:
        CheckpointError: Names or shapes differ, and not `flexible`.
    """
    expected = sam.state_dict()
    state = resize_positions(state, expected)
    if flexible:
        fitting = {k: v for k, v in state.items() if k in expected and v.shape == expected[k].shape}
        left_out = len(set(expected) | set(state)) - len(fitting)
        if left_out:
            logger.warning("%s: %d of its parameters fit and are loaded, %d do not", source, len(fitting), left_out)
        state = fitting
    else:
        check_names_and_shapes(state, expected, source, _kind(sam))
    sam.load_state_dict(state, strict=not flexible)


def resize_positions(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Interpolate absolute and relative position embeddings of a ViT that was trained for another image size.

    Args:
        state: Weights under the original names.
        expected: The network's own, which give the sizes.
    """
    state = dict(state)
    for name, target in expected.items():
        value = state.get(name)
        if value is None or value.shape == target.shape or value.ndim != target.ndim:
            continue
        if name.endswith("image_encoder.pos_embed") and value.shape[-1] == target.shape[-1]:
            grid = value.float().permute(0, 3, 1, 2)
            grid = F.interpolate(grid, target.shape[1:3], mode="bicubic", align_corners=False, antialias=False)
            state[name] = grid.permute(0, 2, 3, 1)
        elif name.endswith(("rel_pos_h", "rel_pos_w")) and value.shape[-1] == target.shape[-1]:
            line = F.interpolate(value.float().T[None], target.shape[0], mode="linear", align_corners=False)
            state[name] = line[0].T
    return state


def _kind(sam: nn.Module) -> str:
    encoder = getattr(sam, "image_encoder", None)
    width = encoder.pos_embed.shape[-1] if getattr(encoder, "pos_embed", None) is not None else None
    return next((name for name, vit in _VITS.items() if vit.width == width), "vit_t")


def _architecture(encoder: str, num_multimask_outputs: int, image_size: int) -> Sam:
    if image_size <= 0 or image_size % _PATCH:
        raise ParameterError(f"image_size is a multiple of {_PATCH}, got {image_size}.")
    if encoder == "vit_t":
        image_encoder: nn.Module = build_tiny_vit(image_size)
    elif encoder in _VITS:
        image_encoder = _vit(_VITS[encoder], image_size)
    else:
        raise ParameterError(f"The encoder is one of vit_t, {', '.join(_VITS)}, got {encoder!r}.")
    grid = image_size // _PATCH
    prompt_encoder = PromptEncoder(EMBED_DIM, (grid, grid), (image_size, image_size), mask_in_chans=16)
    mask_decoder = MaskDecoder(
        transformer_dim=EMBED_DIM,
        transformer=TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, num_heads=8, mlp_dim=2048),
        num_multimask_outputs=num_multimask_outputs,
    )
    return Sam(image_encoder, prompt_encoder, mask_decoder, list(PIXEL_MEAN), list(PIXEL_STD)).eval()


def _vit(config: _Vit, image_size: int) -> ImageEncoderViT:
    return ImageEncoderViT(
        img_size=image_size,
        patch_size=_PATCH,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        out_chans=EMBED_DIM,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=config.global_blocks,
    )


_RANDOM_FILLS = {
    torch.Tensor.uniform_,
    torch.Tensor.normal_,
    torch.Tensor.erfinv_,
    torch.Tensor.clamp_,
    nn.init.uniform_,
    nn.init.normal_,
    nn.init.kaiming_uniform_,
    nn.init.kaiming_normal_,
}


class _NoInitialisation(TorchFunctionMode):
    """Makes the random in-place fills, with which modules initialise themselves, return at once."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _RANDOM_FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
