"""Mean and spread of a model's embedding over each object of a plane, with or without tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from micro_sam.embedding_access import ImageEmbeddings, image_shape, is_tiled, tile_ids, tiling_of
from micro_sam.embeddings import EmbeddingStore, Item
from micro_sam.embeddings.metadata import ENCODER_SIDE, FEATURE_SHAPE
from micro_sam.embeddings.tiling import Slices

_CHANNELS, _SIDE = FEATURE_SHAPE[0], FEATURE_SHAPE[1]
_CELL = ENCODER_SIDE // _SIDE
#: Objects that the sampling grid hits less often are sampled at all of their pixels.
_LEAST_SAMPLES = 16


@dataclass(eq=False)
class Pool:
    """Sums over the pixels of each object, to which planes and tiles are added one after another.

    Attributes:
        sums: Sum of the embedding, (n_objects, 256).
        squares: Sum of its square.
        weights: How many pixels were added, (n_objects,).
    """

    sums: np.ndarray
    squares: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, n_objects: int) -> Pool:
        """An empty pool."""
        return cls(np.zeros((n_objects, _CHANNELS)), np.zeros((n_objects, _CHANNELS)), np.zeros(n_objects))

    def add(self, features: np.ndarray, rows: np.ndarray, cells: sparse.csr_matrix) -> None:
        """Add the objects ``rows``, which lie in the cells of an embedding (256, 64, 64) with these weights."""
        flat = np.asarray(features, np.float32).reshape(_CHANNELS, -1).T
        self.sums[rows] += cells @ flat
        self.squares[rows] += cells @ flat**2
        self.weights[rows] += np.asarray(cells.sum(axis=1))[:, 0]

    def mean_and_std(self) -> np.ndarray:
        """Mean and standard deviation, (n_objects, 512); NaN for objects of which nothing was added."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.sums / self.weights[:, None]
            variance = self.squares / self.weights[:, None] - mean**2
        return np.hstack([mean, np.sqrt(np.maximum(variance, 0))])


@dataclass(frozen=True)
class Piece:
    """The part of a plane that takes its features from one embedding.

    Attributes:
        tile_id: The tile, None without tiling.
        window: The pixels (y, x): each pixel of the plane belongs to one piece, also where tiles overlap.
        offset: Where the encoder's image begins in the plane.
        original_size: Height and width of the encoder's image before it was resized.
        input_size: The same after its long side was resized to 1024.
    """

    tile_id: int | None
    window: Slices
    offset: tuple[int, int]
    original_size: tuple[int, int]
    input_size: tuple[int, int]


def pieces_of(embeddings: ImageEmbeddings, i: int | None) -> list[Piece]:
    """The pieces of a plane that have embeddings: its tiles without their halos, or the whole plane."""
    if not is_tiled(embeddings):
        height, width = image_shape(embeddings)
        input_size = tuple(int(size) for size in embeddings["input_size"])
        return [Piece(None, (slice(0, height), slice(0, width)), (0, 0), (height, width), input_size)]
    tiling, found = tiling_of(embeddings), []
    for tile_id in tile_ids(embeddings, i):
        tile = tiling.tile(tile_id)
        height, width = tile.shape
        scale = ENCODER_SIDE / max(height, width)
        input_size = int(height * scale + 0.5), int(width * scale + 0.5)
        found.append(Piece(tile_id, tile.inner, tile.offset, (height, width), input_size))
    return found


def read_features(embeddings: ImageEmbeddings, i: int | None, tile_id: int | None) -> np.ndarray:
    """The embedding (256, 64, 64) of a plane or tile."""
    if isinstance(embeddings, EmbeddingStore):
        return embeddings.read(Item(i, tile_id))[0]
    features = embeddings["features"] if tile_id is None else embeddings["features"][str(tile_id)]
    return np.asarray(features[...] if i is None else features[i])[0]


def cell_weights(
    rows: np.ndarray, piece: Piece, grid_shape: tuple[int, int]
) -> tuple[np.ndarray, sparse.csr_matrix] | None:
    """Which objects lie in a piece, and in which cells of its embedding, by bilinear interpolation.

    Args:
        rows: The number of the object of each pixel of the piece, -1 for none.
        piece: The piece.
        grid_shape: At about how many places along (y, x) the embedding is sampled; small objects are sampled in full.

    Returns:
        The objects' numbers and their weights, (n, 64 * 64) in pixels; None if there are no objects.
    """
    steps = tuple(max(1, size // wanted) for size, wanted in zip(piece.original_size, grid_shape))
    samples = _samples(rows, steps)
    if samples is None:
        return None
    y, x, weights = samples
    found, own_rows = np.unique(rows[y, x], return_inverse=True)
    (y0, y1, fy), (x0, x1, fx) = (_between_cells(v, piece, axis) for axis, v in enumerate((y, x)))
    corners = ((y0, x0, (1 - fy) * (1 - fx)), (y0, x1, (1 - fy) * fx), (y1, x0, fy * (1 - fx)), (y1, x1, fy * fx))
    cells = np.concatenate([cy * _SIDE + cx for cy, cx, _ in corners])
    values = np.concatenate([weights * share for _, _, share in corners])
    shape = len(found), _SIDE * _SIDE
    return found, sparse.coo_matrix((values, (np.tile(own_rows, 4), cells)), shape=shape).tocsr()


def _samples(rows: np.ndarray, steps: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Where objects are sampled (y, x), and for how many pixels each sample stands."""
    inside = rows >= 0
    if not inside.any():
        return None
    if steps == (1, 1):
        y, x = np.nonzero(inside)
        return y, x, np.ones(len(y))
    on_grid = np.zeros(rows.shape, bool)
    on_grid[tuple(slice(step // 2, None, step) for step in steps)] = True
    counts = np.bincount(rows[on_grid & inside], minlength=int(rows.max()) + 1)
    is_small = counts < _LEAST_SAMPLES
    in_full = inside & is_small[rows]
    y, x = np.nonzero(in_full | (on_grid & inside))
    return y, x, np.where(in_full[y, x], 1.0, float(steps[0] * steps[1]))


def _between_cells(positions: np.ndarray, piece: Piece, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two cells that pixels lie between along an axis, and how near they are to the second."""
    local = positions + piece.window[axis].start - piece.offset[axis]
    cells = (local + 0.5) * (piece.input_size[axis] / piece.original_size[axis] / _CELL) - 0.5
    last = -(-piece.input_size[axis] // _CELL) - 1  # cells behind it hold padding
    cells = np.clip(cells, 0, last)
    first = np.minimum(cells.astype(np.int64), max(last - 1, 0))
    return first, np.minimum(first + 1, last), cells - first
