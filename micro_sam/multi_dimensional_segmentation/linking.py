"""Link the objects of neighbouring slices to objects of a volume: by their overlap, and a multicut that settles it.

Every object of a slice is a node, and every pair that overlaps in neighbouring slices an edge. An edge attracts where the
smaller object lies mostly within the larger one, and more so where they have the same size; edges are weighted by the
length that the overlap stands for. The multicut (Andres et al., "Probabilistic image segmentation with closedness
constraints", 2011) takes the consistent choice of links that fits the edges best.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import bioimage_cpp as bic
import numpy as np

from micro_sam.errors import ImageError, ParameterError
from micro_sam.instance_segmentation.instances import make_instance
from micro_sam.multi_dimensional_segmentation.label_store import check_out, label_dtype, new_array, rewrite
from micro_sam.multi_dimensional_segmentation.shapes import between
from micro_sam.progress import Progress, drain

_LINKING = "Link objects across slices"
_CONTINUES = 0.5  # an object goes on in the next slice if this much of it is covered by another there


@dataclass(frozen=True)
class LinkSettings:
    """How objects of slices are linked.

    Attributes:
        beta: Between 0 and 1; larger values link less.
        with_background: Whether 0 is background; otherwise it is an object of each slice.
        gap_closing: Objects that are missing in at most this many slices are linked across, and filled in there.
        min_z_extent: Objects that reach over fewer slices are removed.
    """

    beta: float = 0.5
    with_background: bool = True
    gap_closing: int | None = None
    min_z_extent: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1:
            raise ParameterError(f"beta must lie between 0 and 1, got {self.beta!r}.")
        for name in ("gap_closing", "min_z_extent"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (int, np.integer)) or value < 0):
                raise ParameterError(f"{name} is a whole number of at least 0, got {value!r}.")


@dataclass
class _Edges:
    """Pairs of nodes with how well they fit together (0 to 1) and their weight."""

    nodes: list[np.ndarray] = field(default_factory=list)
    fits: list[np.ndarray] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)

    def add(self, nodes: np.ndarray, fits: np.ndarray, weights: np.ndarray) -> None:
        self.nodes.append(nodes)
        self.fits.append(fits)
        self.weights.append(weights)

    def joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not self.nodes:
            return np.zeros((0, 2), dtype=np.int64), np.zeros(0), np.zeros(0)
        return np.concatenate(self.nodes), np.concatenate(self.fits), np.concatenate(self.weights)


class SliceLinker:
    """Takes slices one after another and then says which objects belong together.

    It keeps one number per object and edge, and the labels of as many slices as gaps may be long.
    """

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._edges, self._bridges = _Edges(), _Edges()
        self._recent: deque[np.ndarray] = deque(maxlen=1 + (settings.gap_closing or 0))
        self._ended: deque[np.ndarray] = deque(maxlen=1 + (settings.gap_closing or 0))
        self.first = [1]
        self._bridged: list[np.ndarray] = []

    def add(self, labels: np.ndarray) -> np.ndarray:
        """Add the next slice.

        Args:
            labels: Integers (YX).

        Returns:
            The same objects numbered from 1, uint32: object k is node ``first[z] + k - 1``.
        """
        ids, compact = np.unique(labels, return_inverse=True)
        compact = compact.reshape(labels.shape)
        if not self._settings.with_background or ids[0] != 0:
            compact = compact + 1
        compact = compact.astype(np.uint32)
        z, count = len(self.first) - 1, int(compact.max())
        started = np.ones(count + 1, dtype=bool)
        if self._recent:
            nodes, fits, weights, cover = _overlaps(self._recent[-1], compact)
            self._edges.add(nodes + [self.first[z - 1] - 1, self.first[z] - 1], fits, weights)
            goes_on = nodes[cover >= _CONTINUES]
            self._ended[-1][goes_on[:, 0]] = False
            started[goes_on[:, 1]] = False
        self._bridge(z, compact, started)
        self.first.append(self.first[z] + count)
        self._recent.append(compact)
        self._ended.append(np.ones(count + 1, dtype=bool))
        return compact

    def _bridge(self, z: int, compact: np.ndarray, started: np.ndarray) -> None:
        """Edges from objects that begin here to those that ended before a gap."""
        for back in range(2, len(self._recent) + 1):
            earlier, ended = self._recent[-back], self._ended[-back]
            before, after = np.where(ended[earlier], earlier, 0), np.where(started[compact], compact, 0)
            nodes, fits, weights, cover = _overlaps(before, after)
            good = cover >= _CONTINUES
            nodes = nodes[good] + [self.first[z - back] - 1, self.first[z] - 1]
            self._bridges.add(nodes, fits[good], weights[good])
            self._bridged.append(np.column_stack([nodes, np.full((len(nodes), 2), (z - back, z))]))

    def solve(self) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
        """Find out what belongs together.

        Returns:
            For each node (0 is background) the number of its object, uint64, consecutive, 0 for removed ones; and the
            gaps to fill: object, slice before, slice after.
        """
        labels = self._multicut()
        z_of = np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))
        extent = np.zeros((int(labels.max()) + 1, 2), dtype=np.int64)
        extent[:, 0] = len(self.first)
        np.minimum.at(extent[:, 0], labels[1:], z_of)
        np.maximum.at(extent[:, 1], labels[1:], z_of)
        keep = extent[:, 1] - extent[:, 0] + 1 >= max(self._settings.min_z_extent or 0, 1)
        keep[0] = False
        numbers = np.where(keep, np.cumsum(keep), 0).astype(np.uint64)
        labels = numbers[labels]
        gaps = []
        for u, v, before, after in np.concatenate(self._bridged) if self._bridged else ():
            if labels[u] == labels[v] != 0:
                gaps.append((int(labels[u]), int(before), int(after)))
        return labels, sorted(set(gaps))

    def _multicut(self) -> np.ndarray:
        """A label from 1 for each node, 0 for background."""
        n_nodes = self.first[-1]
        nodes, fits, weights = (
            np.concatenate(pair) for pair in zip(self._edges.joined(), self._bridges.joined(), strict=True)
        )
        if len(nodes) == 0:
            return np.arange(n_nodes)
        from elf.segmentation.multicut import compute_edge_costs, multicut_decomposition

        graph = bic.graph.UndirectedGraph(n_nodes)
        graph.insert_edges(nodes.astype(np.uint64))
        costs = compute_edge_costs(1 - fits, beta=self._settings.beta) * weights / weights.mean()
        found = np.asarray(multicut_decomposition(graph, costs))
        _, found = np.unique(found[1:], return_inverse=True)
        return np.concatenate([[0], found + 1])


def _overlaps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of objects of two slices that overlap.

    Returns:
        The pairs (n, 2), how well each fits, its weight, and which share of the smaller object is covered.
    """
    both = (a > 0) & (b > 0)
    n_b = int(b.max()) + 1
    codes, counts = np.unique(a[both].astype(np.int64) * n_b + b[both], return_counts=True)
    pairs = np.stack(np.divmod(codes, n_b), axis=1).reshape(-1, 2)
    sizes = np.bincount(a.ravel())[pairs[:, 0]], np.bincount(b.ravel())[pairs[:, 1]]
    of_smaller, of_larger = counts / np.minimum(*sizes), counts / np.maximum(*sizes)
    return pairs, (2 * of_smaller + of_larger) / 3, np.sqrt(counts), of_smaller


