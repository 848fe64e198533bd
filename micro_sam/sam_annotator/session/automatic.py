"""Automatic segmentation in a session: what is expensive is kept, so that changed parameters only generate again."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.embeddings.access import is_tiled
from micro_sam.errors import StoreDamagedError, UnknownModelError
from micro_sam.instance_segmentation import get_instance_segmentation_generator, get_segmentation_mode
from micro_sam.instance_segmentation.settings import settings_for
from micro_sam.instance_segmentation.state import has_state, load_state, save_state
from micro_sam.models.decoder_adapter import get_decoder
from micro_sam.models.spec import get_spec
from micro_sam.progress import Progress
from micro_sam.sam_annotator.session.segmentation import own_predictor

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings
    from micro_sam.instance_segmentation.base import Segmenter
    from micro_sam.sam_annotator.session.image import AnnotatedImage

logger = logging.getLogger(__name__)


def modes_of(predictor: SamPredictor) -> list[str]:
    """The modes of automatic segmentation that a model can do; the best first."""
    return ["ais", "apg", "amg"] if predictor.decoder_state is not None else ["amg"]


def default_settings(mode: str, model_name: str | None, own: Mapping[str, Mapping[str, Any]] | None = None) -> Any:
    """The settings of a mode, with the defaults that belong to a model.

    Args:
        mode: "amg", "ais" or "apg".
        model_name: A registered model.
        own: What a model file of one's own says, by mode; it wins.
    """
    if own and mode in own:
        return settings_for(mode, own[mode])
    try:
        spec = get_spec(model_name) if model_name else None
    except UnknownModelError:
        spec = None
    return settings_for(mode, getattr(spec, mode, None))


@dataclass(eq=False)
class AutomaticSegmentation:
    """Segmenters that are ready to generate, one for each slice, mode and settings that need a new start."""

    _ready: dict[tuple, Segmenter] = field(default_factory=dict)
    _decoder: tuple[Any, Any] | None = None

    def forget(self) -> None:
        """The image, its embeddings or the model changed."""
        self._ready.clear()

    def release(self, segmenter: Segmenter) -> None:
        """Do not keep this one any longer."""
        self._ready = {key: kept for key, kept in self._ready.items() if kept is not segmenter}

    def iter_segment(
        self,
        image: AnnotatedImage,
        predictor: SamPredictor,
        embeddings: ImageEmbeddings,
        settings: Any,
        i: int | None = None,
    ) -> Generator[Progress, None, np.ndarray]:
        """Segment a plane.

        Args:
            image: The image.
            predictor: The model.
            embeddings: Its embeddings.
            settings: One of the settings of `micro_sam.instance_segmentation.settings`.
            i: The slice, None in an image.

        Returns:
            Labels (YX), uint32.

        Raises:
            ParameterError: The model cannot do this.
        """
        segmenter = yield from self.iter_prepare(image, predictor, embeddings, settings, i)
        yield Progress(0, 0, "Segment")
        return np.asarray(segmenter.generate(**settings.generate_kwargs()))

    def iter_prepare(
        self,
        image: AnnotatedImage,
        predictor: SamPredictor,
        embeddings: ImageEmbeddings,
        settings: Any,
        i: int | None = None,
    ) -> Generator[Progress, None, Segmenter]:
        """The expensive part of `iter_segment`, kept in memory, and beside embeddings that lie on disk.

        Returns:
            What is ready to generate.
        """
        key = (id(embeddings), id(predictor), _family(settings.mode), tuple(settings.init_kwargs().items()), i)
        fresh, segmenter = self._make(predictor, embeddings, settings), self._ready.get(key)
        if segmenter is None:
            yield from self._initialize(fresh, image, embeddings, settings, i)
            segmenter = fresh
        elif type(segmenter) is not type(fresh):  # AIS and APG begin with the same maps
            fresh.set_state({**segmenter.get_state(), "image_embeddings": embeddings, "i": i})
            segmenter = fresh
        self._ready[key] = segmenter
        return segmenter

    def _make(self, predictor: SamPredictor, embeddings: ImageEmbeddings, settings: Any) -> Segmenter:
        mode = get_segmentation_mode(settings.mode, predictor.decoder_state is not None)
        decoder = None if mode == "amg" else self._decoder_of(predictor)
        tiled = is_tiled(embeddings)
        arguments = {k: v for k, v in settings.init_kwargs().items() if not (tiled and k.startswith("crop_"))}
        return get_instance_segmentation_generator(own_predictor(predictor), tiled, decoder, mode, **arguments)

    def _decoder_of(self, predictor: SamPredictor) -> Any:
        if self._decoder is None or self._decoder[0] is not predictor:
            model = predictor.model.image_encoder
            made = get_decoder(model, predictor.decoder_state, predictor.device, precision=predictor.precision)
            self._decoder = (predictor, made)
        return self._decoder[1]

    @staticmethod
    def _initialize(
        segmenter: Segmenter, image: AnnotatedImage, embeddings: ImageEmbeddings, settings: Any, i: int | None
    ) -> Generator[Progress, None, None]:
        folder = getattr(embeddings, "path", None) if settings == replace(settings, **_plain_start(settings)) else None
        if folder is not None and _stored(folder, settings.mode, i):
            segmenter.set_state({**load_state(folder, settings.mode, i), "image_embeddings": embeddings, "i": i})
            return
        yield from segmenter.iter_initialize(image.plane(i), embeddings, i)
        if folder is not None:
            _store(folder, segmenter.get_state(), settings.mode, i)


def _plain_start(settings: Any) -> dict[str, Any]:
    """The settings of the start with their defaults; only such states are kept on disk."""
    return type(settings)().init_kwargs()


def _store(folder: Any, state: Any, mode: str, i: int | None) -> None:
    try:
        save_state(folder, state, mode, i)
    except StoreDamagedError as error:  # a folder that cannot be written is no reason to stop
        logger.warning("%s", error)


def _family(mode: str) -> str:
    """Modes with the same state."""
    return "amg" if mode == "amg" else "decoder"


def _stored(folder: Any, mode: str, i: int | None) -> bool:
    try:
        return has_state(folder, mode, i)
    except StoreDamagedError:
        return False
