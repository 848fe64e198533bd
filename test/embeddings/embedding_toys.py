"""A predictor with an encoder of one convolution, and writers of stores as micro-sam 1.x lays them out."""

from __future__ import annotations

import torch
import zarr
from segment_anything import SamPredictor
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer


class ToyEncoder(torch.nn.Module):
    """A single strided convolution from (B, 3, side, side) to (B, 256, 64, 64), with fixed weights."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.img_size = side
        self.convolution = torch.nn.Conv2d(3, 256, kernel_size=1, stride=side // 64)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        self.batch_sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batch_sizes.append(x.shape[0])
        return self.convolution(x)


def make_toy_predictor(
    model_hash: str | None = "xxh128:0123", name: str = "vit_t_toy", model_type: str = "vit_t", side: int = 64
) -> SamPredictor:
    """A SamPredictor around `ToyEncoder`, with the attributes by which embeddings know their model.

    By default its encoder sees images of 64 x 64 pixels, to be quick; with side=1024 prompts work as well.
    """
    sam = Sam(
        image_encoder=ToyEncoder(side),
        prompt_encoder=PromptEncoder(256, (64, 64), (side, side), 16),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=1, embedding_dim=256, mlp_dim=64, num_heads=8),
            transformer_dim=256,
        ),
    ).eval()
    predictor = SamPredictor(sam)
    predictor.model_type, predictor.model_name, predictor._hash = model_type, name, model_hash
    return predictor


def write_legacy_store(path, features, attributes: dict, zarr_format: int, tiled: dict | None = None) -> None:
    """Write a store exactly as micro-sam 1.x lays it out, with plain zarr.

    Args:
        path: The folder.
        features: An array of the 2d or 3d layout, or for tiled stores a dict from tile number to such arrays.
        attributes: The group's attributes, with input_size and original_size if the store is complete.
        zarr_format: 2 or 3.
        tiled: For tiled stores the attributes of the group ``features`` and, under "tiles", those of each tile.
    """
    group = zarr.create_group(path, zarr_format=zarr_format)

    def put(parent, name, array, **kwargs):
        one = (1, *array.shape[1:]) if array.ndim == 5 else array.shape
        parent.create_array(name, data=array, chunks=one, **kwargs)

    if tiled is None:
        put(group, "features", features)
    else:
        tiles = tiled.pop("tiles")
        parent = group.create_group("features", attributes=tiled)
        for name, array in features.items():
            put(parent, name, array, attributes=tiles[name])
    group.attrs.update(attributes)
