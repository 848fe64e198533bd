"""Automatic instance segmentation with the decoder (AIS), for whole and for tiled images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from micro_sam import embedding_access
from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.base import Segmenter
from micro_sam.instance_segmentation.instances import Instance, check_output_mode, make_instance
from micro_sam.instance_segmentation.settings import AISSettings
from micro_sam.instance_segmentation.tiled import TiledSegmenter
from micro_sam.instance_segmentation.watershed import Maps, segment_maps, segment_maps_blockwise
from micro_sam.labels import object_windows
from micro_sam.progress import Progress, drain

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings

MAP_NAMES = ("foreground", "center_distances", "boundary_distances")


class _DecoderSegmenter(Segmenter):
    """Holds the decoder's maps of an image."""

    def __init__(self, predictor: SamPredictor, decoder: torch.nn.Module) -> None:
        if decoder is None:
            raise ParameterError("This segmentation needs a decoder: take a model that has one, or mode 'amg'.")
        self._predictor = predictor
        self._decoder = decoder

    def _predict(self) -> np.ndarray:
        """The maps (3, height, width) of what is set in the predictor."""
        predictor = self._predictor
        with torch.no_grad():
            maps = self._decoder(predictor.features, tuple(predictor.input_size), tuple(predictor.original_size))
        return maps[0].float().cpu().numpy()

    def get_state(self) -> dict[str, Any]:
        """The maps: ``foreground``, ``center_distances`` and ``boundary_distances``, float32 (YX)."""
        maps: Maps = self._initialized()
        return {name: getattr(maps, name) for name in MAP_NAMES}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over maps from `get_state`, or stored ones (``is_state.h5``).

        Raises:
            ParameterError: One of the maps is missing or has another shape.
        """
        missing = [name for name in MAP_NAMES if name not in state]
        if missing:
            raise ParameterError(
                f"The state lacks {', '.join(missing)}; it has {', '.join(sorted(state)) or 'nothing'}."
            )
        maps = Maps(*(state[name] for name in MAP_NAMES))
        shapes = {name: tuple(np.shape(state[name])) for name in MAP_NAMES}
        if len(set(shapes.values())) > 1 or len(maps.shape) != 2:
            raise ParameterError(f"The maps in the state must be 2d and of the same shape, got {shapes}.")
        self._state = maps


class InstanceSegmentationWithDecoder(_DecoderSegmenter):
    """Instance segmentation by a watershed on the decoder's predictions (Archit et al., Nature Methods 2025).

    Args:
        predictor: The model.
        decoder: Called with (features, input_shape, original_shape), returns (1, 3, height, width): foreground,
            distance to the centre and to the boundary.
    """

    def initialize(
        self,
        image: np.ndarray | None,
        image_embeddings: ImageEmbeddings | None = None,
        i: int | None = None,
        verbose: bool = False,
        pbar_init: Callable[[int, str], None] | None = None,
        pbar_update: Callable[[int], None] | None = None,
        ndim: int = 2,
    ) -> None:
        """Run the decoder.

        Args:
            image: The image (YX or YXC). It may be None when embeddings are given.
            image_embeddings: Embeddings of the image; computed if not given.
            i: The slice, for embeddings of a volume or time series.
            verbose: Show a progress bar.
            pbar_init: Called with (total, description).
            pbar_update: Called with the number of steps done.
            ndim: Only 2; volumes are segmented slice by slice.
        """
        if ndim != 2:
            raise ParameterError(f"The decoder segments images of 2 dimensions, got ndim={ndim}: go slice by slice.")
        drain(self.iter_initialize(image, image_embeddings, i), verbose, pbar_init, pbar_update)

    def iter_initialize(
        self, image: np.ndarray | None, image_embeddings: ImageEmbeddings | None = None, i: int | None = None
    ) -> Generator[Progress, None, None]:
        """`initialize` as a generator of `Progress`."""
        image_embeddings = yield from embedding_access.iter_embed(self._predictor, image, image_embeddings)
        yield Progress(0, 1, "Predict distances")
        embedding_access.activate(self._predictor, image_embeddings, i)
        self._state = Maps(*self._predict())
        yield Progress(1, 1, "Predict distances")

    def generate(
        self,
        center_distance_threshold: float = 0.5,
        boundary_distance_threshold: float = 0.5,
        foreground_threshold: float = 0.5,
        foreground_smoothing: float = 1.0,
        distance_smoothing: float = 1.6,
        min_size: int = 0,
        output_mode: str = "instance_segmentation",
        tile_shape: tuple[int, int] | None = None,
        halo: tuple[int, int] | None = None,
        n_threads: int | None = None,
        optimize_memory: bool = False,
        segmentation: np.ndarray | None = None,
    ) -> np.ndarray | list[dict[str, Any]]:
        """Segment the image from the predictions.

        Args:
            center_distance_threshold: Seeds lie where the distance to the centre is below this.
            boundary_distance_threshold: And where the distance to the boundary is below this.
            foreground_threshold: Objects lie where the foreground probability is above this.
            foreground_smoothing: Sigma in pixels for smoothing the foreground.
            distance_smoothing: Sigma in pixels for smoothing both distances.
            min_size: Smaller objects, in pixels, are removed.
            output_mode: "instance_segmentation" for a label image, or "binary_mask", "uncompressed_rle", "coco_rle"
                for a list of mask records.
            tile_shape: Work in blocks of this height and width, in parallel.
            halo: How much the blocks are enlarged.
            n_threads: How many blocks at the same time.
            optimize_memory: Keep less in memory, at the cost of time.
            segmentation: Array to write the labels to, block by block.

        Returns:
            Label image (YX), uint32 (or ``segmentation``), or a list of records.

        Raises:
            ParameterError: A parameter is out of range.
            NotInitializedError: There is no image yet.
        """
        check_output_mode(output_mode)
        settings = AISSettings(
            center_distance_threshold=center_distance_threshold,
            boundary_distance_threshold=boundary_distance_threshold,
            foreground_threshold=foreground_threshold,
            foreground_smoothing=foreground_smoothing,
            distance_smoothing=distance_smoothing,
            min_size=min_size,
        )
        maps = self._initialized()
        if tile_shape is None and not optimize_memory and segmentation is None:
            labels = segment_maps(maps, settings)
        else:
            labels = segment_maps_blockwise(maps, settings, tile_shape, halo, n_threads, optimize_memory, segmentation)
        return labels if output_mode == "instance_segmentation" else label_records(labels[:], output_mode)


class TiledInstanceSegmentationWithDecoder(TiledSegmenter, InstanceSegmentationWithDecoder):
    """The same for tiled images: the predictions of all tiles are put together before the one watershed."""

    def _predict_tiles(self, image_embeddings: ImageEmbeddings, i: int | None) -> Generator[Progress, None, None]:
        self._state = yield from iter_tiled_maps(self, image_embeddings, i)


def iter_tiled_maps(
    segmenter: _DecoderSegmenter, image_embeddings: ImageEmbeddings, i: int | None
) -> Generator[Progress, None, Maps]:
    """Run the decoder tile by tile and put the inner parts together; tiles without embeddings are background."""
    tiling = embedding_access.tiling_of(image_embeddings)
    ids = embedding_access.tile_ids(image_embeddings, i)
    stitched = np.ones((3, *tiling.shape), dtype=np.float32)
    stitched[0] = 0
    for done, tile in enumerate(map(tiling.tile, ids)):
        yield Progress(done, len(ids), "Predict distances of tiles")
        embedding_access.activate(segmenter._predictor, image_embeddings, i, tile.index)
        stitched[(slice(None), *tile.inner)] = segmenter._predict()[(slice(None), *tile.inner_in_outer)]
    yield Progress(len(ids), len(ids), "Predict distances of tiles")
    return Maps(*stitched)


def label_records(labels: np.ndarray, output_mode: str) -> list[dict[str, Any]]:
    """Mask records of all objects of a label image."""
    found = (
        make_instance(labels[window] == label, tuple(s.start for s in window))
        for label, window in object_windows(labels).items()
    )
    instances: list[Instance] = [instance for instance in found if instance is not None]
    return [instance.record(labels.shape, output_mode) for instance in instances]
