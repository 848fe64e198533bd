"""Make the pictures of the annotators in doc/images, from synthetic data only.

xvfb-run -a -s "-screen 0 1920x1080x24" python doc/screenshots.py [--out doc/images] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "test"))
SIZES = {"small": (1280, 800), "large": (1920, 1080)}


def nuclei() -> tuple[np.ndarray, np.ndarray]:
    """An image and its labels."""
    from micro_sam.sample_data import synthetic_data

    return synthetic_data((512, 512), seed=1, diameter=70, noise=0.01)


def centre(labels: np.ndarray, label: int) -> tuple[float, float]:
    """A pixel in the middle of an object."""
    from micro_sam.labels import interior_point

    return tuple(float(v) for v in interior_point(labels == label))


def large_objects(labels: np.ndarray) -> list[int]:
    """Objects away from the edge, the largest first."""
    inner = set(np.unique(labels)) - set(
        np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    )
    return sorted(inner - {0}, key=lambda label: -int((labels == label).sum()))


def open_2d(size: tuple[int, int]):
    """The 2d annotator, ready, with some objects committed."""
    import napari
    from window_driver import open_window

    from micro_sam.sam_annotator import Annotator2d

    image, labels = nuclei()
    viewer = napari.Viewer()
    window = open_window(viewer, Annotator2d, image, name="nuclei")
    viewer.window.resize(*size)
    window.settle(10)
    window.press(window.widget.embedding.compute)
    window.ready()
    viewer.reset_view()
    window.settle(10)
    return window, labels


def annotator_2d(size: tuple[int, int]):
    """Objects were committed, the next one is clicked."""
    window, labels = open_2d(size)
    chosen = large_objects(labels)
    for label in chosen[1:7]:
        window.click(*centre(labels, label))
        window.answered()
        window.key("C")
    window.click(*centre(labels, chosen[0]))
    window.answered()
    window.settle(20)
    return window


def annotator_2d_automatic(size: tuple[int, int]):
    """Everything was segmented automatically; the parameters are open."""
    window, _ = open_2d(size)
    window.widget.automatic.folded.expand(animate=False)
    window.press(window.widget.automatic.run)
    window.wait(lambda: window.labels("auto").any())
    window.settle(20)
    return window


def annotator_2d_correct(size: tuple[int, int]):
    """An object that another program made is being corrected."""
    window, labels = open_2d(size)
    label = large_objects(labels)[2]
    y, x = centre(labels, label)
    cut = np.where((labels == label) & (np.arange(512)[None] > x), 0, labels)
    window.viewer.add_labels(cut.astype(np.int32), name="cellpose", opacity=0.5)
    window.press(window.widget.edit.tools["correct"])
    window.click(y, x - 6)
    window.click(y, x + 14)
    window.answered()
    window.settle(20)
    return window


SCENES: dict[str, Callable] = {
    "annotator_2d": annotator_2d,
    "annotator_2d_automatic": annotator_2d_automatic,
    "annotator_2d_correct": annotator_2d_correct,
}


def main() -> None:
    """Make them all, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "doc" / "images")
    parser.add_argument("--only", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        for size in args.sizes:
            with tempfile.TemporaryDirectory() as cache:
                os.environ["MICROSAM_CACHEDIR"] = cache
                window = SCENES[name](SIZES[size])
                path = args.out / (f"{name}.png" if size == "small" else f"{name}_{size}.png")
                window.viewer.screenshot(str(path), canvas_only=False, flash=False)
                print(path)
                window.viewer.close()


if __name__ == "__main__":
    main()
