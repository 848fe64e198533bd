"""From prompts to the masks of one or several objects in a plane. Plain functions, safe to run in a thread."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from micro_sam import embedding_access
from micro_sam.errors import PromptError
from micro_sam.instance_segmentation.apg_tiled import cut, shifted
from micro_sam.instance_segmentation.instances import Instance, make_instance
from micro_sam.instance_segmentation.prompted import DecodeOptions, decode_instances
from micro_sam.mask_decoding import Prompts as ArrayPrompts
from micro_sam.prompts import mask_to_logits
from micro_sam.sam_annotator.session.prompts import Point, Prompts, Shape, inside

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings
    from micro_sam.embeddings.tiling import Tile, Tiling

_BATCH = 8


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be segmented in a plane.

    Attributes:
        prompts: The prompts in it.
        i: The slice or frame, None in an image.
        batched: One object for each positive point, instead of one for all points together.
        start: The mask of an object that is corrected.
        tidy: Leave out parts of a mask that are away from its prompts.
        generation: Which state of the session it was asked in; older answers are dropped.
    """

    prompts: Prompts
    i: int | None = None
    batched: bool = False
    start: Instance | None = None
    tidy: bool = True
    generation: int = 0


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer to a request.

    Attributes:
        request: What was asked.
        objects: The masks, in the order of the prompts; None where nothing was found.
    """

    request: Request
    objects: tuple[Instance | None, ...]

    @property
    def found(self) -> list[Instance]:
        """The masks that are not empty."""
        return [found for found in self.objects if found is not None]


@dataclass(frozen=True, eq=False)
class ObjectPrompt:
    """The prompts of one object, in pixels of the plane."""

    points: tuple[Point, ...] = ()
    box_yxyx: np.ndarray | None = None
    mask: Instance | None = None

    @property
    def ambiguous(self) -> bool:
        """Whether it is a single click, for which the best of three masks is taken."""
        return len(self.points) == 1 and self.box_yxyx is None and self.mask is None

    @property
    def anchor(self) -> np.ndarray | None:
        """The box by which a tile is chosen."""
        if self.box_yxyx is not None or self.mask is None:
            return self.box_yxyx
        (y, x), (height, width) = self.mask.origin, self.mask.mask.shape
        return np.array([y, x, y + height, x + width], dtype=float)


def own_predictor(predictor: SamPredictor) -> SamPredictor:
    """A predictor with the same network but an image of its own, so that two threads do not disturb each other."""
    other = copy.copy(predictor)
    other.reset_image()
    return other


def segment(predictor: SamPredictor, embeddings: ImageEmbeddings, request: Request) -> Segmentation:
    """Segment the objects that a request asks for.

    Args:
        predictor: The model. Its image is replaced.
        embeddings: Of the image, volume or time series; tiles that the prompts need must be there.
        request: The prompts.

    Raises:
        PromptError: There is no prompt that says where an object is.
        StoreError: The embeddings at this place were not computed yet.
    """
    shape = embedding_access.image_shape(embeddings)
    wanted = object_prompts(request, shape)
    found: list[Instance | None] = [None] * len(wanted)
    for k, instance in iter_decode(predictor, embeddings, wanted, request.i):
        found[k] = tidied(instance, wanted[k]) if request.tidy else instance
    return Segmentation(request, tuple(found))


def iter_decode(
    predictor: SamPredictor, embeddings: ImageEmbeddings, wanted: Sequence[ObjectPrompt], i: int | None = None
) -> Iterator[tuple[int, Instance | None]]:
    """Decode the prompts of any number of objects in batches; yields which of them, and its mask.

    Args:
        predictor: The model. Its image is replaced.
        embeddings: Of the image, volume or time series; tiles that the prompts need must be there.
        wanted: The prompts of the objects, all in one plane.
        i: The slice or frame, None in an image.

    Raises:
        StoreError: The embeddings at this place were not computed yet.
    """
    for tile, which in _by_tile(wanted, embeddings):
        embedding_access.activate(predictor, embeddings, i, None if tile is None else tile.index)
        yield from _decode([(k, wanted[k]) for k in which], predictor, tile)


def object_prompts(request: Request, shape: tuple[int, int]) -> list[ObjectPrompt]:
    """Sort prompts by the objects they are for.

    Several boxes (or other shapes) are several objects; each point goes to the smallest one around it, else to the
    nearest. Without shapes all points are one object, or with ``batched`` each positive point is one and each negative
    point goes to the nearest positive one. When an object is corrected everything is for this object.

    Raises:
        PromptError: There is no prompt that says where an object is.
    """
    points = inside(request.prompts.points, shape)
    shapes = [s for s in request.prompts.shapes if s.box_yxyx(shape) is not None]
    if request.start is not None:
        return [_correction(request.start, points, shapes, shape)]
    if not shapes and not any(point.positive for point in points):
        raise PromptError("Nothing says where the object is: click it, or draw a box around it.")
    if shapes:
        return _for_shapes(shapes, points, shape)
    if not request.batched:
        return [ObjectPrompt(points)]
    return [ObjectPrompt(own) for own in _nearest_groups(points)]


def tidied(instance: Instance | None, prompt: ObjectPrompt) -> Instance | None:
    """A mask without the parts that are away from its prompts, where other parts are not.

    With positive points these are the parts that none of them lies in, else those that lie mostly outside the box.
    """
    if instance is None:
        return None
    parts, n_parts = ndimage.label(instance.mask)
    kept = _parts_with_points(parts, instance, prompt.points)
    if not kept and prompt.box_yxyx is not None:
        kept = _parts_in_box(parts, instance, prompt.box_yxyx)
    if not kept or len(kept) == n_parts:
        return instance
    facts = {"score": instance.score, "stability": instance.stability, "point_xy": instance.point_xy}
    return make_instance(np.isin(parts, list(kept)), instance.origin, **facts)


def _parts_with_points(parts: np.ndarray, instance: Instance, points: Sequence[Point]) -> set[int]:
    where = (
        np.array([(round(p.y), round(p.x)) for p in points if p.positive], dtype=int).reshape(-1, 2) - instance.origin
    )
    where = where[((where >= 0) & (where < parts.shape)).all(axis=1)]
    return set(parts[tuple(where.T)].tolist()) - {0}


def _parts_in_box(parts: np.ndarray, instance: Instance, box_yxyx: np.ndarray) -> set[int]:
    low = np.clip(np.round(box_yxyx[:2] - instance.origin), 0, parts.shape).astype(int)
    high = np.clip(np.round(box_yxyx[2:] - instance.origin), 0, parts.shape).astype(int)
    sizes = np.bincount(parts.ravel())
    inside = np.bincount(parts[low[0] : high[0], low[1] : high[1]].ravel(), minlength=len(sizes))
    return set(np.flatnonzero(2 * inside >= sizes).tolist()) - {0}


def _correction(
    start: Instance, points: tuple[Point, ...], shapes: Sequence[Shape], shape: tuple[int, int]
) -> ObjectPrompt:
    if not shapes:
        return ObjectPrompt(points, mask=start)
    drawn = shapes[-1]
    return ObjectPrompt(points, drawn.box_yxyx(shape), None if drawn.kind == "rectangle" else _drawn(drawn, shape))


def _for_shapes(shapes: Sequence[Shape], points: Sequence[Point], shape: tuple[int, int]) -> list[ObjectPrompt]:
    boxes = np.array([s.box_yxyx(shape) for s in shapes])
    owners: dict[int, list[Point]] = defaultdict(list)
    for point in points:
        owners[_box_of(point, boxes)].append(point)
    return [
        ObjectPrompt(tuple(owners[k]), box, None if drawn.kind == "rectangle" else _drawn(drawn, shape))
        for k, (drawn, box) in enumerate(zip(shapes, boxes))
    ]


def _drawn(drawn: Shape, shape: tuple[int, int]) -> Instance | None:
    return make_instance(drawn.mask(shape))


def _box_of(point: Point, boxes: np.ndarray) -> int:
    """The smallest box around a point, else the nearest one."""
    where = np.array([point.y, point.x])
    distances = np.linalg.norm(np.maximum(0, np.maximum(boxes[:, :2] - where, where - boxes[:, 2:])), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return int(np.lexsort((areas, distances))[0])


def _nearest_groups(points: Sequence[Point]) -> list[tuple[Point, ...]]:
    """A group for each positive point, with the negative points that are nearest to it."""
    positive = [point for point in points if point.positive]
    where = np.array([(point.y, point.x) for point in positive])
    groups = [[point] for point in positive]
    for point in points:
        if not point.positive:
            groups[int(np.linalg.norm(where - (point.y, point.x), axis=1).argmin())].append(point)
    return [tuple(group) for group in groups]


def _by_tile(wanted: Sequence[ObjectPrompt], embeddings: ImageEmbeddings) -> Iterator[tuple[Tile | None, list[int]]]:
    """The objects, tile by tile; all at once without tiles."""
    if not embedding_access.is_tiled(embeddings):
        yield None, list(range(len(wanted)))
        return
    tiling = embedding_access.tiling_of(embeddings)
    groups: dict[int, list[int]] = defaultdict(list)
    for k, prompt in enumerate(wanted):
        groups[_tile_of(prompt, tiling)].append(k)
    for index, which in groups.items():
        yield tiling.tile(index), which


def _tile_of(prompt: ObjectPrompt, tiling: Tiling) -> int:
    """The tile that sees most of an object's prompts."""
    if prompt.anchor is not None:
        return tiling.tile_for_box(prompt.anchor)
    where = np.array([(point.y, point.x) for point in prompt.points])
    positive = np.array([point.positive for point in prompt.points])
    home = tiling.tile_for_point(*where[positive].mean(axis=0))

    def seen(index: int) -> tuple[int, int, bool]:
        rows, columns = tiling.tile(index).outer
        low, high = np.array([rows.start, columns.start]), np.array([rows.stop, columns.stop])
        there = ((where >= low - 0.5) & (where <= high - 0.5)).all(axis=1)
        return int((there & positive).sum()), int(there.sum()), index == home

    return max(sorted({tiling.tile_for_point(*point) for point in where} | {home}), key=seen)


