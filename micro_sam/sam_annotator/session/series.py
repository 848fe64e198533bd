"""A series of images that is annotated one after another: what is read for each, and what is kept of it."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from micro_sam.errors import ImageError, InputError, MicroSamError, OutputError, ParameterError
from micro_sam.io.paths import stem
from micro_sam.progress import Progress
from micro_sam.sam_annotator.session.image import AnnotatedImage, read_file
from micro_sam.sam_annotator.session.journal import LINES, Record, read_journal
from micro_sam.sam_annotator.session.recovery import journals_beside
from micro_sam.sam_annotator.session.saving import iter_save
from micro_sam.sam_annotator.session.series_items import LABELS_SUFFIX, SeriesItem, done_now, free_name, make_items
from micro_sam.sam_annotator.session.series_record import (
    Entry,
    SeriesRecord,
    State,
    check_writable,
    content_signature,
)

if TYPE_CHECKING:
    from micro_sam.io.resolution import Resolution
    from micro_sam.sam_annotator.session.prompts import Prompts

_LOCK_NAME = ".image_series.lock"


@dataclass(frozen=True, eq=False)
class Opened:
    """An image of a series, read, with what there is of earlier work on it.

    Attributes:
        index: Which image.
        array: It, numpy or lazy.
        image: The same as what is annotated.
        scale: The size of a pixel, None if it is not known.
        unit: Its unit.
        labels: Labels to begin with, or to put on top of what the journal says; None for none.
        labels_text: Where they come from.
        journal: The journal of earlier work.
        saved: Whether all of that work is in the labels on disk.
        crashed: Whether that work ended without being closed.
        notes: What a person should know, as sentences.
    """

    index: int
    array: Any
    image: AnnotatedImage
    scale: tuple[float, ...] | None = None
    unit: str | None = None
    labels: np.ndarray | None = None
    labels_text: str = ""
    journal: Path | None = None
    saved: bool = True
    crashed: bool = False
    notes: tuple[str, ...] = ()


class Series:
    """Images that are annotated one after another. What is done is written down in the output folder.

    Args:
        images: Files or arrays.
        output_folder: Where labels, journals and the record of what is done lie; made if it is not there.
        initial_segmentations: Labels that another tool made, one for each image (or None for one that has none).
        is_volumetric: Volumes instead of images.
        key: The data set inside the files (hdf5, zarr).
        initial_key: The same for initial segmentations.
        embedding_folder: Where embeddings are kept, ``<name>.zarr`` for each image; None for memory.

    Raises:
        InputError: There are no images, the record cannot be read, or another window has the series.
        OutputError: The output folder cannot be written to.
    """

    def __init__(
        self,
        images: Sequence[Any],
        output_folder: str | os.PathLike,
        initial_segmentations: Sequence[Any] | None = None,
        is_volumetric: bool = False,
        key: str | None = None,
        initial_key: str | None = None,
        embedding_folder: str | os.PathLike | None = None,
    ) -> None:
        self.folder, self.ndim = Path(output_folder).absolute(), 3 if is_volumetric else 2
        self.key, self.initial_key = key, initial_key
        self.embedding_folder = None if embedding_folder is None else Path(embedding_folder)
        check_writable(self.folder)
        if self.embedding_folder is not None and not self.embedding_folder.is_dir():
            check_writable(self.embedding_folder)
        self._lock = _locked(self.folder)
        try:
            self.record = SeriesRecord(self.folder)
            self.items = make_items(images, initial_segmentations, self.record, self.folder)
        except MicroSamError:
            self._lock.release()
            raise
        self.unreadable: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.items)

    # What is known

    def entry(self, index: int) -> Entry:
        """What is known about an image."""
        return self.record[self.items[index].name]

    def state(self, index: int) -> State:
        """Whether an image is "open", "done" or "skipped"."""
        return self.entry(index).state

    def count(self, state: State) -> int:
        """How many images are in a state."""
        return sum(self.state(k) == state for k in range(len(self)))

    def file_name(self, index: int) -> str:
        """What a person calls an image: the name of its file."""
        source = self.items[index].source
        return source.name if isinstance(source, Path) else self.items[index].name

    def labels_path(self, index: int) -> Path:
        """Where the labels of an image are saved."""
        return self.folder / self.entry(index).labels

    def journal_beside(self, index: int) -> Path:
        """What the journals of an image are kept beside."""
        return self.folder / "journals" / self.items[index].name

    def embedding_path(self, index: int) -> str | None:
        """Where the embeddings of an image are kept."""
        folder = self.embedding_folder
        return None if folder is None else str(folder / f"{self.items[index].name}.zarr")

    def first(self, only_open: bool) -> int:
        """The image to begin with: the first, or the first that is open if there is one."""
        return next((k for k in range(len(self)) if only_open and self.state(k) == "open"), 0)

    def after(self, index: int, only_open: bool, step: int = 1) -> int | None:
        """The next image that can be read; None at the end.

        Args:
            index: The image before it.
            only_open: Leave out those that are done or skipped.
            step: -1 to go backwards.
        """
        k = index + step
        while 0 <= k < len(self):
            if k not in self.unreadable and not (only_open and self.state(k) != "open"):
                return k
            k += step
        return None

    def note_opened(self, index: int) -> None:
        """Write down what an image is recognised by, if that was not done, so that its journal is found again.

        Raises:
            OutputError: It cannot be written down.
        """
        if self.entry(index).signature is None:
            self.mark(index, self.state(index))

    def mark(self, index: int, state: State) -> None:
        """Write down that an image is "open", "done" or "skipped".

        Raises:
            OutputError: It cannot be written down.
        """
        self.record.put(done_now(self.entry(index), self.items[index].source, state))

    # Reading

    def iter_open(self, index: int) -> Generator[Progress, None, Opened]:
        """Read an image and what there is of earlier work on it.

        Raises:
            InputError: The image cannot be read.
            ImageError: It is no image of this kind.
        """
        item = self.items[index]
        yield Progress(0, 0, f"Read {self.file_name(index)}")
        array, resolution = self._read(item)
        axes = "zyx"[-self.ndim :]
        scale = None if resolution is None else tuple(resolution.scale(axes))
        try:
            image = AnnotatedImage.from_array(array, self.ndim, item.name, scale)
        except ImageError as error:
            raise ImageError(f"'{self.file_name(index)}' cannot be annotated here: {error}") from error
        yield Progress(0, 0, f"Read earlier work on {self.file_name(index)}")
        journal, records = self._journal(index, image)
        labels, text, notes = self._labels(index, image.shape, records)
        saved = _is_saved(records)
        crashed = bool(records) and records[-1].do != "closed"
        unit = None if resolution is None else resolution.unit
        return Opened(index, array, image, scale, unit, labels, text, journal, saved, crashed, tuple(notes))

    def _read(self, item: SeriesItem) -> tuple[Any, Resolution | None]:
        if not isinstance(item.source, Path):
            return item.source, None
        from micro_sam.io.images import open_image

        file = open_image(item.source, self.key)
        return read_file(file), file.resolution

    def _journal(self, index: int, image: AnnotatedImage) -> tuple[Path | None, Sequence[Record]]:
        """The latest journal of an image in this series."""
        root = journals_beside(self.journal_beside(index))
        folders = sorted((f for f in root.iterdir() if (f / LINES).is_file()), reverse=True) if root.is_dir() else []
        for folder in folders:
            try:
                records = read_journal(folder)
            except MicroSamError:
                continue
            described = records[0].content["image"] if records else {}
            if described.get("fingerprint") == image.fingerprint and described["labels_shape"] == list(image.shape):
                return folder, records
        return None, ()

    def _labels(
        self, index: int, shape: tuple[int, ...], records: Sequence[Record]
    ) -> tuple[np.ndarray | None, str, list[str]]:
        """Labels to begin with: those on disk unless the journal knows them, else those of another tool."""
        path, entry, notes = self.labels_path(index), self.entry(index), []
        known = {record.content.get("signature") for record in records if record.do == "saved"} - {None}
        if path.exists():
            if content_signature(path) in known:
                return None, "", notes
            labels, problem = _read_labels(path, None, shape)
            if labels is not None:
                if entry.labels_signature is None:
                    notes.append(f"The output folder held labels of this name already: '{path.name}' was loaded.")
                elif entry.labels_signature != content_signature(path):
                    notes.append(f"'{path.name}' was changed by another program: its labels are shown.")
                return labels, f"Loaded {path.name}", notes
            self._give_way(index)
            notes.append(f"{problem} It stays as it is; labels go to '{self.entry(index).labels}'.")
        initial = self.items[index].initial
        if initial is None or records:
            return None, "", notes
        name = initial.name if isinstance(initial, Path) else f"initial segmentation {index}"
        labels, problem = _read_labels(initial, self.initial_key, shape)
        return labels, f"Loaded {name}", notes + ([problem] if problem else [])

    def read_labels(self, index: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """The labels of an image as they were saved last; None if there are none that fit."""
        path = self.labels_path(index)
        return _read_labels(path, None, shape)[0] if path.exists() else None

    def saved_note(self, index: int) -> dict[str, str | None]:
        """What the journal says when labels were saved."""
        return {"path": str(self.labels_path(index)), "signature": self.entry(index).labels_signature}

    def _give_way(self, index: int) -> None:
        """Save the labels of an image under another name: a file that does not belong to it has its own."""
        entry = self.entry(index)
        taken = {Path(e.labels).stem.casefold() for e in self.record.entries}
        taken |= {stem(path).casefold() for path in self.folder.glob(f"*{LABELS_SUFFIX}")}
        inputs = {item.source.resolve() for item in self.items if isinstance(item.source, Path)}
        name = free_name(stem(entry.labels), taken, inputs, self.folder)
        self.record.remember(entry.with_changes(labels=f"{name}{LABELS_SUFFIX}", labels_signature=None))

    # Saving

    def iter_save(
        self,
        index: int,
        labels: np.ndarray,
        origins: Mapping[int, Prompts],
        scale: Sequence[float],
        unit: str | None = None,
        journal: Path | None = None,
        state: State | None = None,
    ) -> Iterator[Progress]:
        """Save the labels of an image and write down what it is now; see `micro_sam.sam_annotator.session.saving`.

        Args:
            index: Which image.
            labels: Its labels.
            origins: For objects the prompts they were made with.
            scale: The size of a pixel.
            unit: Its unit.
            journal: Where it is written down how they were made.
            state: The state it gets; None to leave it.

        Raises:
            OutputError: They cannot be written.
        """
        path = self.labels_path(index)
        yield from iter_save(path, labels, origins, scale, unit, journal)
        entry = done_now(self.entry(index), self.items[index].source, state or self.state(index))
        count = len(np.unique(labels)) - bool((labels == 0).any())
        self.record.put(entry.with_changes(n_objects=count, labels_signature=content_signature(path)))

    def close(self) -> None:
        """Let others have the series."""
        self._lock.release()


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / _LOCK_NAME, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"The series in '{folder}' is open in another window; close that first, or choose another output folder."
        ) from None
    except OSError as error:
        raise OutputError(f"The output folder '{folder}' cannot be written to ({error.strerror}).") from error
    return lock


def _is_saved(records: Sequence[Record]) -> bool:
    """Whether everything that a journal says was saved in the series."""
    work = [record for record in records if record.do not in ("open", "layer", "load", "closed", "restored")]
    return not work or "signature" in work[-1].content


def _read_labels(source: Any, key: str | None, shape: tuple[int, ...]) -> tuple[np.ndarray | None, str]:
    """Labels of an image, or a sentence that says why they cannot be used."""
    name = f"'{source}'" if isinstance(source, Path) else "The initial segmentation"
    try:
        if isinstance(source, Path):
            from micro_sam.io.images import load_image_data

            source = load_image_data(source, key)
        labels = np.asarray(source)
        if labels.shape != shape:
            raise ParameterError(f"{name} has the shape {labels.shape}, but the image has {shape}; it is not used.")
        if labels.dtype.kind not in "uib":
            raise ParameterError(f"{name} holds {labels.dtype}, expected labels (whole numbers); it is not used.")
        if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
            raise ParameterError(f"{name} holds negative labels; it is not used.")
    except MicroSamError as error:
        return None, str(error)
    return labels.astype(np.uint32), ""
