"""Automatic segmentation of an image or volume of any size over a Dask cluster, block by block and resumable."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micro_sam.distributed.block_tasks import LABELS, SegmentationJob
from micro_sam.distributed.blocks import BlockGrid
from micro_sam.distributed.cluster import Cluster, connect, require_distributed
from micro_sam.distributed.journal import Journal, check_same_run
from micro_sam.distributed.model import ModelSource
from micro_sam.distributed.source import BlockSource
from micro_sam.distributed.stages import OBJECTS, RUN, Stages
from micro_sam.errors import OutputError, ParameterError
from micro_sam.io import Resolution
from micro_sam.io.labels import check_labels_path
from micro_sam.progress import Progress, drain

if TYPE_CHECKING:
    from dask.distributed import Client

logger = logging.getLogger(__name__)

#: Blocks and halos by the number of dimensions: a plane with its halo is what the encoder sees without scaling.
BLOCK_SHAPE = {2: (768, 768), 3: (32, 768, 768)}
HALO = {2: (128, 128), 3: (4, 128, 128)}

Work = Generator[Progress, None, "Segmented"]


@dataclass(frozen=True)
class Segmented:
    """The result of a distributed segmentation.

    Attributes:
        path: The OME-Zarr with the labels.
        n_objects: How many objects there are; their labels are 1 to this number.
    """

    path: Path
    n_objects: int


def distributed_segmentation(
    input_: str | os.PathLike | Any,
    output_path: str | os.PathLike,
    model: ModelSource | str | None = None,
    cluster: Cluster | Client | None = None,
    *,
    verbose: bool = True,
    **options: Any,
) -> Segmented:
    """Segment an image or volume over a Dask cluster; see `iter_distributed_segmentation` for all arguments."""
    return drain(iter_distributed_segmentation(input_, output_path, model, cluster, **options), verbose)


def iter_distributed_segmentation(
    input_: str | os.PathLike | Any,
    output_path: str | os.PathLike,
    model: ModelSource | str | None = None,
    cluster: Cluster | Client | None = None,
    *,
    key: str | None = None,
    ndim: int | None = None,
    block_shape: tuple[int, ...] | None = None,
    halo: tuple[int, ...] | None = None,
    mode: str | None = None,
    normalization: str = "robust",
    least_iou: float = 0.3,
    batch_size: int = 1,
    **settings: Any,
) -> Work:
    """`distributed_segmentation` as a generator of `Progress`.

    Blocks are segmented with a halo and kept in ``<output>.unfinished`` beside the output. Objects that two blocks both
    see where they overlap are matched, all objects are numbered, and the labels are written, block by block, to an
    OME-Zarr that takes the output's name when it is complete. After an interruption the same call goes on.

    Args:
        input_: A file or zarr folder that all workers see (see `load_image_data`), or a lazy zarr or dask array.
        output_path: Where to write the labels, ``.zarr``; all workers must see this folder, too.
        model: The model, by default the registered default.
        cluster: Where to compute; by default one worker on this machine. A client of your own is left open.
        key: The data set inside the file, or the level of a pyramid.
        ndim: 2 or 3; by default inferred from the shape.
        block_shape: Size of the blocks, YX or ZYX, by default 768 x 768 and 32 slices.
        halo: How far blocks reach into their neighbours, by default 128 x 128 and 4 slices. It should be as large as
            the objects.
        mode: "amg", "ais" or "apg", by default what the model can do.
        normalization: "robust" for one contrast in all blocks, "minmax" to stretch each block by itself.
        least_iou: How well the objects of two blocks must agree where both see them to be one object.
        batch_size: Slices or tiles of a block encoded at the same time.
        **settings: Parameters of the segmentation, as for `automatic_instance_segmentation`.

    Returns:
        Where the labels are and how many objects there are.

    Raises:
        InputError: The input cannot be read.
        ImageError: It is neither an image nor a volume, or is empty.
        ParameterError: A parameter does not fit.
        OutputError: The output exists and is another one, or cannot be written.
        MissingDependencyError: ``dask.distributed`` is not installed.
        ClusterError: The cluster does not answer, or its workers die again and again.
    """
    require_distributed()
    output = _checked_output(output_path)
    source = BlockSource.of(input_, key, ndim)
    model = model if isinstance(model, ModelSource) else ModelSource(*([] if model is None else [model]))
    grid = _grid(source, block_shape, halo)
    if not 0 < least_iou <= 1:
        raise ParameterError(f"least_iou is larger than 0 and at most 1, got {least_iou!r}.")
    facts = model.facts()
    model = model.checked(facts)
    run = {
        "input": source.facts(),
        "model": facts,
        "block_shape": grid.block_shape,
        "halo": grid.halo,
        "mode": mode,
        "normalization": normalization,
        "least_iou": least_iou,
        "settings": settings,
    }
    journal = Journal(output.with_name(f"{output.name}.unfinished"), run)
    finished = _finished(output, journal)
    if finished is not None:
        return finished
    with journal.opened():
        job = _job(
            source, model, grid, journal.folder, mode, normalization, least_iou, {**settings, "batch_size": batch_size}
        )
        with connect(Cluster() if cluster is None else cluster) as client:
            n_objects = yield from Stages(job, journal, client, source.resolution or Resolution({})).work()
        (journal.folder / LABELS).rename(output)
    shutil.rmtree(journal.folder, ignore_errors=True)
    return Segmented(output, n_objects)


def _job(
    source: BlockSource,
    model: ModelSource,
    grid: BlockGrid,
    folder: Path,
    mode: str | None,
    normalization: str,
    least_iou: float,
    settings: Mapping[str, Any],
) -> SegmentationJob:
    from micro_sam.automatic_segmentation import init_parameters

    init = tuple(sorted((name, value) for name, value in settings.items() if name in init_parameters()))
    others = tuple(sorted((name, value) for name, value in settings.items() if name not in init_parameters()))
    contrast = source.normalization(normalization)
    return SegmentationJob(source, model, grid, folder.absolute(), mode, contrast, init, others, least_iou)


def _checked_output(path: str | os.PathLike) -> Path:
    output = Path(path)
    if output.suffix.lower() != ".zarr":
        raise OutputError(f"Labels of several workers are written as .zarr, but the output is '{output}'; rename it.")
    check_labels_path(output)
    return output.absolute()


def _grid(source: BlockSource, block_shape: tuple[int, ...] | None, halo: tuple[int, ...] | None) -> BlockGrid:
    shape = source.shape
    block_shape, halo = block_shape or BLOCK_SHAPE[source.ndim], halo or HALO[source.ndim]
    if len(block_shape) != len(shape) or len(halo) != len(shape):
        raise ParameterError(
            f"The input has the shape {shape}, so block_shape and halo have {len(shape)} numbers; got {block_shape} and {halo}."
        )
    grid = BlockGrid(shape, block_shape, halo)
    bare = [axis for axis, count in enumerate(grid.grid_shape) if count > 1 and grid.halo[axis] == 0]
    if bare:
        raise ParameterError(f"Blocks are joined where they overlap, so every halo is at least 1; got {grid.halo}.")
    return grid


def _finished(output: Path, journal: Journal) -> Segmented | None:
    """The result if this very run is finished already.

    Raises:
        OutputError: There is the result of another run.
    """
    if not output.exists():
        return None
    import zarr

    attributes = dict(zarr.open_group(str(output), mode="r").attrs)
    if RUN not in attributes:
        raise OutputError(f"'{output}' exists and was not made by such a run; delete it or choose another output.")
    check_same_run(attributes[RUN], journal.parameters, f"'{output}'")
    logger.warning("'%s' is finished already; nothing is done.", output)
    shutil.rmtree(journal.folder, ignore_errors=True)
    return Segmented(output, int(attributes[OBJECTS]))
