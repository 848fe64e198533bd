"""Prompts for a mask: checking what a person or script hands in, and deriving prompts from masks.

Only numpy: points in pixel coordinates of the image. ``_yx`` and ``_xy`` in a name give the axis order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from micro_sam.errors import PromptError
from micro_sam.labels import interior_point

MASK_PROMPT_SIDE = 256
_MASK_PROMPT_EPS = 1e-3


def _numbers(value: object, what: str) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise PromptError(f"{what} must be an array of numbers, got {type(value).__name__}.") from None
    if array.size == 0:
        raise PromptError(f"{what} is empty, at least one is needed.")
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        raise PromptError(f"{what} contain {array[tuple(where)]} at index {tuple(int(w) for w in where)}.")
    return array


def check_points(points: object, shape: Sequence[int], order: str = "yx") -> np.ndarray:
    """Points of one object as float array of shape (n, 2), in the order they came in.

    Args:
        points: (n, 2).
        shape: Height and width of the image.
        order: "yx" or "xy".

    Raises:
        PromptError: They are empty, not of shape (n, 2), not finite or outside the image.
    """
    array = _numbers(points, "Points")
    if array.ndim != 2 or array.shape[1] != 2:
        raise PromptError(f"Points must have the shape (n, 2), got {array.shape}.")
    limits = np.array(shape[:2] if order == "yx" else shape[1::-1], dtype=float)
    outside = ((array < -0.5) | (array > limits - 0.5)).any(axis=1)
    if outside.any():
        index = int(np.argmax(outside))
        point = ", ".join(f"{v:g}" for v in array[index])
        raise PromptError(
            f"Point {index} ({', '.join(order)}) = ({point}) lies outside the image of height {shape[0]} and width {shape[1]}."
        )
    return array


def check_point_labels(labels: object, n_points: int) -> np.ndarray:
    """Labels of points as int array of shape (n_points,), 1 for positive and 0 for negative.

    Raises:
        PromptError: There are more or fewer labels than points, or other values than 0 and 1.
    """
    array = _numbers(labels, "Point labels")
    if array.shape != (n_points,):
        raise PromptError(f"Each of the {n_points} points needs one label, got labels of shape {array.shape}.")
    wrong = ~np.isin(array, (0, 1))
    if wrong.any():
        index = int(np.argmax(wrong))
        raise PromptError(f"Point labels are 1 (positive) or 0 (negative), got {array[index]:g} for point {index}.")
    return array.astype(np.int64)


def check_box(box: object, shape: Sequence[int], order: str = "yxyx", index: int | None = None) -> np.ndarray:
    """A box as float array of four numbers: both minima, then both maxima, in the order they came in.

    A box that reaches over the edge of the image is clipped to it.

    Args:
        box: Four numbers.
        shape: Height and width of the image.
        order: "yxyx" or "xyxy".
        index: Number of the box, for the message.

    Raises:
        PromptError: It is not four finite numbers, is inverted, has no extent, or lies outside the image.
    """
    name = "The box" if index is None else f"Box {index}"
    array = _numbers(box, name)
    if array.shape != (4,):
        raise PromptError(f"{name} must have four numbers {_box_names(order)}, got the shape {array.shape}.")
    text = f"[{', '.join(f'{v:g}' for v in array)}]"
    for axis in (0, 1):
        if array[axis + 2] < array[axis]:
            names = _box_names(order)
            raise PromptError(f"{name} {text} is inverted: {names[axis + 2]} is smaller than {names[axis]}.")
        if array[axis + 2] == array[axis] and max(shape[:2]) > 1:
            raise PromptError(f"{name} {text} has no extent along {order[axis]}.")
    limits = np.array(shape[:2] if order == "yxyx" else shape[1::-1], dtype=float)
    if (array[2:] <= -0.5).any() or (array[:2] >= limits - 0.5 + 1e-9).any():
        raise PromptError(f"{name} {text} lies outside the image of height {shape[0]} and width {shape[1]}.")
    return np.clip(array, 0, np.concatenate([limits, limits]))


def _box_names(order: str) -> tuple[str, ...]:
    return tuple(f"{bound}_{axis}" for bound, axis in zip(("min", "min", "max", "max"), order))


def check_mask(mask: object, shape: Sequence[int]) -> np.ndarray:
    """A mask prompt as bool array of the image's shape.

    Raises:
        PromptError: It is not 2d, not of the image's shape, not finite, or empty.
    """
    array = np.squeeze(np.asarray(mask)) if np.ndim(mask) > 2 else np.asarray(mask)
    if array.shape != tuple(shape[:2]):
        raise PromptError(f"The mask must have the shape of the image {tuple(shape[:2])}, got {array.shape}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise PromptError("The mask contains NaN or infinity.")
    array = array.astype(bool)
    if not array.any():
        raise PromptError("The mask is empty, there is nothing to segment.")
    return array


def mask_to_box(mask: np.ndarray, extension: float = 0.0) -> np.ndarray:
    """The box around a mask, [min_y, min_x, max_y, max_x] with exclusive maxima, as float.

    Args:
        mask: Not empty, 2d.
        extension: How much to enlarge it, see `extend_box`.
    """
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.array([ys[0], xs[0], ys[-1] + 1, xs[-1] + 1], dtype=np.float64)
    return extend_box(box, mask.shape, extension)


def extend_box(box_yxyx: np.ndarray, shape: Sequence[int], extension: float) -> np.ndarray:
    """Enlarge a box on every side and clip it to the image.

    Args:
        box_yxyx: [min_y, min_x, max_y, max_x].
        shape: Height and width of the image.
        extension: Below one: fraction of the box's side; from one on: pixels.

    Raises:
        PromptError: The extension is negative or not finite.
    """
    if not np.isfinite(extension) or extension < 0:
        raise PromptError(f"box_extension must not be negative, got {extension}.")
    if extension == 0:
        return box_yxyx
    sides = np.array([box_yxyx[2] - box_yxyx[0], box_yxyx[3] - box_yxyx[1]])
    by = sides * extension if extension < 1 else np.full(2, float(extension))
    limits = np.array([*shape[:2], *shape[:2]], dtype=float)
    return np.clip(box_yxyx + np.concatenate([-by, by]), 0, limits)


def mask_to_points(mask: np.ndarray, box_extension: float = 0.0, single: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Point prompts for a mask: its most interior pixel, and (unless ``single``) the surrounding's.

    Negative points lie in the middle of the mask's box sides pushed outwards, where these are not in the mask.

    Returns:
        Points (n, 2) in (y, x) and their labels (n,).
    """
    points, labels = [interior_point(mask)], [1]
    if not single:
        y0, x0, y1, x1 = extend_box(mask_to_box(mask), mask.shape, max(box_extension, 0.1))
        center_y, center_x = (y0 + y1) / 2, (x0 + x1) / 2
        for y, x in ((y0 - 1, center_x), (y1, center_x), (center_y, x0 - 1), (center_y, x1)):
            pixel = round(y), round(x)
            if 0 <= pixel[0] < mask.shape[0] and 0 <= pixel[1] < mask.shape[1] and not mask[pixel]:
                points.append(np.array(pixel))
                labels.append(0)
    return np.array(points, dtype=np.float64), np.array(labels)


