"""Automatic mask generation for tiled images: every tile has its grid, and what the halos cut is put together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from micro_sam import embedding_access
from micro_sam.embeddings.tiling import Tile, Tiling
from micro_sam.instance_segmentation.amg import AutomaticMaskGenerator
from micro_sam.instance_segmentation.apg_tiled import cut, unite
from micro_sam.instance_segmentation.candidates import Candidates
from micro_sam.instance_segmentation.instances import Instance, boxes_of
from micro_sam.instance_segmentation.nms import box_nms, intersection
from micro_sam.instance_segmentation.tiled import TiledSegmenter
from micro_sam.progress import Progress

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings

#: Two cut masks are one object if, in the region that both tiles see, their IoU is at least this.
_MIN_AGREEMENT = 0.6
#: A mask that comes nearer than this to the edge of its tile counts as cut, in pixels.
_EDGE = 2


@dataclass(frozen=True)
class _Found:
    """A mask and the tile (outer block, as slices) it was found in; whether that tile's edge cuts it."""

    instance: Instance
    tile: int
    outer: tuple[slice, slice]
    is_cut: bool


class TiledAutomaticMaskGenerator(TiledSegmenter, AutomaticMaskGenerator):
    """`AutomaticMaskGenerator` for tiled images; the grid of points is laid over every tile.

    Args:
        predictor: The model.
        points_per_side: Points along each side of a tile; None if ``point_grids`` are given.
        points_per_batch: Points decoded at the same time.
        point_grids: One explicit grid (n, 2) of (x, y) in [0, 1].
        stability_score_offset: How far the mask threshold is moved to measure a mask's stability.
    """

    def __init__(
        self,
        predictor: SamPredictor,
        points_per_side: int | None = 32,
        points_per_batch: int | None = None,
        point_grids: list[np.ndarray] | None = None,
        stability_score_offset: float = 1.0,
    ) -> None:
        super().__init__(
            predictor,
            points_per_side,
            points_per_batch,
            point_grids=point_grids,
            stability_score_offset=stability_score_offset,
        )

    def _predict_tiles(self, image_embeddings: ImageEmbeddings, i: int | None) -> Generator[Progress, None, None]:
        tiling = embedding_access.tiling_of(image_embeddings)
        ids = embedding_access.tile_ids(image_embeddings, i)
        state: list[Candidates] = []
        for done, tile in enumerate(map(tiling.tile, ids)):
            yield Progress(done, len(ids), "Predict masks for point grids of tiles")
            embedding_access.activate(self._predictor, image_embeddings, i, tile.index)
            (rows, columns) = tile.outer
            candidates = self._candidates((columns.start, rows.start, columns.stop, rows.stop))
            for _ in self._decode_grid(candidates, self._own_points(tile, tiling, set(ids))):
                pass
            state.append(candidates)
            self._limit_memory(candidates, len(ids))
        yield Progress(len(ids), len(ids), "Predict masks for point grids of tiles")
        self._state, self._shape = state, tiling.shape

    def _own_points(self, tile: Tile, tiling: Tiling, computed: set[int]) -> np.ndarray:
        """The points of the grid that no other computed tile is responsible for."""
        grid = self._grids[0]
        positions = grid[:, ::-1] * tile.shape + tile.offset
        owners = np.array([tiling.tile_for_point(*position) for position in positions])
        return grid[(owners == tile.index) | ~np.isin(owners, list(computed))]

    def _select(
        self, crops: Sequence[Candidates], iou: float, stability: float, box_nms_thresh: float, crop_nms_thresh: float
    ) -> list[Instance]:
        found: list[_Found] = []
        for number, crop in enumerate(crops):
            x0, y0, x1, y1 = crop.crop_box
            outer = (slice(y0, y1), slice(x0, x1))
            for k in crop.select(iou, stability, box_nms_thresh):
                instance = crop.instance(int(k))
                found.append(_Found(instance, number, outer, _is_cut(instance, outer, self._shape)))
        instances = _merge_cut(found)
        scores = np.array([instance.score for instance in instances])
        return [instances[k] for k in box_nms(boxes_of(instances), scores, min(box_nms_thresh, crop_nms_thresh))]


def _is_cut(instance: Instance, outer: tuple[slice, slice], shape: Sequence[int]) -> bool:
    for part, limits, size in zip(instance.window, outer, shape):
        if (
            limits.start > 0
            and part.start < limits.start + _EDGE
            or limits.stop < size
            and part.stop > limits.stop - _EDGE
        ):
            return True
    return False


def _merge_cut(found: list[_Found]) -> list[Instance]:
    """Replace masks that tiles cut by whole ones: by that of a tile that sees all of it, or by a union of pieces."""
    partners = _mutual_partners(found)
    groups = _components(len(found), partners)
    result = []
    for group in groups:
        members = [found[k] for k in group]
        whole = [member.instance for member in members if not member.is_cut]
        if whole:
            result.append(max(whole, key=lambda instance: instance.score))
        elif len(members) == 1:
            result.append(members[0].instance)
        else:
            result.append(unite([member.instance for member in members]))
    return result


def _mutual_partners(found: list[_Found]) -> list[tuple[int, int]]:
    """Pairs of masks of different tiles, at least one of them cut, that agree best with each other."""
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for a, b, agreement in _agreements(found):
        for one, other in ((a, b), (b, a)):
            key = (one, found[other].tile)
            if agreement > best.get(key, (0.0, -1))[0]:
                best[key] = (agreement, other)
    pairs = []
    for (one, _), (_, other) in best.items():
        back = best.get((other, found[one].tile))
        if one < other and back is not None and back[1] == one:
            pairs.append((one, other))
    return pairs


def _agreements(found: list[_Found]) -> Generator[tuple[int, int, float], None, None]:
    """IoU of masks of different tiles in the region both tiles see, where it is high enough."""
    boxes = boxes_of([f.instance for f in found])
    for a, first in enumerate(found):
        low = np.maximum(boxes[a, :2], boxes[a + 1 :, :2])
        high = np.minimum(boxes[a, 2:], boxes[a + 1 :, 2:])
        for b in np.flatnonzero((low <= high).all(axis=1)) + a + 1:
            second = found[b]
            if first.tile == second.tile or not (first.is_cut or second.is_cut):
                continue
            shared = tuple(slice(max(p.start, q.start), min(p.stop, q.stop)) for p, q in zip(first.outer, second.outer))
            parts = cut(first.instance, shared), cut(second.instance, shared)
            if parts[0] is None or parts[1] is None:
                continue
            both = intersection(*parts)
            agreement = both / (parts[0].area + parts[1].area - both)
            if agreement >= _MIN_AGREEMENT:
                yield a, int(b), agreement


def _components(n: int, pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Connected components of a graph with n nodes."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if n == 0:
        return []
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(n, n))
    _, membership = connected_components(graph, directed=False)
    order = np.argsort(membership, kind="stable")
    return [list(group) for group in np.split(order, np.flatnonzero(np.diff(membership[order])) + 1)]
