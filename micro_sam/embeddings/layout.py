"""The layout of an embedding store in a zarr group: attributes to `StoreMetadata` and back.

The layout is that of micro-sam 1.x. On top of it, stores written here have the attribute ``embedding_store`` (what the
1.x layout does not say) and the array ``item_checksums``: one number per item, 0 until the item is complete. Readers
of 1.x stores look for ``input_size`` in the group's attributes, which is set when every item is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr

from micro_sam.embeddings.failures import damaged
from micro_sam.embeddings.lock import LOCK_NAME
from micro_sam.embeddings.metadata import Normalization, StoreMetadata, as_pair, mask_from_attribute, mask_to_attribute
from micro_sam.embeddings.preprocessing import NormalizationRange
from micro_sam.errors import StoreDamagedError, StoreError

FEATURES = "features"
RECORD = "item_checksums"
OWN = "embedding_store"
_LAYOUT_VERSION = 1
_GROUP_FILES = ("zarr.json", ".zgroup")
_HARMLESS = {LOCK_NAME, "is_state.h5", "amg_state.h5"}


def root_attributes(metadata: StoreMetadata, plain: bool = True) -> dict[str, Any]:
    """The attributes a new store's group is made with; ``input_size`` and ``original_size`` follow at the end.

    Args:
        metadata: What the store belongs to.
        plain: Whether the arrays are made here: one uncompressed chunk per item.
    """
    range_ = metadata.normalization.range
    own = {
        "layout_version": _LAYOUT_VERSION,
        "plain": plain,
        "version": metadata.version,
        "shape": list(metadata.shape),
        "n_slices": metadata.n_slices,
        "dtype": metadata.dtype,
        "normalization": metadata.normalization.mode,
        "normalization_range": None if range_ is None else [range_.low, range_.high],
    }
    return {**metadata.signature(), OWN: own}


def tiled_attributes(metadata: StoreMetadata) -> dict[str, Any]:
    """The attributes of the group ``features`` of a tiled store."""
    attributes = {key: list(getattr(metadata, key)) for key in ("shape", "tile_shape", "halo")}
    mask = mask_to_attribute(metadata)
    return attributes if mask is None else {**attributes, "tiles_in_mask": mask}


def size_attributes(metadata: StoreMetadata) -> dict[str, Any]:
    """The group's ``input_size`` and ``original_size``: null for tiled stores."""
    if metadata.is_tiled:
        return {"input_size": None, "original_size": None}
    return {"input_size": list(metadata.input_size()), "original_size": list(metadata.original_size())}


def looks_like_group(path: Path) -> bool:
    """Whether there is a zarr group in a folder."""
    return any((path / name).is_file() for name in _GROUP_FILES)


def check_place(path: Path) -> None:
    """Refuse a path where an embedding store must not be made.

    Raises:
        StoreError: If it is a file, or a folder with other things in it.
    """
    if path.is_dir() and not looks_like_group(path):
        others = sorted(entry.name for entry in path.iterdir() if not _is_harmless(entry.name))
        if others:
            raise StoreError(
                f"Expected '{path}' to be empty or an embedding store, but it holds '{others[0]}'; give another path."
            )
    elif path.exists() and not path.is_dir():
        raise StoreError(f"Expected '{path}' to be a folder for embeddings, but it is a file; give another path.")


def _is_harmless(name: str) -> bool:
    return name in _HARMLESS or name.endswith(".partial")


def open_group(path: Path, mode: str) -> zarr.Group | None:
    """Open the group of an embedding store; None if there is nothing yet, not even attributes.

    Raises:
        StoreError: If the group is something else than an embedding store.
        StoreDamagedError: If its metadata is unreadable.
    """
    if not looks_like_group(path):
        return None
    try:
        group = zarr.open_group(path, mode=mode)
        attributes = group.attrs.asdict()
    except PermissionError as error:
        raise StoreDamagedError(f"'{path}' could not be read ({error.strerror}); change its permissions.") from error
    except Exception as error:  # zarr answers truncated metadata with many kinds of errors
        raise _unreadable_group(path, error) from error
    if "data_signature" in attributes:
        return group
    others = [entry.name for entry in path.iterdir() if entry.is_dir()]
    if attributes or others:
        raise StoreError(f"The zarr group '{path}' is not an embedding store; give another path.")
    return None


