"""The settings window: what is set for this computer, and a check of the installation."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QPlainTextEdit, QVBoxLayout, QWidget

from micro_sam.errors import MicroSamError
from micro_sam.progress import Progress
from micro_sam.sam_annotator.jobs import Job, JobRunner, ThreadedJobs, sentence
from micro_sam.sam_annotator.widgets.parts import PANEL_WIDTH, Section, button, caption
from micro_sam.sam_annotator.widgets.status_line import StatusLine
from micro_sam.sam_annotator.widgets.user_settings_form import UserSettingsForm
from micro_sam.user_settings import UserSettings, load_settings, save_settings, settings_path

if TYPE_CHECKING:
    import napari

CHECK = "check"
_HINT = "Change what you like and press Save. Windows that are opened from then on use it."


class SettingsWidget(QWidget):
    """Shows and saves what is set for this computer, and checks the installation.

    Args:
        viewer: The viewer it is opened in; nothing in it is changed.
        jobs: Runs the check; a thread by default.
    """

    def __init__(self, viewer: napari.viewer.Viewer | None = None, jobs: JobRunner | None = None) -> None:
        super().__init__()
        self.setMinimumWidth(PANEL_WIDTH)
        self.setMaximumWidth(PANEL_WIDTH + 20)
        self.jobs = jobs or ThreadedJobs()
        self.status = StatusLine()
        self.status.say(_HINT)
        self.form = UserSettingsForm(load_settings())
        self.save = button("Save", "Keep these settings for this computer.", primary=True)
        self.defaults = button("Defaults", "Show the values that nothing was set with; Save keeps them.")
        self.check = button("Check installation", "Look for what is wrong on this computer, and how to mend it.")
        self.result = QPlainTextEdit()
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 4, 6, 4)
        layout.addWidget(self.status)
        section = Section("Settings", "What is set for this computer.")
        section.add(self.form)
        section.add(self.save, self.defaults)
        section.add(caption(f"Kept in {settings_path()}. Environment variables and arguments win over it."))
        layout.addWidget(section)
        health = Section("Installation", "Whether everything that is needed is there and works.")
        self.result.setReadOnly(True)
        self.result.setToolTip("What was found; it can be selected and copied.")
        self.result.setPlaceholderText("Version, device, folders, models, and what is wrong if something is.")
        health.add(self.check)
        health.add(self.result)
        layout.addWidget(health, 1)

    def _connect(self) -> None:
        self.save.clicked.connect(self._on_save)
        self.defaults.clicked.connect(self._on_defaults)
        self.check.clicked.connect(self._on_check)
        self.form.changed.connect(lambda: self.status.say("Press Save to keep what you changed."))
        self.status.cancel_requested.connect(lambda: self.jobs.cancel(CHECK))
        self.destroyed.connect(self.jobs.close)

    def _on_save(self) -> None:
        try:
            path = save_settings(self.form.settings())
        except MicroSamError as error:
            self.status.say(sentence(error), "error")
            return
        self.status.say(f"Saved to {path}. Annotators that are opened from now on use it.", "done")

    def _on_defaults(self) -> None:
        self.form.show_settings(UserSettings())
        self.status.say("These are the defaults: press Save to keep them.")

    def _on_check(self) -> None:
        self.check.setEnabled(False)
        self.status.say("Check the installation …")
        self.status.show_progress(Progress(0, 0))
        job = Job(CHECK, iter_check, self._on_progress, None, self._on_checked, self._on_failed, self._on_end)
        self.jobs.start(job)

    def _on_progress(self, progress: Progress) -> None:
        self.status.show_progress(progress)

    def _on_checked(self, found: tuple[int, str]) -> None:
        count, text = found
        self.result.setPlainText(text)
        if count:
            what = "1 problem was" if count == 1 else f"{count} problems were"
            self.status.say(f"{what} found; below stands how to mend it.", "error")
        else:
            self.status.say("Everything is in order.", "done")

    def _on_failed(self, error: str) -> None:
        self.status.say(error, "error")

    def _on_end(self) -> None:
        self.status.show_progress(None)
        self.check.setEnabled(True)


def iter_check() -> Generator[Progress, None, tuple[int, str]]:
    """Check the installation.

    Returns:
        How many problems there are, and a text: first the problems and how to mend them, then what is installed.
    """
    from micro_sam.health import find_problems, summary

    yield Progress(0, 2, "Look for problems")
    problems = find_problems()
    yield Progress(1, 2, "Look what is installed")
    lines = [line for problem in problems for line in (f"✗ {problem.what}", f"   {problem.mend}", "")]
    lines += [] if problems else ["✓ No problems found.", ""]
    lines += [re.sub(r"\s{2,}", ": ", line, count=1) for line in summary()]
    yield Progress(2, 2, "Look what is installed")
    return len(problems), "\n".join(lines)
