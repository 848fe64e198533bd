"""Instance segmentation decoders: recognising, loading, and one way of calling all kinds of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn
from torch.nn import functional as F

from ..errors import CheckpointError
from .accelerate import accelerate_decoder
from .build_sam import IMAGE_SIZE, PIXEL_MEAN, PIXEL_STD
from .checkpoint import StateDict, check_names_and_shapes
from .decoder import LightDecoder, UNETRDecoder
from .device import get_device
from .predictor import SamPredictor, get_sam_model
from .spec import get_spec, model_names

Decoder = UNETRDecoder | LightDecoder


class DecoderAdapter(nn.Module):
    """Predicts foreground, centre distance and boundary distance from image embeddings. For inference only.

    Args:
        unetr: A decoder of this package, a network that `get_unetr` returned, or torch-em's ``UNETR`` with a SAM encoder
            (whose weights are copied).
    """

    def __init__(self, unetr: nn.Module) -> None:
        super().__init__()
        self.decoder = unetr if isinstance(unetr, UNETRDecoder | LightDecoder) else _from_torch_em(unetr)

    @property
    def device(self) -> torch.device:
        """The device the decoder computes on."""
        return next(self.decoder.parameters()).device

    @torch.no_grad()
    def forward(
        self, features: torch.Tensor, input_shape: Sequence[int], original_shape: Sequence[int]
    ) -> torch.Tensor:
        """Decode image embeddings.

        Args:
            features: (B, 256, 64, 64), float32.
            input_shape: (height, width) of the image after resizing its longest side, before padding.
            original_shape: (height, width) of the image.

        Returns:
            (B, 3, height, width), float32 in [0, 1]: foreground probability, distance to the object's centre, distance
            to its boundary.
        """
        features = torch.as_tensor(features, dtype=torch.float32, device=self.device)
        decode = getattr(self.decoder, "decode", self.decoder)
        return decode(features, tuple(input_shape), tuple(original_shape)).float()


class _WithEncoder:
    """Puts an image encoder in front of a decoder: images in, maps out. The encoder's parameters lie below ``encoder.``."""

    encoder: nn.Module

    def decode(self, features: torch.Tensor, input_shape: Sequence[int], original_shape: Sequence[int]) -> torch.Tensor:
        """Decode image embeddings, see `DecoderAdapter.forward`."""
        return super().forward(features, input_shape, original_shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict the maps of images.

        Args:
            x: Images (B, 3, H, W) with values in [0, 255].

        Returns:
            (B, out_channels, H, W).
        """
        inputs, input_shape = preprocess(x, self.encoder.img_size)
        return self.decode(self.encoder(inputs), input_shape, x.shape[-2:])


class UNETR(_WithEncoder, UNETRDecoder):
    """`UNETRDecoder` behind an image encoder; parameter names are those of torch-em's ``UNETR``."""

    def __init__(self, encoder: nn.Module, **kwargs: Any) -> None:
        super().__init__(image_size=encoder.img_size, **kwargs)
        self.encoder = encoder


class LightUNETR(_WithEncoder, LightDecoder):
    """`LightDecoder` behind an image encoder."""

    def __init__(self, encoder: nn.Module, **kwargs: Any) -> None:
        super().__init__(image_size=encoder.img_size, **kwargs)
        self.encoder = encoder


def preprocess(x: torch.Tensor, image_size: int = IMAGE_SIZE) -> tuple[torch.Tensor, tuple[int, int]]:
    """Resize the longest side, normalise and pad images (B, 3, H, W) with values in [0, 255].

    Returns:
        The input of the encoder (B, 3, image_size, image_size), and (height, width) before padding.
    """
    height, width = ResizeLongestSide.get_preprocess_shape(*x.shape[-2:], image_size)
    if x.shape[-2:] != (height, width):
        x = F.interpolate(x, (height, width), mode="bilinear", align_corners=False, antialias=True)
    x = (x - x.new_tensor(PIXEL_MEAN).view(-1, 1, 1)) / x.new_tensor(PIXEL_STD).view(-1, 1, 1)
    return F.pad(x, (0, image_size - width, 0, image_size - height)), (height, width)


def get_unetr(
    image_encoder: nn.Module,
    decoder_state: Mapping[str, torch.Tensor] | None = None,
    device: str | torch.device | None = None,
    out_channels: int = 3,
    flexible_load_checkpoint: bool = False,
    final_activation: str | None = "Sigmoid",
) -> nn.Module:
    """Build an instance segmentation network on an image encoder.

    Args:
        image_encoder: The image encoder of a SAM. It is shared, not copied.
        decoder_state: Weights of a decoder, which say which kind it is; the usual UNETR with initial weights if None.
        device: Where to put the network; the best device there is by default.
        out_channels: Number of output maps.
        flexible_load_checkpoint: Load the weights that fit in name and shape instead of refusing others.
        final_activation: "Sigmoid" or None.

    Returns:
        A network with the parts `encoder` and `decode`.

    Raises:
        CheckpointError: The decoder's weights fit no architecture known here.
    """
    device = get_device(device)
    options: dict[str, Any] = {"out_channels": out_channels, "final_activation": final_activation}
    if decoder_state is None:
        return UNETR(image_encoder, **options).to(device)
    kind, architecture = recognise_decoder(decoder_state)
    unetr = (LightUNETR if kind is LightDecoder else UNETR)(image_encoder, **architecture, **options)
    _load(unetr, decoder_state, flexible_load_checkpoint)
    return unetr.to(device)


def get_decoder(
    image_encoder: nn.Module,
    decoder_state: Mapping[str, torch.Tensor],
    device: str | torch.device | None = None,
    precision: str = "auto",
    accelerate: bool = True,
) -> DecoderAdapter:
    """Build the decoder for inference on embeddings of an image encoder.

    Args:
        image_encoder: The encoder, which gives the image size.
        decoder_state: Weights of a decoder, which say which kind it is.
        device: Where to compute; the best device there is by default.
        precision: "float32", "bfloat16", or "auto" for bfloat16 where the device computes it natively.
        accelerate: Replace parts of the network by faster ones with the same results.

    Raises:
        CheckpointError: The weights fit no architecture known here.
    """
    device = get_device(device)
    decoder: nn.Module = build_decoder(decoder_state, image_encoder.img_size).to(device)
    if accelerate:
        decoder = accelerate_decoder(decoder, precision)
    return DecoderAdapter(decoder)


def get_predictor_and_decoder(
    model_type: str,
    checkpoint_path: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    peft_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[SamPredictor, DecoderAdapter]:
    """Load a model with its instance segmentation decoder.

    Args:
        model_type: A registered model, or the encoder's name with `checkpoint_path`.
        checkpoint_path: A checkpoint with a decoder in it or beside it.
        device: Where to compute; the best device there is by default.
        peft_kwargs: See `get_sam_model`.
        kwargs: Further arguments of `get_sam_model`, such as `decoder_path` and `precision`.

    Raises:
        CheckpointError: The model has no decoder, or a file cannot be used.
    """
    device = get_device(device)
    predictor = get_sam_model(model_type, device, checkpoint_path, peft_kwargs=peft_kwargs, **kwargs)
    if predictor.decoder_state is None:
        others = ", ".join(name for name in model_names("bundled", "current") if get_spec(name).decoder)
        raise CheckpointError(
            f"The model {checkpoint_path or model_type} has no instance segmentation decoder: use automatic mask "
            f"generation (amg), give a decoder_path, or use one of the models with a decoder ({others})."
        )
    options = {key: kwargs[key] for key in ("precision", "accelerate") if key in kwargs}
    return predictor, get_decoder(predictor.model.image_encoder, predictor.decoder_state, device, **options)


def build_decoder(decoder_state: Mapping[str, torch.Tensor], image_size: int = IMAGE_SIZE) -> Decoder:
    """Build the decoder that weights belong to and load them; in evaluation mode, on the CPU.

    Raises:
        CheckpointError: The weights fit no architecture known here.
    """
    kind, architecture = recognise_decoder(decoder_state)
    out_channels = decoder_state["out_conv.weight"].shape[0]
    decoder = kind(**architecture, out_channels=out_channels, image_size=image_size)
    _load(decoder, decoder_state, flexible=False)
    return decoder.eval()


def recognise_decoder(state: Mapping[str, torch.Tensor]) -> tuple[type[Decoder], dict[str, Any]]:
    """The kind of decoder weights belong to, and the arguments to build it with.

    Raises:
        CheckpointError: They belong to no decoder known here.
    """
    if "out_conv.weight" not in state:
        raise CheckpointError(f"The decoder's weights have no out_conv, but {', '.join(list(state)[:3]) or 'nothing'}.")
    widths = _widths(state, "stages.{}.0.weight", start=0)
    if widths:
        return LightDecoder, {"widths": widths}
    widths = _widths(state, "deconv{}.block.1.block.weight", start=1)
    if widths:
        return UNETRDecoder, {"widths": widths, "conv_transpose": "decoder.samplers.0.block.weight" in state}
    if any(name.startswith("deconv2.0.") for name in state):
        raise CheckpointError(
            "The decoder was trained with skip connections to the encoder, which no published model has."
        )
    raise CheckpointError(f"The decoder has an unknown architecture with parameters like {', '.join(list(state)[:3])}.")


def _widths(state: Mapping[str, torch.Tensor], pattern: str, start: int) -> tuple[int, ...]:
    widths: list[int] = []
    while (name := pattern.format(start + len(widths))) in state:
        widths.append(state[name].shape[0])
    return tuple(widths)


def _load(decoder: nn.Module, state: Mapping[str, torch.Tensor], flexible: bool) -> None:
    """Load a decoder's weights; an encoder that is part of the network is left alone."""
    expected = {name: value for name, value in decoder.state_dict().items() if not name.startswith("encoder.")}
    if flexible:
        state = {k: v for k, v in state.items() if k in expected and v.shape == expected[k].shape}
    else:
        check_names_and_shapes(state, expected, "The decoder", type(decoder).__name__)
    decoder.load_state_dict(dict(state), strict=False)


def _from_torch_em(unetr: nn.Module) -> Decoder:
    state: StateDict = {k: v for k, v in unetr.state_dict().items() if not k.startswith("encoder.")}
    decoder = build_decoder(state, getattr(getattr(unetr, "encoder", None), "img_size", IMAGE_SIZE))
    if unetr.final_activation is None:
        decoder.final_activation = None
    return decoder.to(next(unetr.parameters()).device).train(unetr.training)
