"""Which files go in, what the files that come out are called, and writing them so that none is ever half there."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from micro_sam.errors import InputError, MissingInputError, OutputError

_DOUBLE_SUFFIXES = (".ome.tif", ".ome.tiff", ".ome.zarr")


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """Sort key that puts ``img_2`` before ``img_10``."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts if part]


def stem(path: str | os.PathLike) -> str:
    """The file name without its suffix; ``cells.ome.tif`` gives ``cells``."""
    name = Path(path).name
    for suffix in _DOUBLE_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem or name


def expand_inputs(inputs: Sequence[str | os.PathLike], pattern: str | None = None) -> list[Path]:
    """The files named by a mixture of files and folders.

    Args:
        inputs: Files, or with a pattern also folders.
        pattern: Which files of a folder to take, for example ``*.tif`` or ``**/*.png``.

    Returns:
        The paths, the files of a folder in natural order (``img_2`` before ``img_10``).

    Raises:
        MissingInputError: If a path does not exist or a folder holds no file of that pattern.
        InputError: If a file is named twice, or a pattern is given although no folder is.
    """
    paths: list[Path] = []
    for path in map(Path, inputs):
        if not path.exists():
            raise MissingInputError(f"There is no file or folder '{path}'; check the path.")
        paths.extend(_matches(path, pattern) if pattern is not None and _is_plain_folder(path) else [path])
    if pattern is not None and not any(map(_is_plain_folder, map(Path, inputs))):
        raise InputError(
            f"A pattern ('{pattern}') selects files in a folder, but '{inputs[0]}' is a file; leave it out."
        )
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise InputError(f"'{path}' is named twice; name every input once.")
        seen.add(path.resolve())
    return paths


def _matches(folder: Path, pattern: str) -> list[Path]:
    try:
        found = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"'{pattern}' is not a file pattern ({error}); expected something like '*.tif'.") from error
    found = [path for path in found if not _is_plain_folder(path)]
    if not found:
        raise MissingInputError(f"No file in '{folder}' matches '{pattern}'; check the pattern.")
    return sorted(found, key=natural_order)


def _is_plain_folder(path: Path) -> bool:
    from micro_sam.io.formats import is_zarr

    return path.is_dir() and not is_zarr(path)


def unique_names(paths: Sequence[Path]) -> list[str]:
    """One name without suffix per path, all different even where files share their stem.

    ``a.png`` and ``a.tif`` give ``a_png`` and ``a_tif``; ``x/a.tif`` and ``y/a.tif`` give ``x_a`` and ``y_a``.
    Names are compared without regard to case, as some file systems do.
    """
    names = [stem(path) for path in paths]
    refinements = (_with_suffix, _with_parent, _with_parent_and_suffix)
    for refine in refinements:
        clashing = _clashing(names)
        if not clashing:
            return names
        refined = [refine(path) if i in clashing else names[i] for i, path in enumerate(paths)]
        if not _clashing(refined) or refine is refinements[-1]:
            names = refined
    return _numbered(names)


def _with_suffix(path: Path) -> str:
    return path.name.replace(".", "_")


def _with_parent(path: Path) -> str:
    return f"{path.absolute().parent.name}_{stem(path)}"


def _with_parent_and_suffix(path: Path) -> str:
    return f"{path.absolute().parent.name}_{_with_suffix(path)}"


def _clashing(names: Sequence[str]) -> set[int]:
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(name.casefold(), []).append(i)
    return {i for same in places.values() if len(same) > 1 for i in same}


def _numbered(names: Sequence[str]) -> list[str]:
    taken, result = set(), []
    for name in names:
        candidate, number = name, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate.casefold())
        result.append(candidate)
    return result


def check_folder_of(path: str | os.PathLike) -> None:
    """Raise an `OutputError` if the folder that ``path`` would be written to is missing or cannot be written to."""
    folder = Path(path).absolute().parent
    if not folder.exists():
        raise OutputError(f"The output folder '{folder}' does not exist; create it first or choose another one.")
    if not folder.is_dir():
        raise OutputError(
            f"'{folder}' is a file, expected the folder to write '{Path(path).name}' to; choose another one."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"The output folder '{folder}' cannot be written to; change its permissions or choose another."
        )


def check_overwrites_no_input(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise an `OutputError` if a result would be written over one of the inputs."""
    sources = {path.resolve() for path in inputs}
    for output in outputs:
        if output.resolve() in sources:
            raise OutputError(f"The result would overwrite its own input '{output}'; choose another output path.")


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the same folder; what was written there takes the place of ``path`` at the end.

    If the body raises, ``path`` stays as it was and the temporary file or folder is removed.

    Raises:
        OutputError: If the result cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _move_into_place(temporary, path)
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"'{path}' could not be written ({reason}); check the disk and the permissions.") from error
    finally:
        _remove(temporary)


def _move_into_place(temporary: Path, path: Path) -> None:
    if temporary.is_dir() and path.exists():
        # A folder cannot replace a folder in one step: the old one steps aside and comes back if the move fails.
        aside = path.with_name(f"{temporary.name}.old")
        path.rename(aside)
        try:
            temporary.rename(path)
        except OSError:
            aside.rename(path)
            raise
        _remove(aside)
    else:
        os.replace(temporary, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
