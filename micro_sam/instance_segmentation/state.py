"""Keep the state of automatic segmentation beside the embeddings, in HDF5 and without pickle.

``is_state.h5`` holds the decoder's predictions, in the layout of micro-sam 1.x: a group ``state``, or ``state-<i>`` for
slice i, with the datasets ``foreground``, ``boundary_distances`` and ``center_distances``. ``amg_state.h5`` holds the
candidates of automatic mask generation: the same groups, each with one group per crop or tile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from micro_sam.errors import ParameterError, StoreDamagedError

_FILES = {"ais": "is_state.h5", "apg": "is_state.h5", "amg": "amg_state.h5"}
_MAPS = ("foreground", "boundary_distances", "center_distances")
_UNFINISHED = "unfinished-"


def state_path(folder: str | os.PathLike, mode: str) -> Path:
    """The file in the embeddings' folder that holds states of a mode ("amg", "ais" or "apg")."""
    if mode not in _FILES:
        raise ParameterError(f"There are states of the modes {', '.join(_FILES)}, got {mode!r}.")
    return Path(folder) / _FILES[mode]


def has_state(folder: str | os.PathLike, mode: str, i: int | None = None) -> bool:
    """Whether a complete state is there.

    Raises:
        StoreDamagedError: The file cannot be read.
    """
    path = state_path(folder, mode)
    if not path.is_file():
        return False
    with _opened(path, "r") as file:
        group = file.get(_group_name(i))
        return group is not None and (mode == "amg" or all(name in group for name in _MAPS))


def save_state(folder: str | os.PathLike, state: Mapping[str, Any], mode: str, i: int | None = None) -> None:
    """Write a state; an existing one is replaced.

    Args:
        folder: The embeddings' folder; it is made if it does not exist.
        state: From a segmenter's ``get_state``. References to embeddings are left out, they have their own store.
        mode: "amg", "ais" or "apg".
        i: The slice, for volumes and time series.

    Raises:
        StoreDamagedError: The file cannot be written.
    """
    path = state_path(folder, mode)
    name, unfinished = _group_name(i), _UNFINISHED + _group_name(i)
    if mode != "amg":
        state = {key: state[key] for key in _MAPS}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreDamagedError(f"Cannot make the folder {path.parent} for the state: {error}.") from error
    with _opened(path, "a") as file:
        for old in (unfinished, name):
            if old in file:
                del file[old]
        _write(file.create_group(unfinished), state)
        file.move(unfinished, name)


def load_state(folder: str | os.PathLike, mode: str, i: int | None = None) -> dict[str, Any]:
    """Read a state, for a segmenter's ``set_state``.

    Raises:
        ParameterError: There is none.
        StoreDamagedError: The file cannot be read.
    """
    path = state_path(folder, mode)
    if not has_state(folder, mode, i):
        raise ParameterError(f"{path} holds no complete {_group_name(i)!r}: compute it first.")
    with _opened(path, "r") as file:
        return _read(file[_group_name(i)])


def _group_name(i: int | None) -> str:
    return "state" if i is None else f"state-{int(i)}"


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, mode) as file:
            yield file
    except (OSError, RuntimeError) as error:
        remedy = "delete it to compute the state again" if path.exists() else "check the folder"
        raise StoreDamagedError(f"Cannot {'read' if mode == 'r' else 'write'} {path} ({error}): {remedy}.") from error


def _write(group: h5py.Group, state: Mapping[str, Any]) -> None:
    for key, value in state.items():
        if isinstance(value, Mapping):
            _write(group.create_group(key), value)
        elif isinstance(value, (str, int, float)):
            group.attrs[key] = value
        else:
            array = np.asarray(value)
            options = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if array.size > 1024 else {}
            group.create_dataset(key, data=array, **options)


def _read(group: h5py.Group) -> dict[str, Any]:
    state: dict[str, Any] = dict(group.attrs.items())
    for key, value in group.items():
        state[key] = _read(value) if isinstance(value, h5py.Group) else value[()]
    return state
