"""Tracking results in the format of the Cell Tracking Challenge: one label image per frame and a table of tracks.

Format: https://celltrackingchallenge.net (Maška et al., Nature Methods 2023). Results are ``mask000.tif``, ... and
``res_track.txt``; reference annotations are ``man_track000.tif``, ... and ``man_track.txt``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.errors import InputError, MissingInputError, OutputError, ParameterError, TrackError
from micro_sam.io.paths import check_folder_of, replacing
from micro_sam.io.track_tables import (
    Lineages,
    check_table,
    check_table_fits,
    frames_of_tracks,
    lineages_from_table,
    mothers_of,
    table_from_frames,
)

_KINDS = {"res": ("mask", "res_track.txt"), "man": ("man_track", "man_track.txt")}
_MASK = re.compile(r"(mask|man_track)(\d+)\.tiff?", re.IGNORECASE)


def write_ctc(folder: str | os.PathLike, labels: Any, lineages: Lineages, reference: bool = False) -> None:
    """Write tracks as a Cell Tracking Challenge folder; one that is there is replaced once the new one is complete.

    The format knows no gaps: a track that is missing in some frames gets a new label afterwards, whose mother is the
    label before.

    Args:
        folder: The folder to write.
        labels: Tracked labels, TYX or TZYX; array or lazy array. Written as uint16 where they fit, else uint32.
        lineages: The lineages, label -> labels of the daughters.
        reference: Name the files as reference annotations (``man_track``) instead of results (``mask``).

    Raises:
        TrackError: Labels and lineages do not fit each other.
        OutputError: It cannot be written, or the folder holds something else.
    """
    folder = Path(folder)
    check_ctc_folder(folder)
    if len(labels.shape) not in (3, 4) or not np.issubdtype(labels.dtype, np.integer):
        raise ParameterError(
            f"Tracked labels are integers TYX or TZYX, got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    n_frames = labels.shape[0]
    table, renamed = _without_gaps(frames_of_tracks(labels), lineages, n_frames)
    prefix, table_name = _KINDS["man" if reference else "res"]
    digits = max(3, len(str(n_frames - 1)))
    dtype = np.uint16 if table[:, 0].max(initial=0) <= np.iinfo(np.uint16).max else np.uint32
    with replacing(folder) as temporary:
        temporary.mkdir()
        for frame in range(n_frames):
            plane = _renamed(np.asarray(labels[frame]), renamed.get(frame, {}))
            _write_mask(temporary / f"{prefix}{frame:0{digits}d}.tif", plane.astype(dtype))
        np.savetxt(temporary / table_name, table, fmt="%d")


def read_ctc(folder: str | os.PathLike) -> tuple[np.ndarray, list[dict[int, list[int]]]]:
    """Read a Cell Tracking Challenge folder, of results or of reference annotations.

    Args:
        folder: The folder with the label images and the table (for annotations the folder ``TRA``).

    Returns:
        Tracked labels, TYX or TZYX, uint16 or uint32, and the lineages.

    Raises:
        MissingInputError: There is no such folder, or a file is missing in it.
        InputError: Files do not fit each other; the message says which and why.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingInputError(f"There is no folder '{folder}'; check the path.")
    for prefix, table_name in _KINDS.values():
        if (folder / table_name).is_file():
            break
    else:
        raise MissingInputError(
            f"'{folder}' holds neither res_track.txt nor man_track.txt; choose a folder with tracks."
        )
    labels = _read_masks(folder, prefix)
    try:
        table = check_table(_read_table(folder / table_name), len(labels))
        check_table_fits(table, labels)
    except TrackError as error:
        raise InputError(f"The tracks in '{folder}' cannot be used: {error}") from error
    return labels, lineages_from_table(table)


def check_ctc_folder(folder: str | os.PathLike) -> None:
    """Raise an `OutputError` if tracks cannot be written to a folder; nothing is written yet."""
    folder = Path(folder)
    check_folder_of(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            f"'{folder}' is a file, expected the name of a folder for tracks; choose another output path."
        )
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    tables = {table for _, table in _KINDS.values()}
    others = sorted(name for name in names if name not in tables and not _MASK.fullmatch(name))
    if others:
        raise OutputError(
            f"'{folder}' holds '{others[0]}', which is no tracking result, so it is not replaced; choose another."
        )


