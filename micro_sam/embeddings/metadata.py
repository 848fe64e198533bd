"""What an embedding store belongs to, which items it holds, and how two stores differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

from micro_sam.embeddings.preprocessing import NormalizationRange
from micro_sam.embeddings.tiling import Tiling
from micro_sam.errors import ParameterError

NormalizationMode = Literal["minmax", "robust"]
StoreDtype = Literal["float32", "float16"]

FEATURE_SHAPE = (256, 64, 64)
ENCODER_SIDE = 1024


class Item(NamedTuple):
    """One unit of work and of storage: the embedding of a plane or of a tile.

    Attributes:
        i: The slice or frame; None for an image.
        tile_id: The tile's number; None without tiling.
    """

    i: int | None = None
    tile_id: int | None = None

    def __str__(self) -> str:
        parts = [] if self.i is None else [f"slice {self.i}"]
        parts += [] if self.tile_id is None else [f"tile {self.tile_id}"]
        return ", ".join(parts) or "image"


class Difference(NamedTuple):
    """One field in which a store is not what was asked for."""

    field: str
    stored: Any
    requested: Any

    def __str__(self) -> str:
        if self.field == "tiles_in_mask":
            return "mask (the store holds other tiles)"
        return f"{self.field} (stored {self.stored!r}, requested {self.requested!r})"


@dataclass(frozen=True)
class Normalization:
    """How intensities were brought to 8 bit; see `micro_sam.embeddings.preprocessing`.

    Attributes:
        mode: "minmax" or "robust".
        range: The shared range, for "robust" only.
    """

    mode: NormalizationMode = "minmax"
    range: NormalizationRange | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.mode not in ("minmax", "robust"):
            raise ParameterError(f"Expected normalization to be 'minmax' or 'robust', got {self.mode!r}.")


@dataclass(frozen=True)
class StoreMetadata:
    """Everything that decides what an embedding store contains.

    Attributes:
        shape: The (height, width) of the image or of a slice.
        n_slices: The number of slices or frames, None for an image.
        tile_shape: The tiles' (height, width) without halo, None without tiling.
        halo: The tiles' halo (y, x), None without tiling.
        tiles_in_mask: With a mask, the numbers of the tiles in it, one tuple per slice (one in all for an image).
        data_signature: sha1 of the input's bytes, None where it was not computed (in memory).
        model_type: The encoder ("vit_b").
        model_name: The registry name ("vit_b_lm").
        model_hash: The checkpoint's hash.
        normalization: How contrast was made; stores of micro-sam 1.x use "minmax".
        dtype: The data type on disk.
        version: The micro_sam version that wrote the store.
    """

    shape: tuple[int, int]
    n_slices: int | None = None
    tile_shape: tuple[int, int] | None = None
    halo: tuple[int, int] | None = None
    tiles_in_mask: tuple[tuple[int, ...], ...] | None = None
    data_signature: str | None = None
    model_type: str | None = None
    model_name: str | None = None
    model_hash: str | None = None
    normalization: Normalization = Normalization()
    dtype: StoreDtype = "float32"
    version: str | None = None

    def __post_init__(self) -> None:
        if (self.tile_shape is None) != (self.halo is None):
            raise ParameterError(
                f"Expected tile_shape and halo together or neither, got {self.tile_shape} and {self.halo}."
            )
        if self.dtype not in ("float32", "float16"):
            raise ParameterError(f"Expected the data type on disk to be 'float32' or 'float16', got {self.dtype!r}.")
        if self.is_tiled:
            object.__setattr__(self, "tile_shape", self.tiling.tile_shape)
            object.__setattr__(self, "halo", self.tiling.halo)

    @property
    def ndim(self) -> int:
        """2 for an image, 3 for a volume or time series."""
        return 2 if self.n_slices is None else 3

    @property
    def is_tiled(self) -> bool:
        """Whether each plane is cut into tiles."""
        return self.tile_shape is not None

    @cached_property
    def tiling(self) -> Tiling:
        """The tiles of a plane; only for tiled stores."""
        return Tiling(self.shape, self.tile_shape, self.halo)

    @property
    def record_shape(self) -> tuple[int, int]:
        """The (slices, tiles) grid over which items are recorded as complete."""
        return self.n_slices or 1, self.tiling.n_tiles if self.is_tiled else 1

    def tiles_of_slice(self, i: int | None) -> tuple[int | None, ...]:
        """The tile numbers stored for a slice: all, those in the mask, or (None,) without tiling."""
        if not self.is_tiled:
            return (None,)
        return tuple(range(self.tiling.n_tiles)) if self.tiles_in_mask is None else self.tiles_in_mask[i or 0]

    def items(self) -> Iterator[Item]:
        """All items of the store, slice by slice, tiles in C order."""
        for i in (None,) if self.n_slices is None else range(self.n_slices):
            yield from (Item(i, tile_id) for tile_id in self.tiles_of_slice(i))

    @cached_property
    def n_items(self) -> int:
        """How many items the store holds when it is complete."""
        if self.tiles_in_mask is not None:
            return sum(map(len, self.tiles_in_mask))
        return self.record_shape[0] * self.record_shape[1]

    def original_size(self, tile_id: int | None = None) -> tuple[int, int]:
        """The (height, width) in pixels of what the encoder saw for an item, before resizing."""
        return self.shape if tile_id is None else self.tiling.tile(tile_id).shape

    def input_size(self, tile_id: int | None = None) -> tuple[int, int]:
        """The (height, width) of an item after resizing its long side to 1024, before padding."""
        height, width = self.original_size(tile_id)
        scale = ENCODER_SIDE * 1.0 / max(height, width)
        return int(height * scale + 0.5), int(width * scale + 0.5)

    def signature(self) -> dict[str, Any]:
        """The attributes that every embedding store carries in its group."""
        return {
            "data_signature": self.data_signature,
            "tile_shape": None if self.tile_shape is None else list(self.tile_shape),
            "halo": None if self.halo is None else list(self.halo),
            "model_type": self.model_type,
            "model_name": self.model_name,
            "model_hash": self.model_hash,
            "micro_sam_version": self.version,
        }

    def differences(self, requested: StoreMetadata, known: frozenset[str] | None = None) -> list[Difference]:
        """In which identifying fields this (stored) metadata differs from what is requested.

        The version and the data type on disk do not identify. With equal checkpoint hashes the model's name does not
        either: the same weights can go by two names.

        Args:
            requested: What the caller wants.
            known: The fields that the store states at all; early 1.x stores lack some. None for all.
        """
        names = ["data_signature", "shape", "n_slices", "tile_shape", "halo", "tiles_in_mask"]
        names += ["model_type", "model_name", "model_hash", "normalization"]
        if self.model_hash is not None and self.model_hash == requested.model_hash:
            names.remove("model_name")
        names = [name for name in names if known is None or name in known]
        found = [Difference(name, getattr(self, name), getattr(requested, name)) for name in names]
        found = [difference for difference in found if difference.stored != difference.requested]
        return [_by_mode(difference) for difference in found]

    def replace(self, **changes: Any) -> StoreMetadata:
        """A copy with some fields changed."""
        return replace(self, **changes)


def _by_mode(difference: Difference) -> Difference:
    """Show a difference of normalisation by its mode."""
    if difference.field != "normalization":
        return difference
    return Difference("normalization", difference.stored.mode, difference.requested.mode)


def as_pair(values: Any) -> tuple[int, int] | None:
    """A (y, x) pair from an attribute, or None."""
    return None if values is None else (int(values[-2]), int(values[-1]))


def mask_to_attribute(metadata: StoreMetadata) -> Any:
    """`tiles_in_mask` as it lies on disk: a list for an image, a mapping from slice (as string) to list for a volume."""
    tiles = metadata.tiles_in_mask
    if tiles is None:
        return None
    return list(tiles[0]) if metadata.ndim == 2 else {str(i): list(ids) for i, ids in enumerate(tiles)}


def mask_from_attribute(attribute: Any, n_slices: int | None) -> tuple[tuple[int, ...], ...] | None:
    """The inverse of `mask_to_attribute`; slices that are not mentioned hold no tiles."""
    if attribute is None:
        return None
    if isinstance(attribute, Mapping):
        return tuple(tuple(sorted(map(int, attribute.get(str(i), ())))) for i in range(n_slices or 1))
    return (tuple(sorted(map(int, attribute))),)
