"""What segmenting in tiles has in common, whatever is predicted in them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import numpy as np

from micro_sam import embedding_access
from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.base import Segmenter
from micro_sam.progress import Progress, drain

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings


class TiledSegmenter(Segmenter):
    """Initializes from tiled embeddings; stands before the segmenter of whole images among the bases of a class."""

    _predictor: SamPredictor

    def _predict_tiles(self, image_embeddings: ImageEmbeddings, i: int | None) -> Generator[Progress, None, None]:
        """Predict in every tile that has embeddings, and keep the result as the state."""
        raise NotImplementedError

    def initialize(
        self,
        image: np.ndarray | None,
        image_embeddings: ImageEmbeddings | None = None,
        i: int | None = None,
        tile_shape: tuple[int, int] | None = None,
        halo: tuple[int, int] | None = None,
        verbose: bool = False,
        pbar_init: Callable[[int, str], None] | None = None,
        pbar_update: Callable[[int], None] | None = None,
        batch_size: int = 1,
        mask: np.ndarray | None = None,
    ) -> None:
        """Predict everything that `generate` needs, tile by tile.

        Args:
            image: The image (YX or YXC). It may be None when embeddings are given.
            image_embeddings: Tiled embeddings of the image; computed if not given.
            i: The slice, for embeddings of a volume or time series.
            tile_shape: Height and width of a tile, for computing embeddings.
            halo: How much a tile is enlarged on each side.
            verbose: Show a progress bar.
            pbar_init: Called with (total, description).
            pbar_update: Called with the number of tiles done.
            batch_size: How many tiles to encode at once.
            mask: Only tiles that have something in this mask (YX) are segmented.
        """
        work = self.iter_initialize(image, image_embeddings, i, tile_shape, halo, batch_size, mask)
        drain(work, verbose, pbar_init, pbar_update)

    def iter_initialize(
        self,
        image: np.ndarray | None,
        image_embeddings: ImageEmbeddings | None = None,
        i: int | None = None,
        tile_shape: tuple[int, int] | None = None,
        halo: tuple[int, int] | None = None,
        batch_size: int = 1,
        mask: np.ndarray | None = None,
    ) -> Generator[Progress, None, None]:
        """`initialize` as a generator of `Progress`."""
        if image_embeddings is None and (tile_shape is None or halo is None):
            raise ParameterError("Segmenting in tiles needs tile_shape and halo, or tiled image_embeddings.")
        image_embeddings = yield from embedding_access.iter_embed(
            self._predictor, image, image_embeddings, tile_shape, halo, batch_size, mask
        )
        yield from self._predict_tiles(image_embeddings, i)
