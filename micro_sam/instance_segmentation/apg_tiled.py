"""Automatic prompt generation for tiled images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from micro_sam import embedding_access
from micro_sam.embeddings.tiling import Tile, Tiling
from micro_sam.instance_segmentation.ais import iter_tiled_maps
from micro_sam.instance_segmentation.apg import AutomaticPromptGenerator, PromptFunction, prompts_from, seed_settings
from micro_sam.instance_segmentation.base import NotInitializedError
from micro_sam.instance_segmentation.instances import Instance, make_instance
from micro_sam.instance_segmentation.nms import intersection
from micro_sam.instance_segmentation.prompted import DecodeOptions
from micro_sam.instance_segmentation.settings import APGSettings
from micro_sam.instance_segmentation.tiled import TiledSegmenter
from micro_sam.instance_segmentation.watershed import Maps, flood, label_seeds, landscape, seed_points
from micro_sam.labels import interior_point, object_windows
from micro_sam.mask_decoding import Prompts
from micro_sam.progress import Progress

if TYPE_CHECKING:
    from micro_sam.embedding_access import ImageEmbeddings

#: The mask of a part of an object is used if its IoU with the watershed's object, within the tile, is at least this.
_MIN_AGREEMENT = 0.5


@dataclass(frozen=True)
class _Task:
    """A point to decode in a tile: for a whole object, or (with the watershed's idea of it) for a part of one."""

    number: int
    point_yx: np.ndarray
    part_of: Instance | None = None


class TiledAutomaticPromptGenerator(TiledSegmenter, AutomaticPromptGenerator):
    """`AutomaticPromptGenerator` for tiled images.

    Each object is decoded in the tile that holds its point. An object that does not fit into that tile is decoded in
    every tile it reaches, and the pieces are put together; where a piece disagrees with the watershed on the decoder's
    predictions, the watershed is used.
    """

    def _predict_tiles(self, image_embeddings: ImageEmbeddings, i: int | None) -> Generator[Progress, None, None]:
        self._state = yield from iter_tiled_maps(self, image_embeddings, i)
        self._image_embeddings, self._i = image_embeddings, i

    def _instances(
        self, maps: Maps, settings: APGSettings, options: DecodeOptions, prompt_function: PromptFunction | None
    ) -> Generator[list[Instance], None, None]:
        if self._image_embeddings is None:
            raise NotInitializedError("The state has no embeddings: pass tiled 'image_embeddings' in it.")
        tiling = embedding_access.tiling_of(self._image_embeddings)
        computed = set(embedding_access.tile_ids(self._image_embeddings, self._i))
        if prompt_function is not None:
            yield from self._custom(maps, settings, options, prompt_function, tiling, computed)
            return
        pieces: dict[int, list[Instance]] = defaultdict(list)
        for tile_id, tasks in _plan(maps, settings, tiling, computed).items():
            tile = tiling.tile(tile_id)
            points = np.array([task.point_yx for task in tasks]) - tile.offset
            prompts = Prompts(points[:, None, ::-1].astype(np.float64), np.ones((len(points), 1)))
            found = self._decode_tile(tile, prompts, settings, options)
            whole = [(task, instance) for task, instance in zip(tasks, found) if task.part_of is None]
            yield [instance for _, instance in whole if instance is not None]
            for task, instance in zip(tasks, found):
                if task.part_of is not None:
                    pieces[task.number].append(_piece(instance, task.part_of, tile))
        yield [unite(parts) for parts in pieces.values()]

    def _decode_tile(
        self, tile: Tile, prompts: Prompts, settings: APGSettings, options: DecodeOptions
    ) -> list[Instance | None]:
        embedding_access.activate(self._predictor, self._image_embeddings, self._i, tile.index)
        return self._decode(prompts, replace(options, origin=tile.offset), settings.refine_with_box_prompts)

    def _custom(
        self,
        maps: Maps,
        settings: APGSettings,
        options: DecodeOptions,
        prompt_function: PromptFunction,
        tiling: Tiling,
        computed: set[int],
    ) -> Generator[list[Instance], None, None]:
        prompts = prompts_from(maps, settings, prompt_function)
        for tile_id, which in assign_to_tiles(prompts, tiling, computed).items():
            tile = tiling.tile(tile_id)
            found = self._decode_tile(tile, shifted(prompts[which], tile), settings, options)
            yield [instance for instance in found if instance is not None]


def assign_to_tiles(prompts: Prompts, tiling: Tiling, computed: set[int]) -> dict[int, np.ndarray]:
    """Which prompts to decode in which tile: where the box's, or the positive points', centre lies.

    Prompts whose tile has no embeddings are left out.
    """
    centers = []
    for k in range(len(prompts)):
        if prompts.boxes is not None:
            x0, y0, x1, y1 = np.asarray(prompts.boxes)[k]
            centers.append(tiling.tile_for_box((y0, x0, y1, x1)))
            continue
        points, labels = np.asarray(prompts.points)[k], np.asarray(prompts.labels)[k]
        chosen = points[labels == 1] if (labels == 1).any() else points
        x, y = chosen.mean(axis=0)
        centers.append(tiling.tile_for_point(y, x))
    tiles = np.array(centers, dtype=np.int64)
    return {int(t): np.flatnonzero(tiles == t) for t in np.unique(tiles) if int(t) in computed}


def shifted(prompts: Prompts, tile: Tile) -> Prompts:
    """Prompts in the coordinates of a tile; boxes are clipped to it, points outside become no points."""
    y, x = tile.offset
    height, width = tile.shape
    points, labels, boxes = prompts.points, prompts.labels, prompts.boxes
    if points is not None:
        points = np.asarray(points, dtype=np.float64) - [x, y]
        outside = ((points < -0.5) | (points > np.array([width, height]) - 0.5)).any(axis=-1)
        labels = np.where(outside, -1, np.asarray(labels))
    if boxes is not None:
        boxes = np.clip(np.asarray(boxes, dtype=np.float64) - [x, y, x, y], 0, [width, height, width, height])
    return Prompts(points, labels, boxes, prompts.masks)


def _plan(maps: Maps, settings: APGSettings, tiling: Tiling, computed: set[int]) -> dict[int, list[_Task]]:
    """What to decode in each tile."""
    land = landscape(maps, seed_settings(settings))
    seeds = label_seeds(land.seeds)
    points = seed_points(seeds)
    segments = flood(land, seeds)
    plan: dict[int, list[_Task]] = defaultdict(list)
    for number, window in object_windows(segments).items():
        point = points[number - 1]
        home = tiling.tile(tiling.tile_for_point(*point))
        if _fits(window, home, tiling.shape):
            plan[home.index].append(_Task(number, point))
            continue
        segment = make_instance(segments[window] == number, tuple(s.start for s in window))
        box = [s.start for s in window] + [s.stop for s in window]
        for tile_id in tiling.tiles_for_box(box):
            tile = tiling.tile(tile_id)
            part = cut(segment, tile.outer)
            if tile_id in computed and cut(segment, tile.inner) is not None:
                plan[tile_id].append(_Task(number, interior_point(part.mask) + part.origin, segment))
    return plan


def _fits(window: tuple[slice, slice], tile: Tile, shape: tuple[int, int]) -> bool:
    """Whether a window lies inside the tile, without touching its edge where this is no edge of the image."""
    for part, outer, size in zip(window, tile.outer, shape):
        if part.start <= outer.start and outer.start > 0 or part.stop >= outer.stop and outer.stop < size:
            return False
    return True


def cut(instance: Instance, window: tuple[slice, slice]) -> Instance | None:
    """The part of a mask inside a window of the image."""
    inside = []
    for part, limits in zip(instance.window, window):
        begin, end = max(part.start, limits.start), min(part.stop, limits.stop)
        if begin >= end:
            return None
        inside.append(slice(begin - part.start, end - part.start))
    origin = tuple(part.start + s.start for part, s in zip(instance.window, inside))
    return make_instance(
        instance.mask[tuple(inside)], origin, score=instance.score, stability=instance.stability, extra=instance.extra
    )


def _piece(found: Instance | None, segment: Instance, tile: Tile) -> Instance:
    """What an object looks like in a tile's inner block: as decoded, or as the watershed has it."""
    expected = cut(segment, tile.inner)
    decoded = None if found is None else cut(found, tile.inner)
    if decoded is None:
        return replace(expected, score=0.0)
    both = intersection(decoded, expected)
    agrees = both >= _MIN_AGREEMENT * (decoded.area + expected.area - both)
    return decoded if agrees else replace(expected, score=decoded.score)


def unite(parts: list[Instance]) -> Instance:
    """The union of masks, with their mean score and stability weighted by area."""
    low = np.min([part.origin for part in parts], axis=0)
    high = np.max([[s.stop for s in part.window] for part in parts], axis=0)
    mask = np.zeros(tuple(high - low), dtype=bool)
    for part in parts:
        mask[tuple(slice(s.start - o, s.stop - o) for s, o in zip(part.window, low))] |= part.mask
    weights = [part.area for part in parts]
    return make_instance(
        mask,
        tuple(int(v) for v in low),
        score=float(np.average([part.score for part in parts], weights=weights)),
        stability=float(np.average([part.stability for part in parts], weights=weights)),
        point_xy=parts[0].point_xy,
    )
