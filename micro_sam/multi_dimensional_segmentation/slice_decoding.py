"""The masks of many objects in one slice, prompted by their masks in the neighbouring slice, decoded as one batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from micro_sam import embedding_access
from micro_sam.embeddings.tiling import Tile
from micro_sam.instance_segmentation.instances import Instance, make_instance
from micro_sam.multi_dimensional_segmentation.mask_prompts import box_of
from micro_sam.multi_dimensional_segmentation.projection import PropagationSettings
from micro_sam.multi_dimensional_segmentation.prompt_decoding import Decoded, PromptDecoder
from micro_sam.multi_dimensional_segmentation.shapes import cut, iou, merged, overlap, parts, without, without_specks

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings

_BATCH = 64
_LARGE = 0.3  # a part of a mask that is worth to ask for is at least this share of it
_COVERED, _SAME = 0.5, 0.3  # an answer is that part if it covers this share of it, with this IoU


@dataclass(frozen=True)
class _Prompt:
    """A part of an object, in the coordinates of the plane or of a tile (``tile``).

    ``owner`` says which object it belongs to. With ``inner_only`` the object is larger than a tile, and of the answer
    only what lies in the tile's own block counts.
    """

    owner: int
    shape: Instance
    tile: Tile | None = None
    inner_only: bool = False


class SliceDecoder:
    """Decodes objects in slices.

    Args:
        predictor: The model; its image is replaced.
        image_embeddings: Embeddings of the volume or time series, with or without tiles.
        settings: Which prompts to use.
        batch_size: How many prompts go through the network at once.
    """

    def __init__(
        self,
        predictor: SamPredictor,
        image_embeddings: ImageEmbeddings,
        settings: PropagationSettings,
        batch_size: int = _BATCH,
    ) -> None:
        self._predictor, self._embeddings, self._settings = predictor, image_embeddings, settings
        self._batch_size = batch_size
        self.plane = embedding_access.image_shape(image_embeddings)
        self._tiling = (
            embedding_access.tiling_of(image_embeddings) if embedding_access.is_tiled(image_embeddings) else None
        )

    @torch.no_grad()
    def __call__(self, z: int, shapes: Sequence[Instance]) -> list[Instance | None]:
        """Find objects in a slice.

        Args:
            z: The slice.
            shapes: For each object a rough mask, such as the one in the neighbouring slice.

        Returns:
            For each object its mask, None where there is nothing. Where masks overlap, a pixel belongs to the object
            with the higher logit.
        """
        found = self._find(z, [(owner, shape) for owner, shape in enumerate(shapes)], len(shapes))
        if self._settings.follow_splits:
            found = self._with_rests(z, shapes, found)
        return [without_specks(None if entry is None else entry[0]) for entry in found]

    def _find(self, z: int, wanted: Sequence[tuple[int, Instance]], n_objects: int) -> list[Decoded | None]:
        """Masks with logits for objects of which (number, rough mask) is given; overlaps are settled."""
        groups: dict[int | None, list[_Prompt]] = defaultdict(list)
        for owner, shape in wanted:
            for prompt in self._prompts(z, owner, shape):
                groups[None if prompt.tile is None else prompt.tile.index].append(prompt)
        answers: list[list[Decoded]] = [[] for _ in range(n_objects)]
        for tile_id, group in groups.items():
            embedding_access.activate(self._predictor, self._embeddings, z, tile_id)
            for prompt, answer in self._decode(group):
                answers[prompt.owner].append(answer)
        found = [_joined(answer) for answer in answers]
        _settle_overlaps(found)
        return found

    def _with_rests(self, z: int, shapes: Sequence[Instance], found: list[Decoded | None]) -> list[Decoded | None]:
        """Where an answer leaves a large part of a mask uncovered, the object may have come apart: ask for that part, too."""
        rests = {
            owner: rest
            for owner, (shape, entry) in enumerate(zip(shapes, found, strict=True))
            if entry is not None and (rest := _rest(shape, entry[0])) is not None
        }
        if not rests:
            return found
        more = self._find(z, list(rests.items()), len(shapes))
        for owner, rest in rests.items():
            if more[owner] is not None and _is_that_part(more[owner][0], rest):
                found[owner] = _joined([found[owner], more[owner]])
        _settle_overlaps(found)
        return found

    def _prompts(self, z: int, owner: int, shape: Instance) -> Iterator[_Prompt]:
        for part in parts(shape) if self._settings.follow_splits else [shape]:
            if self._tiling is None:
                yield _Prompt(owner, part)
            else:
                yield from self._in_tiles(z, owner, part)

    def _in_tiles(self, z: int, owner: int, shape: Instance) -> Iterator[_Prompt]:
        """One prompt in the tile that sees all of the object, or one in each tile that sees some of it."""
        box = box_of(shape, self.plane, self._settings.box_extension)
        there = set(embedding_access.tile_ids(self._embeddings, z))
        best = self._tiling.tile(self._tiling.tile_for_box(box))
        if best.index in there and np.array_equal(best.to_global_box(best.to_local_box(box)), box):
            yield _Prompt(owner, _local(shape, best), best)
            return
        for tile in map(self._tiling.tile, self._tiling.tiles_for_box(box)):
            local = _local(shape, tile)
            if tile.index in there and local is not None:
                yield _Prompt(owner, local, tile, inner_only=True)

    def _decode(self, group: Sequence[_Prompt]) -> Iterator[tuple[_Prompt, Decoded]]:
        """The answers to prompts in the image that is set in the predictor, as masks of the plane."""
        decode = PromptDecoder(self._predictor, self._settings, self._batch_size)
        for index, candidates in decode([prompt.shape for prompt in group]):
            answer = _most_alike(candidates, group[index].shape)
            answer = None if answer is None else _in_plane(answer, group[index])
            if answer is not None:
                yield group[index], answer


def _is_that_part(answer: Instance, rest: Instance) -> bool:
    return overlap(answer, rest) >= _COVERED * rest.area and iou(answer, rest) >= _SAME


def _rest(shape: Instance, found: Instance) -> Instance | None:
    """The largest part of a mask that another one leaves uncovered; None if it is small."""
    rest = without(shape, found)
    if rest is None or rest.area < _LARGE * shape.area:
        return None
    largest = parts(rest)[0]
    return largest if largest.area >= _LARGE * shape.area else None


def _local(shape: Instance, tile: Tile) -> Instance | None:
    """A mask in the coordinates of a tile; None if the tile sees nothing of it."""
    begin = [max(0, s.start - o) for s, o in zip(tile.outer, shape.origin)]
    end = [min(n, s.stop - o) for s, o, n in zip(tile.outer, shape.origin, shape.mask.shape)]
    if any(e <= b for b, e in zip(begin, end)):
        return None
    window = tuple(slice(b, e) for b, e in zip(begin, end))
    return make_instance(shape.mask[window], tuple(o + b - t for o, b, t in zip(shape.origin, begin, tile.offset)))


def _most_alike(candidates: Sequence[Decoded], shape: Instance) -> Decoded | None:
    """Of several masks the one that is both good and like the object's mask in the neighbouring slice."""
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    return max(candidates, key=lambda candidate: max(candidate[0].score, 0) * iou(candidate[0], shape))


