"""Embeddings and automatic segmentation of data that are larger than a machine, over a Dask cluster.

The data are cut into blocks that overlap. Every block is computed by itself and written under a name that says it is
complete; which blocks are done is written down in a journal. Whatever is killed, worker, scheduler or the program that
drives them, the same call goes on where it stopped. Needs ``pip install micro_sam[distributed]``.
"""

from __future__ import annotations

from micro_sam.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".cluster": ("Cluster", "connect"),
        ".segmentation": ("distributed_segmentation", "iter_distributed_segmentation"),
        ".embeddings": ("distributed_embeddings", "iter_distributed_embeddings"),
        ".model": ("ModelSource",),
        ".blocks": ("Block", "BlockGrid"),
    },
)
