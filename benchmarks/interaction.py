"""How long a person waits: from a click on the canvas to the updated mask, through the real annotator window.

    xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/interaction.py

A point is clicked with a simulated mouse event in an image of 1024 x 1024 whose embeddings are there; the clock stops
when the labels hold the new mask, and again when it has been drawn. Models without a file of their own get random weights: they take
exactly as long. Beside it stands the time of the mask alone, without any window; and the time from a move of the mouse to
the mask that is shown while a box is drawn and while a point is dragged.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "test"))


def checkpoint_of(name: str, folder: Path) -> tuple[str, str | None]:
    """The model's name, or an encoder and a file with random weights."""
    from micro_sam.models.cache import is_cached

    if is_cached(name):
        return name, None
    import torch

    from micro_sam.models.build_sam import build_sam
    from micro_sam.models.spec import get_spec

    encoder, path = get_spec(name).encoder, folder / f"{name}.pth"
    torch.manual_seed(0)
    torch.save(build_sam(encoder).state_dict(), path)
    return encoder, str(path)


def positions(n: int, side: int) -> np.ndarray:
    """Places to click, spread over the image."""
    return np.random.default_rng(0).integers(side // 8, side - side // 8, (n, 2)).astype(float)


def time_window(window: Any, n: int, side: int, warm_up: int = 3) -> dict[str, list[float]]:
    """Seconds from a click until the labels hold the mask, until it is drawn, and of computing by all threads."""
    found: dict[str, list[float]] = {"click to mask": [], "click to drawn mask": [], "CPU time of a click": []}
    answers: list[float] = []
    window.session.labels_changed.connect(lambda key, where: answers.append(time.perf_counter()))
    for number, place in enumerate(positions(n + warm_up, side)):
        window.hover(*place)
        window.settle(10)
        answers.clear()
        begin, begin_cpu = time.perf_counter(), time.process_time()
        window.click(*place, hover=False)
        window.wait(lambda: answers and not window.controller.previews.is_busy)
        window.canvas.repaint()
        end, end_cpu = time.perf_counter(), time.process_time()
        if number >= warm_up:
            for seconds, value in zip(found.values(), (answers[0] - begin, end - begin, end_cpu - begin_cpu)):
                seconds.append(value)
        window.key("Shift+C")
        window.settle(10)
    return found


def time_drags(window: Any, n: int, side: int) -> dict[str, list[float]]:
    """Seconds from a move of the mouse to the mask that is shown, while a box is drawn and while a point is dragged."""
    previews, answers = window.controller.previews, []
    tell = previews._on_answer

    def answered(answer: Any, purpose: str) -> None:
        tell(answer, purpose)
        answers.append(time.perf_counter())

    previews._on_answer = answered
    found = {}
    middle, radius = side / 2, side / 6
    diagonal = [(middle + s, middle + s) for s in np.linspace(-radius, radius, n + 2)]
    for what, tool in (("drawing a box", "rectangle"), ("dragging a point", "point")):
        window.controller.use_prompt_tool(tool)
        if tool == "point":
            window.click(*diagonal[0])
            window.answered()
            window.controller.layers.points.mode = "select"
        seconds: list[float] = []

        def moved(seconds: list[float] = seconds) -> None:
            begin = window.moved_at
            window.wait(lambda: answers)
            seconds.append(answers[-1] - begin)
            answers.clear()

        answers.clear()
        window.drag(diagonal, between=moved)
        window.answered()
        window.key("Shift+C")
        window.settle(10)
        found[what] = seconds[1:]
    previews._on_answer = tell
    return found


def time_mask(session: Any, n: int, side: int) -> list[float]:
    """Seconds for the mask alone."""
    from micro_sam.sam_annotator.session import Point, Prompts

    seconds = []
    for y, x in positions(n, side):
        request = session.request(prompts=Prompts((Point(y, x),)))
        begin = time.perf_counter()
        session.run(request)
        seconds.append(time.perf_counter() - begin)
    return seconds


def run(name: str, side: int, n: int, folder: Path) -> dict[str, list[float]]:
    """Measure one model."""
    import napari
    from window_driver import open_window

    from micro_sam.sam_annotator import Annotator2d
    from micro_sam.sam_annotator.session.loading import EmbeddingChoice, ModelChoice
    from micro_sam.sample_data import synthetic_data

    image, _ = synthetic_data((side, side), seed=0)
    viewer = napari.Viewer()
    window = open_window(viewer, Annotator2d, image)
    viewer.window.resize(1280, 800)
    model, checkpoint = checkpoint_of(name, folder)
    window.controller.choose_image(viewer.layers[0])
    window.controller.compute_with(ModelChoice(model, checkpoint, device="cpu"), EmbeddingChoice())
    window.wait(lambda: window.session.embeddings is not None and not window.controller.jobs.is_running(), 170)
    window.settle(20)
    found = {
        **time_window(window, n, side),
        **time_drags(window, n, side),
        "mask alone": time_mask(window.session, n, side),
    }
    viewer.close()
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit_t_builtin", "vit_b"])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("-n", type=int, default=20, help="Clicks for each model.")
    args = parser.parse_args()
    print(f"{args.side} x {args.side} pixels, {args.n} clicks, milliseconds")
    print(f"{'model':16}{'':22}{'median':>8}{'90 %':>8}{'worst':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            for what, seconds in run(name, args.side, args.n, Path(folder)).items():
                median, ninety, worst = (1000 * np.percentile(seconds, p) for p in (50, 90, 100))
                print(f"{name:16}{what:22}{median:8.0f}{ninety:8.0f}{worst:8.0f}", flush=True)


if __name__ == "__main__":
    main()