def _in_plane(answer: Decoded, prompt: _Prompt) -> Decoded | None:
    """An answer in the coordinates of the plane."""
    shape, values = answer
    tile = prompt.tile
    if tile is None:
        return answer
    begin = (0, 0)
    if prompt.inner_only:
        begin = tuple(max(0, s.start - o) for s, o in zip(tile.inner_in_outer, shape.origin))
        end = tuple(min(n, s.stop - o) for s, o, n in zip(tile.inner_in_outer, shape.origin, shape.mask.shape))
        if any(e <= b for b, e in zip(begin, end)):
            return None
        values = values[tuple(slice(b, e) for b, e in zip(begin, end))]
        mask = shape.mask[tuple(slice(b, e) for b, e in zip(begin, end))]
    else:
        mask = shape.mask
    origin = tuple(o + b + t for o, b, t in zip(shape.origin, begin, tile.offset))
    moved = make_instance(mask, origin, score=shape.score)
    if moved is None:
        return None
    return moved, _in_window_of(moved, values, origin)


def _joined(answers: Sequence[Decoded]) -> Decoded | None:
    """The union of the answers for the parts of an object, with the highest logit of each pixel."""
    if len(answers) < 2:
        return answers[0] if answers else None
    whole = merged([shape for shape, _ in answers])
    values = np.full(whole.mask.shape, -np.inf, dtype=np.float32)
    for shape, part in answers:
        target = _in_window_of(shape, values, whole.origin)
        np.maximum(target, np.where(shape.mask, part, -np.inf), out=target)
    return whole, values


def _settle_overlaps(found: list[Decoded | None]) -> None:
    """Give every pixel that several objects want to the one with the highest logit there."""
    there = [k for k, entry in enumerate(found) if entry is not None]
    keep = {k: found[k][0].mask.copy() for k in there}
    for position, first in enumerate(there):
        for second in there[position + 1 :]:
            _settle(found[first], found[second], keep[first], keep[second])
    for k in there:
        shape, values = found[k]
        rest = cut(shape, keep[k])
        found[k] = None if rest is None else (rest, _in_window_of(rest, values, shape.origin))


def _in_window_of(shape: Instance, values: np.ndarray, origin: Sequence[int]) -> np.ndarray:
    """Logits of a window that begins at an origin, cut to the window of a mask in it."""
    return values[tuple(slice(s.start - o, s.stop - o) for s, o in zip(shape.window, origin))]


def _settle(a: Decoded, b: Decoded, keep_a: np.ndarray, keep_b: np.ndarray) -> None:
    starts = [max(p, q) for p, q in zip(a[0].origin, b[0].origin)]
    stops = [min(p.stop, q.stop) for p, q in zip(a[0].window, b[0].window)]
    if any(stop <= start for start, stop in zip(starts, stops)):
        return
    in_a, in_b = (
        tuple(slice(start - o, stop - o) for start, stop, o in zip(starts, stops, shape.origin)) for shape, _ in (a, b)
    )
    both = a[0].mask[in_a] & b[0].mask[in_b]
    first_wins = a[1][in_a] >= b[1][in_b]
    keep_a[in_a] &= ~(both & ~first_wins)
    keep_b[in_b] &= ~(both & first_wins)
