"""From blocks that were labelled one by one to labels that are unique and consistent over all of them.

Two neighbouring blocks have both seen where they overlap. An object of one and an object of the other are the same if
they are each other's best match there. The same objects form groups over any number of blocks (union-find); each group
gets one number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


def match_labels(a: np.ndarray, b: np.ndarray, least_iou: float) -> np.ndarray:
    """Which labels of two segmentations of the same pixels are the same object.

    Args:
        a: Labels of one segmentation.
        b: Labels of the other one, of the same shape.
        least_iou: By how much (intersection over union) they must agree.

    Returns:
        Pairs (n, 2), int64: labels of a and b that are each other's best match and agree enough.
    """
    a, b = np.asarray(a).ravel(), np.asarray(b).ravel()
    both = (a != 0) & (b != 0)
    if not both.any():
        return np.zeros((0, 2), dtype=np.int64)
    sizes_a, sizes_b = np.bincount(a), np.bincount(b)
    codes = a[both].astype(np.int64) * len(sizes_b) + b[both]
    found, shared = np.unique(codes, return_counts=True)
    labels_a, labels_b = np.divmod(found, len(sizes_b))
    iou = shared / (sizes_a[labels_a] + sizes_b[labels_b] - shared)
    best_a, best_b = np.zeros(len(sizes_a)), np.zeros(len(sizes_b))
    np.maximum.at(best_a, labels_a, iou)
    np.maximum.at(best_b, labels_b, iou)
    keep = (iou >= least_iou) & (iou == best_a[labels_a]) & (iou == best_b[labels_b])
    return np.stack([labels_a[keep], labels_b[keep]], axis=1)


def inner_sizes(labels: np.ndarray, count: int) -> np.ndarray:
    """The number of pixels of each label from 1 to count; int64."""
    return np.bincount(np.asarray(labels).ravel(), minlength=count + 1)[1 : count + 1].astype(np.int64)


@dataclass(frozen=True)
class BlockLinks:
    """What stitching needs to know of one block.

    Attributes:
        sizes: Pixels of each of its labels inside the part that the block is responsible for.
        pairs: For neighbouring blocks by number the pairs (label here, label there) that are the same object.
    """

    sizes: np.ndarray
    pairs: dict[int, np.ndarray]


def number_objects(links: Iterable[BlockLinks], counts: np.ndarray, min_size: int = 0) -> tuple[np.ndarray, int]:
    """Give every object one number, over all blocks.

    Args:
        links: What is known of every block, in the order of their numbers.
        counts: The number of labels of every block.
        min_size: Objects of fewer pixels, over all blocks together, become background.

    Returns:
        The numbers of all labels of all blocks, one block after the other, 0 for those that are dropped, as uint32 or,
        for more than 2^32 - 1 objects, uint64; and how many objects there are.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = np.cumsum(counts, dtype=np.int64)
    offsets, total = ends - counts, int(ends[-1]) if len(ends) else 0
    sizes = np.zeros(total, dtype=np.int64)
    edges = [np.zeros((0, 2), dtype=np.int64)]
    for block, link in enumerate(links):
        sizes[offsets[block] : ends[block]] = link.sizes
        for other, pairs in link.pairs.items():
            edges.append(pairs + [offsets[block] - 1, offsets[other] - 1])
    rows, columns = np.concatenate(edges).T
    graph = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(total, total))
    n_groups, groups = connected_components(graph, directed=False)
    whole = np.zeros(n_groups, dtype=np.int64)
    np.add.at(whole, groups, sizes)
    keep = whole >= max(1, min_size)
    n_objects = int(np.count_nonzero(keep))
    dtype = np.uint32 if n_objects <= np.iinfo(np.uint32).max else np.uint64
    numbers = np.where(keep, np.cumsum(keep), 0).astype(dtype)
    return numbers[groups], n_objects
