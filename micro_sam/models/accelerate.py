"""Make a Segment Anything model, or an instance decoder, faster in place: same parameters, same names, same results."""

from __future__ import annotations

import logging

from segment_anything.modeling import Sam
from segment_anything.modeling.image_encoder import ImageEncoderViT
from torch import nn

from micro_sam.models.decoder import LightDecoder, UNETRDecoder
from micro_sam.models.fast_decoder import FastLightDecoder, FastUNETRDecoder
from micro_sam.models.fast_tiny_vit import FastTinyViT
from micro_sam.models.fast_vit import FastViT
from micro_sam.models.precision import resolve_precision
from micro_sam.models.tiny_vit import TinyViT

logger = logging.getLogger(__name__)


def accelerate_sam(sam: Sam, precision: str = "auto") -> Sam:
    """Put a faster image encoder in the place of the model's own one.

    The parameters are shared with the original encoder and keep their names in the state dict. The encoder goes on
    taking and returning float32. Loading other weights, moving the model, copying, pickling and training it work as
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
