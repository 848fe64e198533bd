"""Make a Segment Anything model, or an instance decoder, faster in place: same parameters, same names, same results."""

from __future__ import annotations

import logging

from segment_anything.modeling import MaskDecoder, Sam
from segment_anything.modeling.image_encoder import ImageEncoderViT
from torch import nn

from micro_sam.models.decoder import LightDecoder, UNETRDecoder
from micro_sam.models.fast_decoder import FastLightDecoder, FastUNETRDecoder
from micro_sam.models.fast_mask_decoder import FastMaskDecoder
from micro_sam.models.fast_tiny_vit import FastTinyViT
from micro_sam.models.fast_vit import FastViT
from micro_sam.models.precision import resolve_precision
from micro_sam.models.tiny_vit import TinyViT

logger = logging.getLogger(__name__)


def accelerate_sam(sam: Sam, precision: str = "auto") -> Sam:
    """Put a faster image encoder and mask decoder in the places of the model's own ones.

    The parameters are shared with the original parts and keep their names in the state dict. Both go on taking and
    returning float32; the precision is that of the encoder, the mask decoder computes in float32 and can be changed
    with `accelerate_mask_decoder`. Loading other weights, moving the model, copying, pickling and training it work as
    before. Encoders other than segment-anything's ViT and `TinyViT` stay as they are.

    Args:
        sam: The model, changed in place. An accelerated model only gets the new precision.
        precision: "auto", "float32" or "bfloat16", see `resolve_precision`.

    Returns:
        The same model.

    Raises:
        ParameterError: If the precision is not one of the three.
    """
    resolve_precision(precision, "cpu")
    encoder = sam.image_encoder
    if isinstance(encoder, (FastViT, FastTinyViT)):
        encoder.precision = precision
    elif type(encoder) is ImageEncoderViT:
        sam.image_encoder = FastViT(encoder, precision)
    elif type(encoder) is TinyViT:
        sam.image_encoder = FastTinyViT(encoder, precision)
    else:
        logger.warning("No fast form of the image encoder %s is known, it is used as it is.", type(encoder).__name__)
    return sam if isinstance(sam.mask_decoder, FastMaskDecoder) else accelerate_mask_decoder(sam)


def accelerate_mask_decoder(sam: Sam, precision: str = "float32") -> Sam:
    """Put a faster mask decoder in the place of the model's own one; see `accelerate_sam` for what stays.

    Float32 is the default: it gives the same masks, and the bfloat16 of the image tokens, which takes two thirds of the
    time, moves the outlines of uncertain masks.

    Args:
        sam: The model, changed in place. An accelerated decoder only gets the new precision.
        precision: "auto", "float32" or "bfloat16", see `resolve_precision`.

    Returns:
        The same model.

    Raises:
        ParameterError: If the precision is not one of the three.
    """
    resolve_precision(precision, "cpu")
    decoder = sam.mask_decoder
    if isinstance(decoder, FastMaskDecoder):
        decoder.precision = precision
    elif type(decoder) is MaskDecoder:
        sam.mask_decoder = FastMaskDecoder(decoder, precision)
    else:
        logger.warning("No fast form of the mask decoder %s is known, it is used as it is.", type(decoder).__name__)
    return sam


def accelerate_decoder(decoder: nn.Module, precision: str = "auto") -> nn.Module:
    """The faster form of an instance segmentation decoder, sharing its parameters.

    Args:
        decoder: A `UNETRDecoder` or `LightDecoder`; anything else is returned as it is. An accelerated decoder only
            gets the new precision.
        precision: "auto", "float32" or "bfloat16", see `resolve_precision`.

    Returns:
        The decoder to use from now on, called like the original one.

    Raises:
        ParameterError: If the precision is not one of the three.
    """
    resolve_precision(precision, "cpu")
    if isinstance(decoder, (FastUNETRDecoder, FastLightDecoder)):
        decoder.precision = precision
        return decoder
    if type(decoder) is UNETRDecoder:
        return FastUNETRDecoder(decoder, precision)
    if type(decoder) is LightDecoder:
        return FastLightDecoder(decoder, precision)
    logger.warning("No fast form of the decoder %s is known, it is used as it is.", type(decoder).__name__)
    return decoder