def _unreadable_group(path: Path, error: Exception) -> StoreError:
    files = [file for file in (path / name for name in (*_GROUP_FILES, ".zattrs")) if file.is_file()]
    broken = [file for file in files if not _is_json(file)]
    if not broken:
        return StoreError(
            f"Expected a zarr group of embeddings at '{path}', got something else ({error}); give another path."
        )
    names = ", ".join(f"'{file}'" for file in broken)
    return StoreDamagedError(
        f"The description of the embedding store in {names} is damaged, so that all of it must be computed again:"
        f" delete '{path}' and run again."
    )


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_bytes())
    except ValueError:
        return False
    return True


def open_features(group: zarr.Group, path: Path) -> zarr.Group | zarr.Array | None:
    """The node ``features`` of a store, None if it was not made yet."""
    try:
        return group[FEATURES]
    except KeyError:
        return None
    except Exception as error:
        raise damaged(f"The description of '{path / FEATURES}'", [path / FEATURES]) from error


def read_metadata(group: zarr.Group, path: Path) -> tuple[StoreMetadata, frozenset[str]]:
    """The metadata of a store, written here or by micro-sam 1.x, and the names of the fields it states.

    A store that 1.x has begun may not even state the image's size: then ``shape`` is not among the names.

    Raises:
        StoreDamagedError: If what is there contradicts itself.
    """
    attributes = group.attrs.asdict()
    features = open_features(group, path)
    own = attributes.get(OWN)
    try:
        known = frozenset(key for key in attributes if key != "micro_sam_version")
        shape, n_slices = (own["shape"], own["n_slices"]) if own else _shape_of_legacy(attributes, features, path)
        mask = features.attrs.get("tiles_in_mask") if isinstance(features, zarr.Group) else None
        metadata = StoreMetadata(
            shape=as_pair(shape) or (1, 1),
            n_slices=n_slices,
            tile_shape=as_pair(attributes.get("tile_shape")),
            halo=as_pair(attributes.get("halo")),
            tiles_in_mask=mask_from_attribute(mask, n_slices),
            normalization=_normalization(own),
            dtype=own["dtype"] if own else "float32",
            version=attributes.get("micro_sam_version"),
            **{key: attributes.get(key) for key in ("data_signature", "model_type", "model_name", "model_hash")},
        )
    except StoreError:
        raise
    except Exception as error:
        raise StoreDamagedError(
            f"The description of the embedding store '{path}' contradicts itself; delete '{path}' and run again."
        ) from error
    stated = {"normalization": True, "shape": shape, "n_slices": shape, "tiles_in_mask": features is not None}
    return metadata, known | {name for name, is_stated in stated.items() if is_stated}


def _normalization(own: Mapping[str, Any] | None) -> Normalization:
    if own is None:
        return Normalization("minmax")
    range_ = own.get("normalization_range")
    return Normalization(own["normalization"], None if range_ is None else NormalizationRange(*range_))


def _shape_of_legacy(attributes: Mapping[str, Any], features: Any, path: Path) -> tuple[Any, int | None]:
    """The (height, width) and number of slices of a store that micro-sam 1.x wrote; (None, None) if it says nothing."""
    if isinstance(features, zarr.Array) and attributes.get("original_size"):
        return attributes["original_size"], features.shape[0] if features.ndim == 5 else None
    if isinstance(features, zarr.Group) and "shape" in features.attrs:
        first = next((features[folder.name] for folder in (path / FEATURES).iterdir() if folder.is_dir()), None)
        mask = features.attrs.get("tiles_in_mask")
        if first is not None:
            return features.attrs["shape"], first.shape[0] if first.ndim == 5 else None
        if mask is not None:
            return features.attrs["shape"], 1 + max(map(int, mask), default=0) if isinstance(mask, Mapping) else None
    return None, None
