"""How doubtful objects are: what the model says to them, and what is odd about them. Arrays in, values out.

The model is asked twice for each object, with its box and with a click in its middle. It agrees with a good mask both
times. Two cells taken for one, a part of a cell, an outline that is too wide, or an object where there is none: each
gets another answer to at least one of the questions. Of an object it only guesses at, where asked for a mask has to be given, it is
unsure both times.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from micro_sam.instance_segmentation.instances import Instance, make_instance
from micro_sam.instance_segmentation.nms import overlap
from micro_sam.labels import interior_point, object_windows
from micro_sam.progress import Progress
from micro_sam.sam_annotator.session.diff import Window
from micro_sam.sam_annotator.session.prompts import Point
from micro_sam.sam_annotator.session.review import Doubt
from micro_sam.sam_annotator.session.segmentation import ObjectPrompt, iter_decode

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings

_PLANES = 3  # of an object in a volume or time series
_TEXT = "Look for doubtful objects"
_ENOUGH = 5  # objects, to say which size is odd
_USUAL = 2.0  # robust standard deviations of the logarithm of the size
_SOLIDITY = 4.0  # how fast a dented shape becomes doubtful
_NOTHING = 2.0  # how fast being unsure of both answers means that nothing is there
_MENTIONED = 0.1  # what counts less is no reason

#: What counts how much.
WEIGHTS: Mapping[str, float] = {
    "box": 0.9,
    "click": 0.6,
    "score": 0.5,
    "stability": 0.4,
    "nothing": 0.9,
    "shape": 0.6,
    "pieces": 0.8,
    "size": 0.3,
    "touching": 0.2,
}


@dataclass(eq=False)
class _Section:
    """An object in one plane, and what is found out about it."""

    label: int
    i: int | None
    mask: Instance
    touching: float
    solidity: float
    answers: dict[str, Instance | None] = field(default_factory=dict)


def iter_doubts(
    labels: np.ndarray, predictor: SamPredictor, embeddings: ImageEmbeddings, is_series: bool = False
) -> Generator[Progress, None, tuple[Doubt, ...]]:
    """Find out how doubtful objects are.

    In a volume or time series each object is looked at in up to three planes; the most doubtful speaks for it.

    Args:
        labels: YX, ZYX or TYX. They may change meanwhile; objects that vanish are left out.
        predictor: The model. Its image is replaced.
        embeddings: Of the image, volume or time series, complete.
        is_series: The first axis is time: how long a track is says nothing about its size.

    Returns:
        All objects, the most doubtful first.

    Raises:
        StoreError: Embeddings that are needed were not computed yet.
    """
    yield Progress(0, 0, _TEXT)
    windows = object_windows(labels)
    sections = list(_sections(labels, windows))
    areas = {label: int(np.count_nonzero(labels[window] == label)) for label, window in windows.items()}
    lengths = {label: window[0].stop - window[0].start if is_series else 1 for label, window in windows.items()}
    sizes = _odd_sizes({label: area / lengths[label] for label, area in areas.items()})
    done = 0
    for i, group in itertools.groupby(sorted(sections, key=lambda s: s.i or 0), key=lambda s: s.i):
        for _ in _ask(list(group), predictor, embeddings, i):
            done += 1
            yield Progress(done // 2, len(sections), _TEXT)
    found: dict[int, Doubt] = {}
    usual = {name: _usual(sections, name) for name in ("score", "stability")}
    usual["solidity"] = float(np.median([s.solidity for s in sections])) if len(sections) >= _ENOUGH else 1.0
    for section in sections:
        label = section.label
        doubt, reasons = _judged(section, usual, sizes[label])
        if label not in found or doubt > found[label].doubt:
            box = tuple(int(v) for s in windows[label] for v in (s.start, s.stop))
            found[label] = Doubt(label, doubt, reasons, box, areas[label], section.i)
    return tuple(sorted(found.values(), key=lambda doubt: (-doubt.doubt, doubt.label)))


def _sections(labels: np.ndarray, windows: Mapping[int, Window]) -> Iterator[_Section]:
    for label, window in windows.items():
        for i in _planes(labels, label, window):
            plane, inner = (labels, window) if i is None else (labels[i], window[1:])
            mask = make_instance(plane[inner] == label, tuple(s.start for s in inner))
            if mask is not None:
                yield _Section(label, i, mask, _touching(plane, label, inner), _solidity(mask.mask))


def _planes(labels: np.ndarray, label: int, window: Window) -> list[int | None]:
    """Where an object is looked at: where it is largest, and a quarter from its ends."""
    if labels.ndim == 2:
        return [None]
    areas = (labels[window] == label).sum(axis=(1, 2))
    there = np.flatnonzero(areas)
    if len(there) <= _PLANES:
        return [int(window[0].start + z) for z in there]
    picked = {int(areas.argmax()), int(there[len(there) // 4]), int(there[-1 - len(there) // 4])}
    return [window[0].start + z for z in sorted(picked)]


def _touching(plane: np.ndarray, label: int, window: Window) -> float:
    """Which part of an object's outline lies at other objects."""
    wide = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in window)
    block = plane[wide]
    mask = block == label
    outline = ndimage.binary_dilation(mask) & ~mask
    return float((block[outline] != 0).mean()) if outline.any() else 0.0


