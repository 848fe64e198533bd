"""The images of a series: which there are, what each is called, and which labels another tool made for it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.embeddings.source import MAX_CHANNELS
from micro_sam.errors import InputError, MicroSamError, MissingInputError, ParameterError
from micro_sam.io.paths import expand_inputs, stem, unique_names
from micro_sam.sam_annotator.session.image import AnnotatedImage
from micro_sam.sam_annotator.session.series_record import (
    RECORD_NAME,
    Entry,
    SeriesRecord,
    content_signature,
    stamp_of,
)

if TYPE_CHECKING:
    from micro_sam.sam_annotator.session.series_record import State

LABELS_SUFFIX = ".tif"


@dataclass(frozen=True, eq=False)
class SeriesItem:
    """An image of a series.

    Attributes:
        source: Its file, or the array.
        name: What it is called, different from all others.
        initial: Labels that another tool made for it: a file, an array, or None.
    """

    source: Path | Any
    name: str
    initial: Path | Any | None = None


def find_images(folder: str | os.PathLike, pattern: str, leave_out: str | os.PathLike | None = None) -> list[Path]:
    """The images of a folder in natural order.

    Args:
        folder: Where.
        pattern: Which, for example ``*.tif`` or ``**/*.png``.
        leave_out: A folder inside it that holds results.

    Raises:
        MissingInputError: There are none.
        ParameterError: Results would lie among the images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingInputError(f"There is no folder '{folder}'; check the path.")
    results = None if leave_out is None else Path(leave_out).resolve()
    if results == folder.resolve():
        raise ParameterError(f"The output folder is the input folder '{folder}'; choose another one, such as labels/.")
    found = [path for path in expand_inputs([folder], pattern) if path.name != RECORD_NAME]
    if results is not None:
        found = [path for path in found if results not in path.resolve().parents]
    if not found:
        raise MissingInputError(f"No file in '{folder}' matches '{pattern}'; check the pattern.")
    return found


def match_initial(images: Sequence[Path], segmentations: Sequence[Path]) -> list[Path | None]:
    """Which labels belong to which image: those with the image's name, or a longer one (``a_masks.tif`` for ``a.png``).

    Where no name fits and there are as many of both, they belong together in their order.

    Raises:
        InputError: Some labels fit no image, or several fit one.
    """
    stems = {stem(path): k for k, path in enumerate(images)}
    found: dict[int, Path] = {}
    left: list[Path] = []
    for path in segmentations:
        name = _longest_beginning(stem(path), stems) if len(stems) == len(images) else None
        if name is None:
            left.append(path)
        elif stems[name] in found:
            raise InputError(f"'{found[stems[name]]}' and '{path}' both belong to '{name}'; choose one by the pattern.")
        else:
            found[stems[name]] = path
    if left and not found and len(left) == len(images):
        return list(left)
    if left:
        raise InputError(f"'{left[0]}' belongs to no image: there is none of that name; choose others by the pattern.")
    return [found.get(k) for k in range(len(images))]


def _longest_beginning(name: str, stems: dict[str, int]) -> str | None:
    fitting = [s for s in stems if name == s or (name.startswith(s) and re.match(r"[^0-9A-Za-z]", name[len(s) :]))]
    return max(fitting, key=len, default=None)


def make_items(
    images: Sequence[Any], initial: Sequence[Any] | None, record: SeriesRecord, output_folder: Path
) -> list[SeriesItem]:
    """Give every image the name that it has in the record, or a new one, and note new ones in the record.

    Args:
        images: Paths or arrays.
        initial: Labels for each of them, or None.
        record: What is known.
        output_folder: Where labels will lie.

    Raises:
        InputError: There are no images, or not as many labels as images.
    """
    if len(images) == 0:
        raise InputError("There is no image to annotate; give at least one.")
    if initial is not None and len(initial) != len(images):
        raise InputError(f"There are {len(images)} images but {len(initial)} initial segmentations; give one for each.")
    sources = [_as_source(image) for image in images]
    _refuse_twice([source for source in sources if isinstance(source, Path)])
    entries = _known(sources, record)
    taken = {name.casefold() for entry in record.entries for name in (entry.name, Path(entry.labels).stem)}
    inputs = {source.resolve() for source in sources if isinstance(source, Path)}
    for k, name in enumerate(_wanted_names(sources)):
        if entries[k] is None:
            entries[k] = _new_entry(sources[k], free_name(name, taken, inputs, output_folder))
            taken.add(entries[k].name.casefold())
        record.remember(entries[k])
    given = [None] * len(sources) if initial is None else list(initial)
    return [SeriesItem(s, e.name, None if i is None else _as_source(i)) for s, e, i in zip(sources, entries, given)]


def _refuse_twice(paths: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for path in paths:
        if path.absolute() in seen:
            raise InputError(f"'{path}' is named twice; name every image once.")
        seen.add(path.absolute())


def _as_source(value: Any) -> Any:
    """A path, or something that is an array."""
    if isinstance(value, str | os.PathLike):
        return Path(value)
    return value if hasattr(value, "shape") and hasattr(value, "dtype") else np.asarray(value)


def _wanted_names(sources: Sequence[Any]) -> list[str]:
    return unique_names([s if isinstance(s, Path) else Path(f"image_{k:05d}") for k, s in enumerate(sources)])


def free_name(name: str, taken: set[str], inputs: set[Path], output_folder: Path) -> str:
    """A name like ``name`` that no other image has and whose labels would not be written over an image."""
    candidate, number = name, 1
    while candidate.casefold() in taken or (output_folder / f"{candidate}{LABELS_SUFFIX}").resolve() in inputs:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _new_entry(source: Any, name: str) -> Entry:
    path = str(source.absolute()) if isinstance(source, Path) else None
    return Entry(name, f"{name}{LABELS_SUFFIX}", path)


def _known(sources: Sequence[Any], record: SeriesRecord) -> list[Entry | None]:
    """For each image the entry of the record that belongs to it."""
    left = {entry.name: entry for entry in record.entries}
    by_path = {entry.path: entry for entry in record.entries if entry.path is not None}
    found: list[Entry | None] = [None] * len(sources)
    for k, source in enumerate(sources):
        entry = by_path.get(str(source.absolute())) if isinstance(source, Path) else None
        if entry is not None and left.pop(entry.name, None) is not None:
            found[k] = _checked(source, entry)
    if any(entry.signature is not None for entry in left.values()):
        for k, source in enumerate(sources):
            if found[k] is None:
                found[k] = _moved(source, left)
    return found


def _checked(path: Path, entry: Entry) -> Entry:
    """The entry of an image; if its content changed since it was annotated, it is open again. Its labels stay."""
    stamp = stamp_of(path)
    if entry.signature is None or (stamp is not None and stamp == entry.stamp):
        return entry
    signature = _signature(path)
    if signature is None or signature == entry.signature:
        return replace(entry, stamp=stamp)
    return entry.with_changes(signature=signature, stamp=stamp, state="open")


def _moved(source: Any, left: dict[str, Entry]) -> Entry | None:
    """The entry of an image that lay elsewhere: of the same content, and of the same name if several are."""
    signature = _signature(source)
    same = [entry for entry in left.values() if signature is not None and entry.signature == signature]
    path = source if isinstance(source, Path) else None
    named = [e for e in same if path is not None and e.path is not None and Path(e.path).name == path.name]
    chosen = (named or (same if path is None or len(same) == 1 else []))[:1]
    if not chosen or (chosen[0].path is None) != (path is None) or _is_copy(chosen[0], path):
        return None
    left.pop(chosen[0].name)
    return chosen[0] if path is None else replace(chosen[0], path=str(path.absolute()), stamp=stamp_of(path))


def _is_copy(entry: Entry, path: Path | None) -> bool:
    """Whether the file of an entry is still where it was, so that one of the same content is another one."""
    return path is not None and entry.path is not None and Path(entry.path).exists()


def _signature(source: Any) -> str | None:
    try:
        return source_signature(source)
    except MicroSamError:
        return None


def source_signature(source: Any) -> str:
    """A hash of the content of an image: of the bytes of a file, or of the values of an array.

    Raises:
        InputError: It cannot be read.
        ImageError: It is no image.
    """
    if isinstance(source, Path):
        return content_signature(source)
    shape = source.shape
    ndim = 2 if len(shape) == 2 or (len(shape) == 3 and shape[-1] <= MAX_CHANNELS) else 3
    return AnnotatedImage.from_array(source, ndim).fingerprint


def done_now(entry: Entry, source: Any, state: State) -> Entry:
    """An entry in a new state, with what its image is recognised by."""
    stamp = stamp_of(source) if isinstance(source, Path) else None
    fresh = entry.signature is None or stamp is None or stamp != entry.stamp
    signature = _signature(source) if fresh else entry.signature
    return entry.with_changes(state=state, signature=signature, stamp=stamp)
