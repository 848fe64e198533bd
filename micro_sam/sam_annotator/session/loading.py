"""Long work of a session as generators of `Progress`: load the model, compute embeddings, segment automatically."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.embeddings import EmbeddingStore, choose_tiling, iter_precompute
from micro_sam.embeddings.metadata import Item
from micro_sam.errors import ParameterError
from micro_sam.models.predictor import get_sam_model
from micro_sam.models.spec import DEFAULT_MODEL
from micro_sam.progress import Progress
from micro_sam.sam_annotator.session.image import AnnotatedImage

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and where it computes.

    Attributes:
        model_type: A registered model; with ``checkpoint_path`` it names the encoder.
        checkpoint_path: A model file of one's own.
        decoder_path: Its decoder, if that is a file of its own.
        device: "cpu", "cuda", ...; None for the best there is.
        precision: "auto", "float32" or "bfloat16".
    """

    model_type: str = DEFAULT_MODEL
    checkpoint_path: str | None = None
    decoder_path: str | None = None
    device: str | None = None
    precision: str = "auto"

    @classmethod
    def of(
        cls, model_type: str, checkpoint_path: Any = None, decoder_path: Any = None, device: Any = None, *more: str
    ) -> ModelChoice:
        """The same from paths and a `torch.device`, as functions take them."""
        texts = (None if value is None else str(value) for value in (checkpoint_path, decoder_path, device))
        return cls(model_type, *texts, *more)

    @property
    def shown_name(self) -> str:
        """What the model is called in the window: its registered name, or the name of one's own file."""
        return self.model_type if self.checkpoint_path is None else Path(self.checkpoint_path).name


@dataclass(frozen=True)
class EmbeddingChoice:
    """How embeddings are computed.

    Attributes:
        path: The store on disk, None to keep them in memory.
        tile_shape: Height and width of tiles; None: tiles for large images only, see `tiling_for`.
        halo: How far tiles reach into their neighbours.
        automatic_tiling: Whether None means automatic or no tiles.
        normalization: "minmax" or "robust".
        batch_size: Tiles or slices encoded at the same time.
    """

    path: str | None = None
    tile_shape: tuple[int, int] | None = None
    halo: tuple[int, int] | None = None
    automatic_tiling: bool = True
    normalization: str = "minmax"
    batch_size: int = 1

    def tiling_for(self, shape: tuple[int, int]) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """Tile shape and halo for a plane: those that were chosen, else those of the store, else tiles for large planes.

        Raises:
            ParameterError: There are tiles without a halo.
        """
        if self.tile_shape is not None:
            if self.halo is None:
                raise ParameterError("tile_shape also needs a halo, for example (128, 128).")
            return self.tile_shape, self.halo
        found = choose_tiling(shape, self.path) if self.automatic_tiling else None
        return (None, None) if found is None else (found.tile_shape, found.halo)


@dataclass(frozen=True, eq=False)
class Ready:
    """What a generator of long work hands out before its end.

    Attributes:
        predictor: The model, once it is loaded.
        embeddings: The store, once it is open; items appear in it while work goes on.
    """

    predictor: SamPredictor | None = None
    embeddings: ImageEmbeddings | None = None


Work = Generator["Progress | Ready", None, Any]


def iter_load_model(choice: ModelChoice) -> Generator[Progress, None, SamPredictor]:
    """Load a model; a download can be watched and cancelled."""
    yield Progress(0, 0, f"Load the model {choice.shown_name}")
    loading = _InThread(lambda bar: _load(choice, bar))
    try:
        while (progress := loading.poll()) is not None:
            yield Progress(*progress, f"Download the model {choice.shown_name}")
    finally:
        loading.cancelled.set()
    return loading.result()


def _load(choice: ModelChoice, bar: Callable[[str], Any]) -> SamPredictor:
    return get_sam_model(
        choice.model_type,
        device=choice.device,
        checkpoint_path=choice.checkpoint_path,
        decoder_path=choice.decoder_path,
        precision=choice.precision,
        progress_bar_factory=bar,
    )