def _solidity(mask: np.ndarray) -> float:
    """Which part of its convex hull an object fills; two round objects taken for one leave a gap at their waist."""
    corners = np.argwhere(mask ^ ndimage.binary_erosion(mask))
    corners = np.concatenate([corners + offset for offset in ((0, 0), (0, 1), (1, 0), (1, 1))])
    return float(np.count_nonzero(mask) / ConvexHull(corners).volume)


def _odd_sizes(sizes: Mapping[int, float]) -> dict[int, float]:
    """How unusual the size of each object is, from -1 (small) to 1 (large)."""
    if len(sizes) < _ENOUGH:
        return dict.fromkeys(sizes, 0.0)
    logs = np.log([max(1, size) for size in sizes.values()])
    middle = np.median(logs)
    spread = 1.4826 * np.median(np.abs(logs - middle)) + 0.05
    how_far = (logs - middle) / spread
    odd = np.sign(how_far) * np.clip((np.abs(how_far) - _USUAL) / _USUAL, 0, 1)
    return dict(zip(sizes, odd.tolist()))


def _ask(
    sections: Sequence[_Section], predictor: SamPredictor, embeddings: ImageEmbeddings, i: int | None
) -> Iterator[None]:
    """Ask the model for objects in a plane, by their boxes and by clicks; yields after each answer."""
    questions = [(section, "box", _by_box(section.mask)) for section in sections]
    questions += [(section, "click", _by_click(section.mask)) for section in sections]
    for k, answer in iter_decode(predictor, embeddings, [prompt for _, _, prompt in questions], i):
        section, name, _ = questions[k]
        section.answers[name] = answer
        yield


def _by_box(mask: Instance) -> ObjectPrompt:
    (y, x), (height, width) = mask.origin, mask.mask.shape
    return ObjectPrompt(box_yxyx=np.array([y, x, y + height - 1, x + width - 1], dtype=float))


def _by_click(mask: Instance) -> ObjectPrompt:
    y, x = interior_point(mask.mask) + mask.origin
    return ObjectPrompt((Point(float(y), float(x)),))


def _usual(sections: Sequence[_Section], name: str) -> float:
    """What the model usually says to its own answers here; how high that is differs from model to model."""
    said = [getattr(section.answers["box"], name) for section in sections if section.answers["box"] is not None]
    return float(np.median(said)) if len(said) >= _ENOUGH else 1.0


def _judged(section: _Section, usual: Mapping[str, float], size: float) -> tuple[float, tuple[str, ...]]:
    """How doubtful an object is in a plane, and why."""
    parts, n_parts = ndimage.label(section.mask.mask)
    boxed, clicked = (section.answers[name] for name in ("box", "click"))
    found = {
        "box": (1 - _agreement(section.mask, boxed), "the model outlines it differently"),
        "click": (1 - _agreement(section.mask, clicked), _click_reason(section.mask, clicked)),
        "score": (_lacking(boxed, usual, "score"), "the model is unsure of it"),
        "stability": (_lacking(boxed, usual, "stability"), "unclear edge"),
        "nothing": (
            np.clip(_NOTHING * min(_lacking(answer, usual, "score") for answer in (boxed, clicked)), 0, 1),
            "there may be nothing",
        ),
        "shape": (
            np.clip(_SOLIDITY * (usual["solidity"] - section.solidity), 0, 1),
            "unusual shape, with a waist or dents",
        ),
        "pieces": (1 - np.bincount(parts.ravel())[1:].max() / section.mask.area, f"in {n_parts} pieces"),
        "size": (abs(size), "unusually large" if size > 0 else "unusually small"),
        "touching": (section.touching, "touches its neighbour"),
    }
    shares = {name: WEIGHTS[name] * float(value) for name, (value, _) in found.items()}
    doubt = 1 - float(np.prod([1 - share for share in shares.values()]))
    ranked = sorted(shares, key=lambda name: -shares[name])
    reasons = tuple(found[name][1] for name in ranked if shares[name] >= _MENTIONED)
    return round(doubt, 4), reasons[:2]


def _lacking(answer: Instance | None, usual: Mapping[str, float], name: str) -> float:
    return 0.0 if answer is None else float(np.clip(usual[name] - getattr(answer, name), 0, 1))


def _agreement(mask: Instance, answer: Instance | None) -> float:
    return 0.0 if answer is None else overlap(mask, answer)


def _click_reason(mask: Instance, answer: Instance | None) -> str:
    """What it means that a click in the object finds something else."""
    if answer is None:
        return "a click there finds nothing"
    if answer.area < 0.75 * mask.area:
        return "may be several objects, or too wide"
    return "may be part of something larger" if answer.area > 1.33 * mask.area else "a click there finds something else"