def mask_to_logits(mask: np.ndarray, input_size: Sequence[int], image_size: int = 1024) -> np.ndarray:
    """A binary mask as the low resolution logits that the prompt encoder takes.

    Args:
        mask: Bool, of the image's shape.
        input_size: Height and width of the image after resizing its longest side to ``image_size``.
        image_size: Side of the padded square image the encoder sees.

    Returns:
        float32 (1, 256, 256); padding counts as outside.
    """
    side = MASK_PROMPT_SIDE
    height, width = (max(1, round(s * side / image_size)) for s in input_size)
    probability = np.zeros((side, side), dtype=np.float32)
    probability[:height, :width] = _area_resize(mask.astype(np.float32), (height, width))
    probability = np.clip(probability, _MASK_PROMPT_EPS, 1 - _MASK_PROMPT_EPS)
    return np.log(probability / (1 - probability))[None]


def _area_resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize by averaging when shrinking and linear interpolation when growing."""
    factors = [s / t for s, t in zip(image.shape, shape)]
    sigmas = [max(0.0, (f - 1) / 2) for f in factors]
    if any(sigmas):
        image = ndimage.gaussian_filter(image, sigmas, mode="nearest")
    grids = [(np.arange(t) + 0.5) * f - 0.5 for t, f in zip(shape, factors)]
    return ndimage.map_coordinates(image, np.meshgrid(*grids, indexing="ij"), order=1, mode="nearest")
