"""The curves of a training, drawn while it runs: losses of the steps, and the validation of the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QVBoxLayout, QWidget

from micro_sam.training.progress import TrainingProgress

_HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 96, 42, 16, 14, 8
_SMOOTH, _MOST = 0.9, 2000
_BLUE, _GREEN, _GRAY = QColor("#3a7bd5"), QColor("#2e8b57"), QColor(128, 128, 128)

Points = Sequence[tuple[float, float]]


@dataclass
class Curve:
    """Numbers over steps.

    Attributes:
        points: (step, value).
        best: The point that is marked.
    """

    points: list[tuple[float, float]] = field(default_factory=list)
    best: tuple[float, float] | None = None

    def add(self, step: float, value: float) -> None:
        """Add a point; of very many, every second one is dropped."""
        self.points.append((step, value))
        if len(self.points) > _MOST:
            del self.points[1:-1:2]

    def smoothed(self) -> list[tuple[float, float]]:
        """The running average."""
        result, mean, weight = [], 0.0, 0.0
        for step, value in self.points:
            mean, weight = _SMOOTH * mean + (1 - _SMOOTH) * value, _SMOOTH * weight + 1 - _SMOOTH
            result.append((step, mean / weight))
        return result


class Chart(QWidget):
    """Draws one curve.

    Args:
        title: What is drawn.
        tooltip: The same in a sentence.
        color: The color of the line.
        smooth: Draw the running average as a line over pale points, instead of a line with points.
    """

    def __init__(self, title: str, tooltip: str, color: QColor, smooth: bool) -> None:
        super().__init__()
        self.curve = Curve()
        self._title, self._color, self._smooth = title, color, smooth
        self.setToolTip(tooltip)
        self.setFixedHeight(_HEIGHT)

    def paintEvent(self, event: object) -> None:
        """Draw title, axes, points and line."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = painter.font()
        font.setPointSizeF(max(7.0, font.pointSizeF() - 2))
        painter.setFont(font)
        area = QRectF(_LEFT, _TOP, self.width() - _LEFT - _RIGHT, self.height() - _TOP - _BOTTOM)
        painter.setPen(QPen(_GRAY, 1))
        painter.drawLine(area.topLeft(), area.bottomLeft())
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        points = self.curve.points
        last = f": {points[-1][1]:.3f}" if points else ""
        painter.setPen(self.palette().text().color())
        painter.drawText(QPointF(_LEFT, _TOP - 4), f"{self._title}{last}")
        if points:
            self._draw(painter, area)

    def _draw(self, painter: QPainter, area: QRectF) -> None:
        points = self.curve.points
        steps, values = zip(*points)
        low, high = min(values), max(values)
        high = high if high > low else low + max(abs(low), 1e-6)
        first, last = 0.0, max(steps)

        def place(point: tuple[float, float]) -> QPointF:
            x = (point[0] - first) / max(last - first, 1)
            y = (point[1] - low) / (high - low)
            return QPointF(area.left() + x * area.width(), area.bottom() - y * area.height())

        painter.setPen(_GRAY)
        for value, y in ((high, area.top() + 6), (low, area.bottom())):
            box = QRectF(0, y - 8, _LEFT - 4, 14)
            painter.drawText(box, Qt.AlignmentFlag.AlignRight, f"{value:.3g}")
        step_box = QRectF(area.right() - 90, area.bottom() + 1, 90, 13)
        painter.drawText(step_box, Qt.AlignmentFlag.AlignRight, f"step {last:.0f}")
        pale = QColor(self._color)
        pale.setAlpha(130 if self._smooth else 255)
        painter.setPen(QPen(pale, 3, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap))
        painter.drawPoints(QPolygonF([place(point) for point in points]))
        painter.setPen(QPen(self._color, 1.6))
        painter.drawPolyline(QPolygonF([place(p) for p in (self.curve.smoothed() if self._smooth else points)]))
        if self.curve.best is not None:
            painter.setPen(QPen(_GREEN, 2))
            painter.drawEllipse(place(self.curve.best), 4, 4)


class TrainingCurves(QWidget):
    """The loss of every step and the validation of every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = Chart(
            "Loss", "What the training makes smaller, of every step; the line is its average.", _BLUE, True
        )
        self.metric = Chart(
            "Validation, lower is better",
            "How wrong the model is on held-out images after every epoch; the best one, in the ring, is kept.",
            _GREEN,
            False,
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.loss)
        layout.addWidget(self.metric)

    def add(self, progress: TrainingProgress) -> None:
        """Add the numbers of a step."""
        if progress.losses:
            self.loss.curve.add(progress.done, sum(progress.losses.values()))
            self.loss.update()
        if "metric" in progress.scores:
            self.metric.curve.add(progress.done, progress.scores["metric"])
            if progress.is_best:
                self.metric.curve.best = self.metric.curve.points[-1]
            self.metric.update()

    def clear(self) -> None:
        """Forget everything."""
        for chart in (self.loss, self.metric):
            chart.curve = Curve()
            chart.update()
