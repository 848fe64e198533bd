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


def annotator_2d_review(size: tuple[int, int]):
    """An automatic segmentation is reviewed; some objects are done, and one that is two nuclei is looked at."""
    from review_toys import with_errors

    window, labels = open_2d(size)
    wrong, errors = with_errors(labels)
    window.session.put("auto", wrong, "Segmented automatically", kind="automatic")
    window.key("W")
    window.wait(lambda: window.session.review.doubts and not window.controller.jobs.is_running(), 120)
    for _ in range(len(window.session.review.doubts)):
        if window.controller._here().label == errors["merged"]:
            break
        window.key("G")
    window.settle(30)
    return window


def image_series_annotator(size: tuple[int, int]):
    """Two images of a series are done, the third is being annotated."""
    import napari
    import tifffile
    from window_driver import Window

    from micro_sam.sam_annotator import image_folder_annotator
    from micro_sam.sam_annotator.widgets.panel import AnnotatorPanel
    from micro_sam.sample_data import synthetic_data

    folder = Path(os.environ["MICROSAM_CACHEDIR"])
    (folder / "images").mkdir()
    made = [synthetic_data((512, 512), seed=seed, diameter=70) for seed in range(1, 6)]
    for day, (image, _) in enumerate(made, start=1):
        tifffile.imwrite(folder / "images" / f"nuclei_day_{day}.tif", image)
    (folder / "images" / "nuclei_day_4_copy.tif").write_bytes(b"a copy that broke off")
    viewer = napari.Viewer()
    model = {"model_type": "vit_t_builtin", "device": "cpu", "normalization": "minmax"}
    image_folder_annotator(folder / "images", folder / "labels", viewer=viewer, return_viewer=True, **model)
    viewer.window.resize(*size)
    window = Window(viewer, viewer.window._qt_window.findChild(AnnotatorPanel))
    for index in range(3):
        window.wait(lambda index=index: window.widget.series.index == index)
        window.ready()
        window.settle(10)
        chosen = large_objects(made[index][1])
        for label in chosen[1 : 3 * index + 2]:
            window.click(*centre(made[index][1], label))
            window.answered()
            window.key("C")
        if index < 2:
            window.key("N")
    window.click(*centre(made[2][1], chosen[0]))
    window.answered()
    window.settle(40)
    return window


def annotator_3d(size: tuple[int, int]):
    """Objects were committed, the next one was propagated, and a doubtful slice is looked at."""
    import napari
    from window_driver import open_window

    from micro_sam.sam_annotator import Annotator3d
    from micro_sam.sample_data import synthetic_data

    volume, labels = (array[8:16] for array in synthetic_data((24, 256, 256), seed=4, diameter=34))
    viewer = napari.Viewer()
    window = open_window(viewer, Annotator3d, volume, name="nuclei 3d", scale=(2, 1, 1))
    viewer.window.resize(*size)
    window.settle(10)
    window.press(window.widget.embedding.compute)
    window.wait(lambda: window.session.embeddings is not None and not window.controller.jobs.is_running(), 120)
    viewer.reset_view()
    for z, nth in ((4, 1), (4, 2), (4, 3), (2, 0)):
        viewer.dims.set_current_step(0, z)
        window.settle(10)
        label = large_objects(labels[z])[nth]
        window.click(*centre(labels[z], label))
        window.answered()
        window.key("Shift+S")
        window.wait(lambda: not window.controller.jobs.is_running(), 60)
        if nth:
            window.key("C")
    window.widget.propagation.doubt.setValue(0.71)
    window.settle(20)
    return window


def annotator_tracking(size: tuple[int, int]):
    """A division was tracked through time, and doubtful frames are listed; some tracks are committed."""
    import napari
    from window_driver import open_window

    from micro_sam.sam_annotator import AnnotatorTracking
    from micro_sam.sample_data import synthetic_timeseries

    series = synthetic_timeseries((6, 192, 192), seed=5, diameter=30)
    labels, mother, daughters = series.labels, 6, (16, 17)
    viewer = napari.Viewer()
    window = open_window(viewer, AnnotatorTracking, series.images, name="nuclei")
    viewer.window.resize(*size)
    window.settle(10)
    window.press(window.widget.embedding.compute)
    window.wait(lambda: window.session.embeddings is not None and not window.controller.jobs.is_running(), 120)
    window.controller.begin_with(np.where(np.isin(labels, (mother, *daughters)) | (labels % 3 == 0), 0, labels))
    viewer.reset_view()
    for frame, division in ((0, False), (2, True)):
        viewer.dims.set_point(0, frame)
        window.settle(5)
        if division:
            window.key("Shift+V")
        window.click(*centre(labels[frame], mother))
        window.answered()
        window.settle(5)
    for daughter in daughters:
        window.click(*centre(labels[3], daughter))
        window.answered()
        window.settle(5)
    window.key("Shift+S")
    window.wait(lambda: not window.controller.jobs.is_running())
    window.widget.follow.form._inputs["doubtful_below"].setValue(0.75)
    window.settle(20)
    return window


