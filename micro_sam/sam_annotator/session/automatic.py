"""Automatic segmentation in a session: what is expensive is kept, so that changed parameters only generate again."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.embeddings.access import is_tiled
from micro_sam.errors import ParameterError, StoreDamagedError, UnknownModelError
from micro_sam.instance_segmentation import get_instance_segmentation_generator, get_segmentation_mode
from micro_sam.instance_segmentation.settings import SETTINGS, settings_for
from micro_sam.instance_segmentation.state import has_state, load_state
from micro_sam.models.decoder_adapter import get_decoder
from micro_sam.models.spec import get_spec
from micro_sam.progress import Progress
from micro_sam.sam_annotator.session.segmentation import own_predictor

if TYPE_CHECKING:
    from segment_anything import SamPredictor

    from micro_sam.embedding_access import ImageEmbeddings
    from micro_sam.instance_segmentation.base import Segmenter
    from micro_sam.sam_annotator.session.image import AnnotatedImage


def modes_of(predictor: SamPredictor) -> list[str]:
    """The modes of automatic segmentation that a model can do; the best first."""
    return ["ais", "apg", "amg"] if predictor.decoder_state is not None else ["amg"]


def default_settings(mode: str, model_name: str | None) -> Any:
    """The settings of a mode, with the defaults that belong to a model."""
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
        key = (id(embeddings), id(predictor), _family(settings.mode), tuple(settings.init_kwargs().items()), i)
        segmenter = self._ready.get(key)
        if segmenter is None or type(segmenter) is not type(self._make(predictor, embeddings, settings)):
            fresh = self._make(predictor, embeddings, settings)
            state = None if segmenter is None else segmenter.get_state()
            if state is not None:
                fresh.set_state(state)
            else:
                yield from self._initialize(fresh, image, embeddings, settings.mode, i)
            segmenter = self._ready[key] = fresh
        yield Progress(0, 0, "Segment")
        return np.asarray(segmenter.generate(**settings.generate_kwargs()))

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
        segmenter: Segmenter, image: AnnotatedImage, embeddings: ImageEmbeddings, mode: str, i: int | None
    ) -> Generator[Progress, None, None]:
        folder = getattr(embeddings, "path", None)
        if folder is not None and _stored(folder, mode, i):
            segmenter.set_state(load_state(folder, mode, i))
            return
        yield from segmenter.iter_initialize(image.plane(i), embeddings, i)


def _family(mode: str) -> str:
    """Modes with the same state."""
    return "amg" if mode == "amg" else "decoder"


def _stored(folder: Any, mode: str, i: int | None) -> bool:
    try:
        return has_state(folder, mode, i)
    except StoreDamagedError:
        return False


def check_mode(mode: str) -> str:
    """Raise `ParameterError` unless there is such a mode."""
    if mode not in SETTINGS:
        raise ParameterError(f"The mode is one of {', '.join(SETTINGS)}, got {mode!r}.")
    return mode
