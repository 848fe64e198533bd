"""What other parts add to the panels of the annotators: the one list of it.

An entry of `EXTENSIONS` becomes a button, or a folded section, in every annotator it is for. It names a function by
"module:function", which is imported when it is first needed and called with the annotator's panel
(`micro_sam.sam_annotator.annotator.AnnotatorWidget`): ``panel.controller`` knows the rest, such as
``panel.controller.session`` with image and labels, ``panel.controller.viewer``, and ``say`` and ``show_error`` for the
status line. What the function raises is shown there in a sentence; if it is raised while the panel is being built, the
annotator opens without this part and says so, also in its place.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from micro_sam.errors import MicroSamError
from micro_sam.sam_annotator.control.base import shown

if TYPE_CHECKING:
    from micro_sam.sam_annotator.annotator import AnnotatorWidget

logger = logging.getLogger(__name__)

ALL = ("annotator_2d", "annotator_3d", "annotator_tracking")


@dataclass(frozen=True)
class Extension:
    """Something that is added to the panels.

    Attributes:
        text: What the button says, or the title of the section.
        tooltip: The same in a sentence.
        target: "module:function". For a button it is called when it is pressed; a folded section shows the widget that
            it returns.
        kinds: Which annotators get it.
        section: The attribute of the panel whose section it belongs to, such as "commit"; "more" is at the bottom.
        is_folded: Whether it is a folded section instead of a button.
    """

    text: str
    tooltip: str
    target: str
    kinds: tuple[str, ...] = ALL
    section: str = "more"
    is_folded: bool = False

    def call(self, panel: AnnotatorWidget) -> Any:
        """Import the function and call it."""
        module, name = self.target.split(":")
        return getattr(importlib.import_module(module), name)(panel)


EXTENSIONS: tuple[Extension, ...] = (
    Extension(
        "Export and import",
        "Write the objects for ImageJ, QuPath, COCO, pandas and others, or open theirs to correct them.",
        "micro_sam.sam_annotator.exchange:add_exchange",
        section="commit",
        is_folded=True,
    ),
    Extension(
        "Finetune the model …",
        "Train the model on the objects that are committed, then go on annotating with the better one.",
        "micro_sam.sam_annotator.training_ui:open_for_annotator",
    ),
)


def extend(panel: AnnotatorWidget, extensions: Iterable[Extension] | None = None) -> None:
    """Add to a panel what is for its annotator; by default `EXTENSIONS`.

    One that raises is left out: the annotator opens without it, and says which one is missing and why.
    """
    for extension in EXTENSIONS if extensions is None else extensions:
        if panel.kind not in extension.kinds:
            continue
        try:
            _add(panel, extension)
        except Exception as error:
            if not isinstance(error, MicroSamError):
                logger.exception("'%s' cannot be added to the annotator", extension.text)
            _say_what_is_missing(panel, extension, error)


def _add(panel: AnnotatorWidget, extension: Extension) -> None:
    section = getattr(panel, extension.section)
    if extension.is_folded:
        panel.add_folded(extension.text, extension.call(panel), section, extension.tooltip)
    else:
        run = functools.partial(shown(_run), panel.controller, extension, panel)
        panel.add_action(extension.text, extension.tooltip, run, section)


def _say_what_is_missing(panel: AnnotatorWidget, extension: Extension, error: Exception) -> None:
    """Show it in the status line, and in the place of the part, where it stays when the status line goes on."""
    reason = " ".join(str(error).split()).rstrip(".") or "it does not say why"
    reason = reason if isinstance(error, MicroSamError) else f"{type(error).__name__}: {reason}"
    text = f"'{extension.text}' could not be loaded ({reason}); everything else works."
    panel.add_note(text, getattr(panel, extension.section, None))
    panel.controller.show_error(text)


def _run(controller: Any, extension: Extension, panel: AnnotatorWidget) -> None:
    extension.call(panel)