def object_classifier(size: tuple[int, int]):
    """Some objects of two classes were painted; all are classified, and the doubtful ones are listed."""
    import napari
    from classification_toys import a_few_of_each, two_kinds
    from window_driver import Window

    from micro_sam.sam_annotator import object_classifier as open_classifier
    from micro_sam.sam_annotator.object_classifier import controller_in

    image, labels, classes = two_kinds("brightness", seed=1)
    model = {"model_type": "vit_t_builtin", "device": "cpu"}
    viewer = open_classifier(image, labels, viewer=napari.Viewer(), return_viewer=True, **model)
    viewer.window.resize(*size)
    controller = controller_in(viewer)
    window = Window(viewer, controller.panel)
    window.settle(20)
    window.ready()
    viewer.reset_view()
    for class_id, name in ((1, "bright"), (2, "dim")):
        controller.session.rename_class(class_id, name)
    ids = np.unique(labels)[1:]
    for row in a_few_of_each(classes):
        window.key(str(int(classes[row])))
        y, x = centre(labels, ids[row])
        window.drag([(y, x - 2), (y, x), (y, x + 2)])
    window.wait(lambda: controller.outcome is not None and not controller.jobs.is_running(), 200)
    window.settle(20)
    window.wait(lambda: not controller.jobs.is_running(), 100)
    window.settle(20)
    return window


def settings(size: tuple[int, int]):
    """The installation was checked. The picture shows folders that no one has."""
    import napari
    from window_driver import Window

    from micro_sam.sam_annotator import SettingsWidget
    from micro_sam.user_settings import UserSettings, save_settings

    del os.environ["MICROSAM_CACHEDIR"]
    save_settings(UserSettings(cache_directory="/data/micro_sam", model="vit_t_builtin"))
    sys.executable = "/home/anna/micro_sam/bin/python"
    viewer = napari.Viewer()
    widget = SettingsWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Settings", area="right")
    viewer.window.resize(*size)
    window = Window(viewer, widget)
    window.settle(20)
    window.press(widget.check)
    window.wait(widget.result.toPlainText, 200)
    window.settle(20)
    return window


def finetuning(size: tuple[int, int]):
    """A model was finetuned on the committed objects for two minutes; the result is shown."""
    import napari
    from window_driver import open_window

    from micro_sam.sam_annotator import Annotator2d
    from micro_sam.sam_annotator.training_ui import open_for_annotator
    from micro_sam.sample_data import synthetic_data

    image, labels = synthetic_data((256, 256), seed=1, kind="granules", diameter=40, noise=0.03)
    viewer = napari.Viewer()
    window = open_window(viewer, Annotator2d, image, name="granular cells")
    viewer.window.resize(*size)
    window.settle(10)
    window.controller.begin_with(labels)
    viewer.reset_view()
    training = open_for_annotator(window.widget)
    window.settle(20)
    for side in (training.model.height, training.model.width):
        side.setValue(128)
    for name, value in {"n_iterations": "48", "n_samples": "8", "n_sub_iteration": "2", "frame": "512"}.items():
        training.model.more._editors[name].setText(value)
    window.press(training.start)
    window.wait(lambda: training.controller.state == "done", 600)
    window.settle(20)
    training.area.verticalScrollBar().setValue(training.area.verticalScrollBar().maximum())
    window.settle(20)
    return window


SCENES: dict[str, Callable] = {
    "annotator_2d": annotator_2d,
    "annotator_2d_automatic": annotator_2d_automatic,
    "annotator_2d_correct": annotator_2d_correct,
    "annotator_2d_review": annotator_2d_review,
    "annotator_3d": annotator_3d,
    "annotator_tracking": annotator_tracking,
    "finetuning": finetuning,
    "image_series_annotator": image_series_annotator,
    "object_classifier": object_classifier,
    "settings": settings,
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
                os.environ["MICROSAM_SETTINGS"] = f"{cache}/settings.json"
                window = SCENES[name](SIZES[size])
                path = args.out / (f"{name}.png" if size == "small" else f"{name}_{size}.png")
                window.viewer.screenshot(str(path), canvas_only=False, flash=False)
                print(path)
                window.viewer.close()


if __name__ == "__main__":
    main()
