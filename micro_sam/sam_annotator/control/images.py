"""The image that is annotated, and the layers on it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from micro_sam.sam_annotator.control.base import Control, shown
from micro_sam.sam_annotator.session.state import COMMITTED

if TYPE_CHECKING:
    from napari.layers import Image


class ImageControl(Control):
    """The image that is annotated, and the layers on it."""

    @shown
    def choose_image(self, layer: Image) -> None:
        """Annotate the image of a layer; labels of an earlier image stay as a layer."""
        image = self.layers.read_image(layer)
        if self.session.image is not None:
            self.close_image()
        self.layers.set_image(layer)
        self.session.open(image, self.journal_beside())
        self.automatic.forget()
        self._show_whether_ready()
        self.show_layers()
        if not self.is_guided:
            self._look_for_unfinished()
        self._on_images_changed()
        self.update_hint()

    def begin_with(self, result: Any) -> None:
        """Begin with labels that were made earlier."""
        self.session.put(COMMITTED, np.asarray(result), "Loaded labels")

    def close_image(self) -> None:
        """End work on the image that is annotated: jobs are cancelled, committed labels stay as a layer."""
        for slot in self.image_slots:
            self.jobs.cancel(slot)
        if self.session.correcting is not None:
            self.session.clear()
        self.session.close_journal()
        self.layers.retire()
        self.session.image = self.session.embeddings = None
        self.panel.banner.hide()

    def show_layers(self) -> None:
        """Make layers that are missing, and bind the keys in them."""
        self.layers.show(self.session.labels)
        self.layers.write_prompts(self.session.prompts)
        self.keys.bind([layer for layer in (*self.layers.own(), self.layers.image) if layer is not None])
        self._show_tool()

    def _on_images_changed(self) -> None:
        layers = self.layers.image_layers()
        current = self.layers.image
        if current is None and self.session.image is None and len(layers) == 1 and not self.is_guided:
            self.panel.later(self._choose_only_image)
        self.panel.embedding.set_images([layer.name for layer in layers], None if current is None else current.name)
        self.update_hint()

    def _choose_only_image(self) -> None:
        layers = self.layers.image_layers()
        if self.layers.image is None and self.session.image is None and len(layers) == 1 and not self.is_guided:
            self.choose_image(layers[0])

    def _on_image_chosen(self, name: str) -> None:
        layer = next((layer for layer in self.layers.image_layers() if layer.name == name), None)
        if layer is not None and layer is not self.layers.image:
            self.choose_image(layer)

    @shown
    def _on_image_replaced(self) -> None:
        """The data of the image layer was replaced: labels are kept where they fit, embeddings are not."""
        layer = self.layers.image
        layer.metadata.pop("micro_sam_array", None)
        image = self.layers.read_image(layer)
        for slot in self.image_slots:
            self.jobs.cancel(slot)
        if image.shape != self.session.labels[COMMITTED].shape:
            self.choose_image(layer)
        else:
            self.session.image, self.session.embeddings = image, None
            self.automatic.forget()
            self._show_whether_ready()
        self.say("The image changed: compute its embeddings again.")

    @shown
    def _on_layers_lost(self, names: list[str]) -> None:
        self.panel.later(functools.partial(self._bring_back, names))

    def _bring_back(self, names: list[str]) -> None:
        if self._closed or self.layers.image is None or self.session.image is None:
            return
        self.show_layers()
        if not self.layers.read_prompts() and self.session.prompts:
            self.layers.write_prompts(self.session.prompts)
        self.say(f"The annotator needs the layer {', '.join(names)}, so it is back. Objects are removed with Shift+D.")