def _without_gaps(
    frames: dict[int, list[int]], lineages: Lineages, n_frames: int
) -> tuple[np.ndarray, dict[int, dict[int, int]]]:
    """A table without gaps, and for every frame the labels that are renamed for it: old -> new."""
    table_from_frames(frames, lineages, n_frames)  # refuses what does not fit
    mothers, last_piece = mothers_of(lineages), {}
    pieces: dict[int, list[int]] = {}
    links: dict[int, int] = {}
    renamed: dict[int, dict[int, int]] = {}
    new = max(frames, default=0)
    for label, seen in frames.items():
        current = label
        for run in np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1):
            if run[0] != seen[0]:
                new += 1
                links[new], current = current, new
                for frame in run.tolist():
                    renamed.setdefault(frame, {})[label] = new
            pieces[current] = run.tolist()
        last_piece[label] = current
    links |= {daughter: last_piece[mother] for daughter, mother in mothers.items()}
    rows = [(label, seen[0], seen[-1], links.get(label, 0)) for label, seen in pieces.items()]
    return check_table(np.array(rows, dtype=np.int64).reshape(-1, 4), n_frames), renamed


def _renamed(plane: np.ndarray, new_of: dict[int, int]) -> np.ndarray:
    if not new_of:
        return plane
    result = plane.astype(np.int64)
    for old, new in new_of.items():
        result[plane == old] = new
    return result


def _write_mask(path: Path, plane: np.ndarray) -> None:
    import tifffile

    axes = "YX" if plane.ndim == 2 else "ZYX"
    tifffile.imwrite(path, plane, compression="zlib", photometric="minisblack", metadata={"axes": axes})


def _read_masks(folder: Path, prefix: str) -> np.ndarray:
    import tifffile

    paths: dict[int, Path] = {}
    for path in folder.iterdir():
        match = _MASK.fullmatch(path.name)
        if match and match[1].lower() == prefix:
            if int(match[2]) in paths:
                raise InputError(f"'{path}' and '{paths[int(match[2])].name}' are the same frame; keep one of them.")
            paths[int(match[2])] = path
    if not paths:
        raise MissingInputError(
            f"'{folder}' holds no label images ({prefix}000.tif, ...); choose a folder with tracks."
        )
    missing = sorted(set(range(max(paths) + 1)) - set(paths))
    if missing:
        raise MissingInputError(f"'{folder}' lacks the label image of frame {missing[0]}; frames are numbered from 0.")
    planes = []
    for frame in range(len(paths)):
        try:
            plane = tifffile.imread(paths[frame])
        except Exception as error:  # what damaged files raise differs
            reason = " ".join(str(error).split())
            raise InputError(f"'{paths[frame]}' cannot be read as a TIFF file ({reason}).") from error
        if not np.issubdtype(plane.dtype, np.integer) or plane.ndim not in (2, 3):
            raise InputError(f"'{paths[frame]}' holds {plane.dtype} of shape {plane.shape}, expected a label image.")
        if planes and plane.shape != planes[0].shape:
            raise InputError(f"'{paths[frame]}' has the shape {plane.shape}, but frame 0 has {planes[0].shape}.")
        planes.append(plane)
    return np.stack(planes).astype(np.uint16 if max(p.max(initial=0) for p in planes) <= 65535 else np.uint32)


def _read_table(path: Path) -> np.ndarray:
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' cannot be read as text ({error}).") from error
    for number, line in enumerate(lines, start=1):
        entries = line.split()
        if not entries:
            continue
        try:
            row = [int(entry) for entry in entries]
        except ValueError:
            row = []
        if len(row) != 4:
            raise InputError(f"Line {number} of '{path}' is '{line.strip()}', expected four whole numbers: L B E P.")
        rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(-1, 4)
