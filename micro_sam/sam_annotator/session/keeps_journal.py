"""Writing down what happens in a session, as far as the disk allows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from psygnal import Signal

from micro_sam.errors import MicroSamError, OutputError
from micro_sam.sam_annotator.session.diff import Diff
from micro_sam.sam_annotator.session.journal import Journal

logger = logging.getLogger(__name__)


class KeepsJournal:
    """Something whose steps are written into a journal; that ends, with a sentence, when it can no longer be written."""

    #: (sentence): the journal can no longer be written.
    journal_failed = Signal(str)

    _journal: Journal | None = None
    _make_journal: Callable[[], Journal] | None = None
    _replaying: bool = False

    def write_journal(self, make: Callable[[], Journal] | None) -> None:
        """Write a journal from now on; it is made when there is something to write."""
        self.close_journal()
        self._make_journal = make

    @property
    def journal_folder(self) -> Path | None:
        """Where the journal is written; None if nothing was written yet or none is wanted."""
        return None if self._journal is None else self._journal.folder

    def _write(self, do: str, content: Mapping[str, Any], diffs: Sequence[Diff] = ()) -> None:
        if self._replaying:
            return
        try:
            if self._journal is None and self._make_journal is not None:
                self._journal = self._make_journal()
            if self._journal is not None:
                self._journal.append(do, content, diffs)
        except MicroSamError as error:
            self._journal = self._make_journal = None
            logger.warning("%s", error)
            self.journal_failed.emit(f"{error} Work goes on, but could not be restored after a crash.")

    def note(self, do: str, content: Mapping[str, Any]) -> None:
        """Write something down that is no step, if there is a journal already."""
        if self._journal is not None:
            self._write(do, content)

    def close_journal(self) -> None:
        """Finish the journal."""
        self._make_journal = None
        journal, self._journal = self._journal, None
        if journal is None:
            return
        try:
            journal.append("closed", {})
            journal.close()
        except OutputError as error:
            logger.warning("%s", error)
