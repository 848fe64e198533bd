"""The model and the embeddings."""

from __future__ import annotations

import functools
from typing import Any

from micro_sam.embeddings import EmbeddingStore
from micro_sam.errors import PromptError
from micro_sam.sam_annotator.control.base import EMBEDDINGS, MODEL, Control, shown
from micro_sam.sam_annotator.session.loading import EmbeddingChoice, ModelChoice, Ready, iter_load_model


class ModelControl(Control):
    """The model and the embeddings."""

    @shown
    def compute(self) -> None:
        """Compute the embeddings of the image that is chosen."""
        if self.jobs.is_running(EMBEDDINGS):
            return
        if self.session.image is None:
            self._choose_named_image()
        if self.session.image is None:
            raise PromptError("There is no image: drag a file into the window first.")
        self.compute_with(self.panel.embedding.model_choice(), self.panel.embedding.embedding_choice())

    def _choose_named_image(self) -> None:
        layers = self.layers.image_layers()
        name = self.panel.embedding.image.currentText()
        layer = next((layer for layer in layers if layer.name == name), layers[0] if layers else None)
        if layer is not None:
            self.choose_image(layer)

    def compute_with(self, model: ModelChoice, choice: EmbeddingChoice, with_state: bool = False) -> None:
        """Load a model if it is not loaded, and compute embeddings, both beside the window.

        Args:
            model: The model.
            choice: How to compute.
            with_state: Then also compute what automatic segmentation needs.
        """
        session = self.session
        predictor = session.predictor if self._loaded == model else model
        self.automatic.forget()
        self.panel.embedding.set_running(True)
        self._start(
            EMBEDDINGS,
            lambda: self.prepare(session.image, choice, predictor, self.layers.focus),
            on_item=functools.partial(self._on_ready, model),
            on_done=functools.partial(self._on_embeddings, with_state),
            on_end=self._on_embedding_end,
        )

    def _on_embedding_end(self) -> None:
        self.panel.embedding.set_running(False)
        self._show_whether_ready()

    def _show_whether_ready(self) -> None:
        complete = getattr(self.session.embeddings, "is_complete", self.session.embeddings is not None)
        current = self._loaded == self.panel.embedding.model_choice()
        self.panel.embedding.set_ready(bool(complete and current and not self.jobs.is_running(EMBEDDINGS)))

    def use_embeddings(self, embeddings: Any, model: ModelChoice, with_state: bool = False) -> None:
        """Use embeddings that are there already, and load the model for them."""

        def loaded(predictor: Any) -> None:
            self._on_ready(model, Ready(predictor))
            self._on_embeddings(with_state, embeddings)

        self._start(MODEL, lambda: iter_load_model(model), on_done=loaded)

    def _on_ready(self, model: ModelChoice, ready: Ready) -> None:
        if ready.predictor is not self.session.predictor:
            self._loaded = model
            self.session.predictor = ready.predictor
            self._show_modes()
        if ready.embeddings is not None:
            self.session.embeddings = ready.embeddings
        self.update_hint()

    @shown
    def _on_embeddings(self, with_state: bool, embeddings: Any) -> None:
        if isinstance(embeddings, EmbeddingStore):
            embeddings.check_model(self.session.predictor)
        self.session.embeddings = embeddings
        self._show_whether_ready()
        if with_state:
            self._prepare_automatic()
        self.say("The embeddings are ready: click an object, or draw a box around it.", "done")
        self.previews.retry()
        self.embeddings_ready.emit()

    def _on_model_changed(self) -> None:
        self._show_whether_ready()
        if self.session.embeddings is not None and self._loaded != self.panel.embedding.model_choice():
            self.say("The model changed: compute embeddings to use it. Your labels stay.")
