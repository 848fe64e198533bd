"""What was found in training data, as a table."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from micro_sam.training.preflight import FINE, SKIPPED, WRONG, Finding, PreflightReport

COLUMNS = ("Image", "Is", "Objects", "Shape", "Type", "Remark")
_COLORS = {FINE: "#2e8b57", SKIPPED: "#b8860b", WRONG: "#c0392b"}
_ROW, _MOST_ROWS = 20, 6


class FindingsTable(QTableWidget):
    """One row for each image; what is wrong comes first."""

    def __init__(self) -> None:
        super().__init__(0, len(COLUMNS))
        self.setHorizontalHeaderLabels(COLUMNS)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(_ROW)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.setWordWrap(False)
        self.setToolTip("What was found in the data; point at a row to read all of it.")

    def show_report(self, report: PreflightReport) -> None:
        """Fill the table."""
        order = {WRONG: 0, SKIPPED: 1, FINE: 2}
        findings = sorted(report.findings, key=lambda finding: order[finding.status])
        self.setRowCount(len(findings))
        for row, finding in enumerate(findings):
            for column, text in enumerate(_cells(finding)):
                item = QTableWidgetItem(text)
                item.setToolTip(f"{finding.name} is {finding.status}. {finding.remark}".strip())
                if column == 1:
                    item.setForeground(QColor(_COLORS[finding.status]))
                if column == 2:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self.setItem(row, column, item)
        self.setFixedHeight(_ROW * (min(len(findings), _MOST_ROWS) + 2) + 8)


def _cells(finding: Finding) -> tuple[str, ...]:
    objects = f"{finding.n_objects - finding.n_small}"
    small = f" (+{finding.n_small} small)" if finding.n_small else ""
    return (
        finding.name, finding.status, objects + small, " x ".join(map(str, finding.shape)), finding.dtypes[0],
        finding.remark,
    )  # fmt: skip
