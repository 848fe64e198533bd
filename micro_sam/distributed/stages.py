"""The stages of a distributed segmentation, each of which goes on where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.distributed.block_tasks import (
    LABELS,
    NUMBERS,
    SegmentationJob,
    load_links,
    match_block,
    segment_block,
    shrink_window,
    write_block,
)
from micro_sam.distributed.blocks import chunks_within
from micro_sam.distributed.journal import Journal
from micro_sam.distributed.stitching import number_objects
from micro_sam.distributed.tasks import iter_tasks
from micro_sam.io import Resolution, replacing
from micro_sam.io.label_pyramid import PyramidLevel, create_pyramid, finish_pyramid, plan_levels, windows
from micro_sam.progress import Progress

if TYPE_CHECKING:
    from dask.distributed import Client

logger = logging.getLogger(__name__)

#: Attributes of the result: what it was made from and with, and the number of its objects.
RUN = "micro_sam_run"
OBJECTS = "micro_sam_objects"
_CHUNKS = {2: (512, 512), 3: (16, 512, 512)}


class Stages:
    """The stages of one run, each of which goes on where it stopped."""

    def __init__(self, job: SegmentationJob, journal: Journal, client: Client, resolution: Resolution) -> None:
        self._job, self._journal, self._client, self._resolution = job, journal, client, resolution
        self._levels = tuple(plan_levels(job.grid.shape, resolution))

    def work(self) -> Generator[Progress, None, int]:
        """All stages; returns the number of objects."""
        job, blocks = self._job, range(len(self._job.grid))
        for folder in (job.block_file(0).parent, job.links_file(0).parent):
            folder.mkdir(exist_ok=True)
        self._forget_lost()
        yield from self._stage("segment", segment_block, blocks, lambda i: (job, i), "Segment blocks")
        counts = np.array([self._journal.done("segment")[i]["objects"] for i in blocks], dtype=np.int64)
        yield from self._stage("match", match_block, blocks, lambda i: (job, i, int(counts[i])), "Match blocks")
        yield Progress(0, 1, "Number objects")
        n_objects = self._number(counts)
        yield Progress(1, 1, "Number objects")
        first = np.cumsum(counts) - counts
        yield from self._stage(
            "write", write_block, blocks, lambda i: (job, i, int(first[i]), int(counts[i])), "Write labels"
        )
        yield from self._shrink()
        self._finish(n_objects)
        return n_objects

    def _forget_lost(self) -> None:
        """Do again what is noted as done but whose file is gone or cut short, and everything that was made from it."""
        job, journal = self._job, self._journal
        blocks = [i for i, facts in journal.done("segment").items() if _size(job.block_file(i)) != facts["bytes"]]
        for index in blocks:
            logger.warning("The labels of block %d are lost; it is segmented again.", index)
            journal.forget("segment", index)
        links = [i for i, facts in journal.done("match").items() if _size(job.links_file(i)) != facts["bytes"]]
        links += [i for i in journal.done("match") if {i, *job.grid.following(i)} & set(blocks)]
        for index in set(links):
            journal.forget("match", index)
        if blocks:
            for stage in ("number", "write", *(_level_stage(number) for number in range(1, len(self._levels)))):
                journal.forget(stage)

    def _stage(
        self,
        stage: str,
        function: Callable[..., Any],
        numbers: Iterable[int],
        arguments: Callable[[int], Any],
        text: str,
    ) -> Generator[Progress, None, None]:
        numbers, done = list(numbers), self._journal.done(stage)
        missing = [number for number in numbers if number not in done]
        finished = len(numbers) - len(missing)
        yield Progress(finished, len(numbers), text)
        work = ((number, arguments(number)) for number in missing)
        for number, facts in iter_tasks(self._client, function, work, "block"):
            self._journal.note(stage, number, facts)
            finished += 1
            yield Progress(finished, len(numbers), text)

    def _number(self, counts: np.ndarray) -> int:
        """Number all objects and make the empty arrays for the labels; returns how many there are."""
        done = self._journal.done("number")
        if 0 in done:
            return int(done[0]["objects"])
        links = (load_links(self._job, index) for index in range(len(counts)))
        min_size = int(dict(self._job.settings).get("min_size", 0))
        numbers, n_objects = number_objects(links, counts, min_size)
        with replacing(self._job.folder / NUMBERS) as temporary, temporary.open("wb") as file:
            np.save(file, numbers)
        chunks = chunks_within(self._job.grid.block_shape, _CHUNKS[len(self._job.grid.shape)])
        create_pyramid(self._job.folder / LABELS, self._levels, numbers.dtype, chunks)
        self._journal.note("number", 0, {"objects": n_objects})
        return n_objects

    def _shrink(self) -> Generator[Progress, None, None]:
        import zarr

        group = zarr.open_group(str(self._job.folder / LABELS), mode="r")
        for number, level in enumerate(self._levels[1:], start=1):
            block = tuple(by * n for by, n in zip((2, 4, 4)[-len(level.shape) :], group[level.name].chunks))
            parts = list(windows(level.shape, block))
            text = f"Write resolution {number} of {len(self._levels) - 1}"
            yield from self._stage(
                _level_stage(number),
                shrink_window,
                range(len(parts)),
                lambda i, number=number, parts=parts: (self._job, self._levels, number, parts[i]),
                text,
            )

    def _finish(self, n_objects: int) -> None:
        import zarr

        levels: tuple[PyramidLevel, ...] = self._levels
        group = zarr.open_group(str(self._job.folder / LABELS), mode="r+")
        attributes = {RUN: self._journal.parameters, OBJECTS: n_objects}
        finish_pyramid(group, levels, self._resolution, attributes)


def _level_stage(number: int) -> str:
    return f"level {number}"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