def _decode(
    wanted: Sequence[tuple[int, ObjectPrompt]], predictor: SamPredictor, tile: Tile | None
) -> Iterator[tuple[int, Instance | None]]:
    """Decode objects in the predictor's image, those with prompts of the same kinds in a batch."""
    groups: dict[tuple, list[tuple[int, ObjectPrompt]]] = defaultdict(list)
    for k, prompt in wanted:
        kind = (prompt.ambiguous, bool(prompt.points), prompt.box_yxyx is not None, prompt.mask is not None)
        groups[kind].append((k, prompt))
    origin = (0, 0) if tile is None else tile.offset
    for (ambiguous, *_), members in groups.items():
        prompts = _arrays([prompt for _, prompt in members], predictor, tile)
        options = DecodeOptions(_BATCH, multimask=ambiguous, origin=origin)
        for (k, _), masks in zip(members, decode_instances(predictor, prompts, options)):
            yield k, masks[0]


def _arrays(prompts: Sequence[ObjectPrompt], predictor: SamPredictor, tile: Tile | None) -> ArrayPrompts:
    """Prompts of the same kinds as arrays in (x, y), in the coordinates of the predictor's image."""
    points = labels = boxes = None
    if prompts[0].points:
        most = max(len(prompt.points) for prompt in prompts)
        points, labels = np.zeros((len(prompts), most, 2)), np.full((len(prompts), most), -1)
        for k, prompt in enumerate(prompts):
            points[k, : len(prompt.points)] = [(point.x, point.y) for point in prompt.points]
            labels[k, : len(prompt.points)] = [int(point.positive) for point in prompt.points]
    if prompts[0].box_yxyx is not None:
        boxes = np.stack([prompt.box_yxyx[[1, 0, 3, 2]] for prompt in prompts])
    arrays = ArrayPrompts(points, labels, boxes)
    arrays = arrays if tile is None else shifted(arrays, tile)
    if prompts[0].mask is None:
        return arrays
    return replace(arrays, masks=np.stack([_logits(prompt.mask, predictor, tile) for prompt in prompts]))


def _logits(mask: Instance, predictor: SamPredictor, tile: Tile | None) -> np.ndarray:
    """The low resolution logits (1, 256, 256) of a mask in the predictor's image."""
    shape = tuple(predictor.original_size)
    if tile is not None:
        mask = cut(mask, tile.outer)
        mask = None if mask is None else replace(mask, origin=tuple(o - t for o, t in zip(mask.origin, tile.offset)))
    image = np.zeros(shape, dtype=bool) if mask is None else mask.full(shape)
    return mask_to_logits(image, predictor.input_size, predictor.model.image_encoder.img_size)
