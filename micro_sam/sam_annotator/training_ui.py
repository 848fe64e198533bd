"""The finetuning window: train a model on annotated images, see whether it became better, and go on with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QWidget

from micro_sam.sam_annotator.jobs import JobRunner, ThreadedJobs
from micro_sam.sam_annotator.training_control import TrainingController
from micro_sam.sam_annotator.training_sources import ANNOTATOR, SERIES, ViewerSources
from micro_sam.sam_annotator.widgets.docked import DockedPanel
from micro_sam.sam_annotator.widgets.training_panel import TrainingPanel

if TYPE_CHECKING:
    import napari

    from micro_sam.sam_annotator.annotator import AnnotatorWidget

TITLE = "Finetuning"


class TrainingWidget(DockedPanel, TrainingPanel):
    """Finetunes a model on the open annotator's objects, on layers, or on files.

    Args:
        parent: The parent of the widget.
        viewer: The viewer whose annotator and layers can be used; the current one by default.
        jobs: What runs long work; threads by default.
    """

    def __init__(
        self,
        parent: QWidget | None = None,
        viewer: napari.viewer.Viewer = None,
        jobs: JobRunner | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName(TITLE)
        sources = ViewerSources(_current_viewer() if viewer is None else viewer)
        self.controller = TrainingController(self, sources, jobs or ThreadedJobs())
        self.destroyed.connect(self.controller.close)
        annotator = sources.annotator()
        if annotator is not None:
            self.set_model(annotator.embedding.model_choice())

    def __call__(self, skip_validate: bool = False) -> None:
        """Start the training; what is wrong is shown.

        Args:
            skip_validate: Do not show first what was found in the data.
        """
        self.controller.start(skip_validate)

    def on_docked(self) -> None:
        """The panel was put into the window."""
        QTimer.singleShot(0, self._stand_beside_the_annotator)

    def _stand_beside_the_annotator(self) -> None:
        """Share the place of the annotator, as a tab: both need the height of the window."""
        annotator = self.controller.sources.annotator()
        docks = [_dock_of(widget) for widget in (annotator, self)]
        if None in docks or docks[0] is docks[1]:
            return
        window = docks[0].parent()
        if hasattr(window, "tabifyDockWidget"):
            window.tabifyDockWidget(*docks)
            QTimer.singleShot(0, docks[1].raise_)


def open_for_annotator(panel: AnnotatorWidget) -> TrainingWidget:
    """Open the window for the annotator whose button was pressed, or bring it to the front.

    Args:
        panel: The annotator's panel.
    """
    viewer = panel.controller.viewer
    window = getattr(viewer.window, "_qt_window", None)
    found = [] if window is None else window.findChildren(TrainingWidget)
    widget = found[0] if found else TrainingWidget(viewer=viewer)
    if not found:
        viewer.window.add_dock_widget(widget, name=TITLE, area="right", add_vertical_stretch=False)
    widget.controller.refresh()
    if widget.controller.state in ("idle", "checked", "done"):
        kinds = widget.controller.sources.kinds()
        widget.data.choose_kind(next(kind for kind in (SERIES, ANNOTATOR, *kinds) if kind in kinds))
        widget.set_model(panel.embedding.model_choice())
    dock = _dock_of(widget)
    if dock is not None:
        dock.raise_()
    return widget


def _dock_of(widget: QWidget | None) -> Any:
    while widget is not None and not hasattr(widget, "toggleViewAction"):
        widget = widget.parent()
    return widget


def _current_viewer() -> Any:
    import napari

    return napari.current_viewer()