def merge_instance_segmentation_3d(
    slice_segmentation: np.ndarray,
    beta: float = 0.5,
    with_background: bool = True,
    gap_closing: int | None = None,
    min_z_extent: int | None = None,
    verbose: bool = True,
    pbar_init: Callable[[int, str], None] | None = None,
    pbar_update: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Merge segmentations of the slices of a volume into one segmentation of the volume.

    Args:
        slice_segmentation: Labels (ZYX), of which those of different slices are unrelated.
        beta: Between 0 and 1; larger values link less.
        with_background: Whether 0 is background; otherwise it is an object of each slice.
        gap_closing: Objects that are missing in at most this many slices are linked across, and filled in there.
        min_z_extent: Objects that reach over fewer slices are removed.
        verbose: Show a progress bar.
        pbar_init: Called with (total, description).
        pbar_update: Called with the number of slices done since the last call.

    Returns:
        Labels (ZYX) from 1 on without gaps, 0 is background; uint32, uint64 for more than 2^32 - 1 objects.

    Raises:
        ImageError: The input does not hold labels of a volume.
        ParameterError: A parameter is out of range.
    """
    settings = LinkSettings(beta, with_background, gap_closing, min_z_extent)
    return drain(iter_merge_slices(slice_segmentation, settings), verbose, pbar_init, pbar_update)


def iter_merge_slices(
    slice_segmentation: Any, settings: LinkSettings, out: Any | None = None
) -> Generator[Progress, None, Any]:
    """`merge_instance_segmentation_3d` as a generator; reads and writes slice by slice, into ``out`` if it is given."""
    shape = tuple(slice_segmentation.shape)
    if len(shape) != 3 or 0 in shape or np.dtype(slice_segmentation.dtype).kind not in "biu":
        raise ImageError(f"Expected integer labels of a volume (ZYX), got {slice_segmentation.dtype} of shape {shape}.")
    if out is not None:
        check_out(out, shape, 0)
    linker, numbered = SliceLinker(settings), new_array(shape, np.uint32)
    for z in range(shape[0]):
        numbered[z] = linker.add(np.asarray(slice_segmentation[z]))
        yield Progress(z + 1, shape[0], _LINKING)
    return finish(linker, numbered, out)


def finish(linker: SliceLinker, numbered: Any, out: Any | None = None) -> Any:
    """Write the objects of the volume.

    Args:
        linker: Knows all slices.
        numbered: What its ``add`` returned for each slice; it is overwritten where ``out`` is not given.
        out: Where to write.
    """
    labels, gaps = linker.solve()
    largest = int(labels.max())
    if out is None:
        out = numbered if label_dtype(largest) == numbered.dtype else new_array(numbered.shape, label_dtype(largest))
    check_out(out, numbered.shape, largest)
    first = linker.first
    rewrite(numbered, lambda z: np.concatenate([labels[:1], labels[first[z] : first[z + 1]]]), out)
    for label, before, after in gaps:
        _fill_gap(out, label, before, after)
    return out


def _fill_gap(labels: Any, label: int, before: int, after: int) -> None:
    """Write an object into the slices between two, where there is background."""
    ends = [make_instance(np.asarray(labels[z]) == label) for z in (before, after)]
    if ends[0] is None or ends[1] is None:
        return
    for z in range(before + 1, after):
        shape = between(*ends, (z - before) / (after - before), labels.shape[1:])
        if shape is not None:
            plane = np.array(labels[z])
            target = plane[shape.window]
            target[shape.mask & (target == 0)] = label
            labels[z] = plane