def iter_prepare(
    image: AnnotatedImage,
    choice: EmbeddingChoice,
    model: ModelChoice | SamPredictor,
    focus: Callable[[], tuple[float, ...] | None] | None = None,
) -> Work:
    """Load the model if it is not loaded, and compute the embeddings; hands out both as soon as they can be used.

    Args:
        image: The image.
        choice: How to compute.
        model: The model, or which one to load.
        focus: Tells what is looked at, (y, x) or (i, y, x) in pixels; asked before every batch, nearest comes first.

    Returns:
        The complete embeddings.
    """
    predictor = (yield from iter_load_model(model)) if isinstance(model, ModelChoice) else model
    yield Ready(predictor=predictor)
    tile_shape, halo = choice.tiling_for(image.plane_shape)
    opened: list[EmbeddingStore] = []
    work = iter_precompute(
        predictor,
        image.source.array,
        choice.path,
        ndim=image.ndim,
        tile_shape=tile_shape,
        halo=halo,
        lazy_loading=True,
        normalization=choice.normalization,
        batch_size=choice.batch_size,
        order=None if focus is None else lambda item: _distance(item, focus(), opened),
        on_store=opened.append,
    )
    told = False
    while True:
        try:
            progress = next(work)
        except StopIteration as stop:
            return stop.value
        except BaseException:
            work.close()
            raise
        if opened and not told:
            told = True
            yield Ready(predictor, opened[0])
        try:
            yield progress
        except GeneratorExit:
            work.close()
            raise


def _distance(item: Item, focus: tuple[float, ...] | None, opened: list[EmbeddingStore]) -> float:
    """How far an item is from what is looked at; slices count more than tiles."""
    if focus is None:
        return 0.0
    distance = 0.0 if item.i is None or len(focus) < 3 else 1e6 * abs(item.i - focus[0])
    if item.tile_id is not None and opened:
        rows, columns = opened[0].metadata.tiling.tile(item.tile_id).inner
        center = (rows.start + rows.stop) / 2, (columns.start + columns.stop) / 2
        distance += float(np.hypot(center[0] - focus[-2], center[1] - focus[-1]))
    return distance


class _Cancelled(BaseException):
    """Ends a download from inside its progress bar; no except clause for errors takes it."""


class _InThread:
    """Run a function that reports through a progress bar in a thread, and poll it from a generator."""

    def __init__(self, function: Callable[[Callable[[str], Any]], Any]) -> None:
        self.cancelled = threading.Event()
        self._reports: queue.Queue[tuple[int, int]] = queue.Queue()
        self._outcome: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True, name="micro_sam model")
        self._thread.start()

    def _run(self, function: Callable[[Callable[[str], Any]], Any]) -> None:
        try:
            self._outcome = function(lambda name: _Bar(self))
        except (Exception, _Cancelled) as error:  # noqa: BLE001 - raised again where the result is asked for
            self._error = error

    def report(self, done: int, total: int) -> None:
        """Called by the bar, in the thread."""
        if self.cancelled.is_set():
            raise _Cancelled
        self._reports.put((done, total))

    def poll(self) -> tuple[int, int] | None:
        """Wait for a report; None when the function has ended. Without news it is (0, 0)."""
        while self._thread.is_alive():
            self._thread.join(_POLL_SECONDS if self._reports.empty() else 0)
            latest = None
            while not self._reports.empty():
                latest = self._reports.get()
            if self._thread.is_alive():
                return latest or (0, 0)
        return None

    def result(self) -> Any:
        """What the function returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._outcome


class _Bar:
    """What pooch needs of a progress bar."""

    def __init__(self, owner: _InThread) -> None:
        self.total, self._done, self._owner = 0, 0, owner

    def update(self, n: int) -> None:
        """n more bytes came."""
        self._done += n
        self._owner.report(self._done, int(self.total or 0))

    def reset(self) -> None:
        """Begin again."""
        self._done = 0

    def close(self) -> None:
        """The end."""


def model_description(predictor: SamPredictor) -> Mapping[str, Any]:
    """What the journal says about a model."""
    return {"model": predictor.model_name, "model_hash": getattr(predictor, "_hash", None)}
