"""The annotator for time series."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from micro_sam.io.tracks_reading import read_tracks
from micro_sam.models.spec import DEFAULT_MODEL
from micro_sam.sam_annotator.annotator import AnnotatorWidget, Opening, open_annotator
from micro_sam.sam_annotator.controller_tracking import TrackingController
from micro_sam.sam_annotator.jobs import JobRunner
from micro_sam.sam_annotator.layers_tracking import TRACKS_NAME, TrackingLayers
from micro_sam.sam_annotator.previews import Previews
from micro_sam.sam_annotator.session.follow_settings import LinkSettings
from micro_sam.sam_annotator.session.lineage import Lineage
from micro_sam.sam_annotator.session.loading import ModelChoice
from micro_sam.sam_annotator.session.state import COMMITTED
from micro_sam.sam_annotator.session.tracking import TrackingSession
from micro_sam.sam_annotator.tools import CanvasTools
from micro_sam.sam_annotator.widgets.parts import Folded
from micro_sam.sam_annotator.widgets.settings_form import SettingsForm
from micro_sam.sam_annotator.widgets.tracking_widget import FollowWidget, PromptMenu, TracksWidget

if TYPE_CHECKING:
    import napari
    import torch
    from napari.layers import Points, Shapes

    from micro_sam.embedding_access import ImageEmbeddings


class AnnotatorTracking(AnnotatorWidget):
    """The panel of the tracking annotator.

    Args:
        viewer: The viewer.
        reset_state: Begin anew, instead of taking over committed labels and tracks from layers that are there.
    """

    title: ClassVar[str] = "Annotator Tracking"
    kind: ClassVar[str] = "annotator_tracking"
    ndim: ClassVar[int] = 3
    axes: ClassVar[str] = "tyx"

    def __init__(self, viewer: napari.viewer.Viewer, reset_state: bool = True, **parts: Any) -> None:
        self._lineage_found = _remove_tracks(viewer)
        super().__init__(viewer, reset_state, **parts)

    def _make_controller(self, viewer: napari.viewer.Viewer, jobs: JobRunner, previews: Previews) -> TrackingController:
        self._add_sections()
        session, layers = TrackingSession(kind=self.kind), TrackingLayers(viewer, self.ndim)
        return TrackingController(viewer, self, layers, CanvasTools(viewer), session, jobs, previews)

    def _add_sections(self) -> None:
        self.follow, self.tracks = FollowWidget(), TracksWidget()
        self.insert(self.follow, before=self.automatic)
        self.sections.insertWidget(self.sections.indexOf(self.edit) + 1, self.tracks)
        self.automatic.links = SettingsForm(LinkSettings())
        self.automatic.links.changed.connect(self.automatic.settings_changed)
        self.automatic.add(Folded("Linking of frames", self.automatic.links))
        self.automatic.run.setText("Track all")
        self.automatic.run.setToolTip("Segment all frames and link the objects. Changing parameters later is quick.")
        self.commit.commit.setToolTip("Add the current lineage to the committed tracks. Key: C.")
        self.commit.save.setText("Save…")
        self.commit.save.setToolTip(
            "Write labels (.tif or .zarr) with a graph (.geff) beside them, or a Cell Tracking Challenge folder."
        )
        self.commit.save.clicked.disconnect()
        self.commit.save.clicked.connect(self._on_save)
        self.segment.batched.hide()
        titles = ("4  Track everything", "5  Keep it", "6  Correct objects")
        for section, title in zip((self.automatic, self.commit, self.edit), titles):
            section.heading.setText(f"<b>{title}</b>")

    def _on_save(self) -> None:
        from qtpy.QtWidgets import QFileDialog

        kinds = "Labels and graph (*.tif *.zarr *.geff);;Cell Tracking Challenge folder (*)"
        path, _ = QFileDialog.getSaveFileName(self, "Save tracks", "tracks.tif", kinds)
        if path:
            self.commit.save_requested.emit(path)

    def _take_over(self, labels: np.ndarray) -> None:
        session = self.controller.session
        if session.image is not None and labels.shape == session.image.shape:
            session.put_tracks(COMMITTED, labels, self._lineage_found, "Took over tracks")


def _remove_tracks(viewer: napari.viewer.Viewer) -> Lineage:
    """Take away the tracks layer of an annotator that was closed, and keep what it says about mothers."""
    from napari.layers import Tracks

    if TRACKS_NAME not in viewer.layers or not isinstance(viewer.layers[TRACKS_NAME], Tracks):
        return Lineage()
    layer = viewer.layers[TRACKS_NAME]
    lineage = Lineage.of({daughter: mothers[0] for daughter, mothers in layer.graph.items() if mothers})
    viewer.layers.remove(layer)
    return lineage


def create_tracking_menu(
    points_layer: Points,
    box_layer: Shapes,
    states: Sequence[str],
    track_ids: Sequence[int | str],
    tracking_widget: PromptMenu | None = None,
) -> PromptMenu:
    """A menu for the track and the state of the next prompts.

    Args:
        points_layer: Point prompts with the properties ``track_id`` and ``state``.
        box_layer: Shape prompts with the same properties.
        states: The states, "track" and "division".
        track_ids: The tracks.
        tracking_widget: An existing menu that gets these choices, instead of a new one.

    Returns:
        The menu. What is chosen in it becomes the default of the next prompts in both layers.
    """
    menu = PromptMenu() if tracking_widget is None else tracking_widget
    menu.set_choices(states, track_ids)
    menu.show_choice(int(track_ids[0]), states[0])

    def choose(name: str, value: str) -> None:
        for layer in (points_layer, box_layer):
            now = {column: layer.feature_defaults[column].iloc[0] for column in layer.feature_defaults}
            layer.feature_defaults = {**now, name: value}

    if tracking_widget is None:
        menu.track_chosen.connect(lambda track: choose("track_id", str(track)))
        menu.state_chosen.connect(lambda state: choose("state", state))
    return menu


def annotator_tracking(
    image: np.ndarray,
    embedding_path: str | os.PathLike | ImageEmbeddings | None = None,
    model_type: str = DEFAULT_MODEL,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    return_viewer: bool = False,
    viewer: napari.Viewer | None = None,
    precompute_amg_state: bool = False,
    checkpoint_path: str | os.PathLike | None = None,
    decoder_path: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    *,
    tracking_result: str | os.PathLike | np.ndarray | tuple[np.ndarray, list[dict[int, list[int]]]] | None = None,
    prefer_decoder: bool = True,
    scale: tuple[float, ...] | None = None,
    unit: str | None = None,
    precision: str = "auto",
    normalization: str = "minmax",
    **options: Any,
) -> napari.Viewer | None:
    """Track objects in a time series interactively in a napari window.

    The window is there at once; the model is loaded and embeddings are computed beside it.

    Args:
        image: The time series, TYX or TYXC with up to three channels; numpy or lazy (dask, zarr).
        embedding_path: Where embeddings are kept or will be kept (zarr), or the embeddings themselves.
        model_type: A registered model; with ``checkpoint_path`` it names the encoder.
        tile_shape: Height and width of tiles; by default frames beyond 2048 pixels are tiled.
        halo: How far tiles reach into their neighbours (y, x).
        return_viewer: Return the viewer at once, instead of running until the window is closed.
        viewer: A viewer to use; a new one by default.
        precompute_amg_state: Also compute what automatic segmentation needs, for the frame that is looked at.
        checkpoint_path: A model file of your own.
        decoder_path: Its decoder, if that is a file of its own.
        device: Where to compute; the best device there is by default.
        tracking_result: Tracks to begin with: a path (see `micro_sam.io.read_tracks`), labels (TYX), or labels and
            lineages as `automatic_tracking` returns them.
        prefer_decoder: Segment automatically with the model's decoder, if it has one.
        scale: The distance of frames and the size of a pixel (t, y, x).
        unit: The unit of length of the scale, such as "micrometer"; labels are saved with it. None for pixels.
        precision: "auto", "float32" or "bfloat16".
        normalization: "minmax" or "robust", see `precompute_image_embeddings`.
        **options: How to work: ``live``, ``tidy``, ``preserve_mode``, ``preservation_threshold``, ``commit_path``; how
            to follow objects: ``projection``, ``iou_threshold``, ``motion_smoothing``, ``box_extension``,
            ``doubtful_below``; ``mode`` and ``settings`` (a dict of parameters, such as ``min_size``) of automatic
            segmentation, and how frames are linked: ``gap_closing``, ``min_time_extent``, ``divisions``.

    Returns:
        The viewer, if it was asked for.
    """
    if isinstance(tracking_result, str | os.PathLike):
        tracking_result = read_tracks(tracking_result)
    model = ModelChoice.of(model_type, checkpoint_path, decoder_path, device, precision)
    computed = embedding_path, (tile_shape, halo), normalization
    wanted = tracking_result, precompute_amg_state, prefer_decoder, scale, unit, options
    return open_annotator(AnnotatorTracking, image, Opening.of(model, *computed, *wanted), viewer, return_viewer)
