"""Which track the next prompts belong to, following tracks through time, and tools for tracks that exist."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QFormLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from micro_sam.errors import ParameterError
from micro_sam.multi_dimensional_segmentation.projection import PROJECTIONS
from micro_sam.sam_annotator.session.follow_settings import FollowSettings
from micro_sam.sam_annotator.widgets.doubtful_list import DoubtfulList
from micro_sam.sam_annotator.widgets.parts import Folded, Section, button, quietly, tool_button
from micro_sam.sam_annotator.widgets.settings_form import SettingsForm

TRACK_TOOLS = {
    "relink": (
        "Mother",
        "Click a track, then its mother in an earlier frame; click background instead for no mother.",
        "Shift+L",
    ),
    "join": ("Join", "Click a track, then the track as which it goes on: they become one.", "Shift+J"),
    "cut": ("Cut", "In the frame where another track should begin, click the track that is cut there.", "Shift+K"),
    "erase": ("Erase", "Click an object to remove it from this frame only.", "Shift+R"),
}
_PROJECTION_TEXTS = {
    "box": "Box",
    "mask": "Box and mask",
    "points": "Points",
    "points_and_mask": "Points and mask",
    "single_point": "Single point",
}
_STATE_TEXTS = {"track": "goes on", "division": "divides [Shift+V]"}


class PromptMenu(QWidget):
    """Chooses the track and the state of the next prompts."""

    track_chosen = Signal(int)
    state_chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.track, self.state = QComboBox(), QComboBox()
        for combo, width in ((self.track, 2), (self.state, 4)):
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            combo.setMinimumContentsLength(width)
        self.track.setToolTip("The track that the next prompts belong to. Key: Shift+N for the next one.")
        self.state.setToolTip(
            "Whether the object goes on. A prompt on a mother in her last frame that says 'divides' starts two daughter "
            "tracks: click one after the other in the next frame. Key: Shift+V."
        )
        line = QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(QLabel("Track"))
        line.addWidget(self.track)
        line.addWidget(self.state, 1)
        self.track.currentIndexChanged.connect(lambda _: self._announce(self.track, self.track_chosen, int))
        self.state.currentIndexChanged.connect(lambda _: self._announce(self.state, self.state_chosen, str))

    @staticmethod
    def _announce(combo: QComboBox, signal: Signal, kind: type) -> None:
        if combo.currentData() is not None:
            signal.emit(kind(combo.currentData()))

    def set_choices(self, states: Sequence[str], track_ids: Sequence[int | str]) -> None:
        """The choices there are; nothing is announced."""
        with quietly(self.track, self.state):
            self.track.clear()
            self.state.clear()
            for track in track_ids:
                self.track.addItem(str(track), int(track))
            for state in states:
                self.state.addItem(_STATE_TEXTS.get(state, state), state)

    def show_choice(self, track: int, state: str) -> None:
        """Show what is chosen; nothing is announced."""
        with quietly(self.track, self.state):
            self.track.setCurrentIndex(self.track.findData(int(track)))
            self.state.setCurrentIndex(self.state.findData(state))


class FollowWidget(Section):
    """Follows the current lineage through time."""

    follow_requested = Signal()

    def __init__(self) -> None:
        super().__init__("3  Track it through time", "Follow the object through all frames, also after it divides.")
        self.menu = PromptMenu()
        self.menu.set_choices(("track", "division"), (1,))
        self.add(self.menu)
        self.follow = button("Track", "Follow the object from the frames with prompts on.", "Shift+S", primary=True)
        self.follow.clicked.connect(self.follow_requested)
        self.add(self.follow)
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(0, 0, 0, 0)
        row = QFormLayout()
        row.setContentsMargins(0, 0, 0, 0)
        self.projection = QComboBox()
        self.projection.setToolTip("What the mask of a frame becomes in the next: the prompts of the model there.")
        for name in PROJECTIONS:
            self.projection.addItem(_PROJECTION_TEXTS[name], name)
        self.projection.setCurrentIndex(self.projection.findData("mask"))
        row.addRow("Projection", self.projection)
        layout.addLayout(row)
        self.form = SettingsForm(FollowSettings())
        layout.addWidget(self.form)
        self.add(Folded("Tracking settings", content))
        self.doubtful = DoubtfulList("Frame")
        self.add(self.doubtful)

    def choose_projection(self, name: str | None) -> None:
        """Show this projection; None for the one that is shown.

        Raises:
            ParameterError: There is no such projection.
        """
        if name not in (None, *PROJECTIONS):
            raise ParameterError(f"The projection is one of {', '.join(PROJECTIONS)}, got {name!r}.")
        if name is not None:
            self.projection.setCurrentIndex(self.projection.findData(name))


class TracksWidget(Section):
    """Tools for tracks that exist, whoever made them, and loading earlier results."""

    tool_chosen = Signal(str)
    load_requested = Signal(str)

    def __init__(self) -> None:
        super().__init__("7  Edit tracks", "Correct who goes on as whom, and who comes from whom. It can be undone.")
        self.tools = {name: tool_button(text, help, key) for name, (text, help, key) in TRACK_TOOLS.items()}
        for name, widget in self.tools.items():
            widget.clicked.connect(lambda _=False, name=name: self.tool_chosen.emit(name))
        made = list(self.tools.values())
        self.add(*made[:2])
        self.add(*made[2:])
        self.load_file = button("Load file", "Labels (.tif) with a graph (.geff) or a table (.txt) beside them.")
        self.load_folder = button("Load folder", "A Cell Tracking Challenge folder, or labels or a graph as .zarr.")
        self.load_file.clicked.connect(self._on_file)
        self.load_folder.clicked.connect(self._on_folder)
        self.add(self.load_file, self.load_folder)

    def set_tool(self, tool: str | None) -> None:
        """Show which tool is active; None for none of these."""
        for name, widget in self.tools.items():
            widget.setChecked(name == tool)

    def _on_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load tracks", "", "Labels or table (*.tif *.tiff *.h5 *.txt)")
        if path:
            self.load_requested.emit(path)

    def _on_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Load tracks")
        if path:
            self.load_requested.emit(path)
