"""The command from files to files, with a segmenter that thresholds in the place of a model."""

from __future__ import annotations

from pathlib import Path

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import zarr
from scipy import ndimage
from segmentation_toys import TrueDecoder, draw_ellipses, toy_predictor, true_maps

from micro_sam import automatic_segmentation as library
from micro_sam.cli import automatic_segmentation as command
from micro_sam.errors import DownloadError
from micro_sam.instance_segmentation import InstanceSegmentationWithDecoder
from micro_sam.io import load_image_data, open_image


class ThresholdSegmenter:
    """Bright connected regions are objects."""

    def __init__(self, made_with: dict) -> None:
        self.made_with, self.generated_with, self.embeddings = made_with, [], []

    def initialize(self, image, image_embeddings=None, verbose=False):
        self._image = np.asarray(image)
        self.embeddings.append(image_embeddings)

    def generate(self, **kwargs):
        self.generated_with.append(kwargs)
        return ndimage.label(self._image > 100)[0].astype(np.uint32)


@pytest.fixture
def segmenter(monkeypatch):
    """What the command segments with; embeddings are the path they would be kept at."""
    made = ThresholdSegmenter({})

    def get_predictor_and_segmenter(model_type, **kwargs):
        made.made_with = {"model_type": model_type, **kwargs}
        return type("Predictor", (), {"device": "cpu"})(), made

    monkeypatch.setattr(library, "get_predictor_and_segmenter", get_predictor_and_segmenter)
    monkeypatch.setattr(library, "precompute_image_embeddings", lambda predictor, image, path=None, **kwargs: path)
    return made


def _image(n_objects: int) -> np.ndarray:
    image = np.zeros((40, 100), np.uint8)
    for i in range(n_objects):
        image[10:20, 10 * i + 2 : 10 * i + 8] = 200
    return image


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("results").mkdir()
    tifffile.imwrite("images/a.tif", _image(3), resolution=(20000, 20000), resolutionunit=3)
    iio.imwrite("images/a.png", _image(4))
    tifffile.imwrite("images/b.tif", _image(1))
    return tmp_path


def _main(arguments: str) -> int:
    return command.main(arguments.split())


@pytest.mark.usefixtures("folder")
def test_one_image_gives_labels_with_its_resolution_and_a_picture(segmenter, capsys):
    assert _main("-i images/a.tif -o labels.tif --overlay picture.png -m vit_b") == 0
    out = capsys.readouterr().out
    assert out.splitlines() == ["images/a.tif: 3 objects -> labels.tif", "images/a.tif: overlay -> picture.png"]
    labels = load_image_data("labels.tif")
    assert labels.shape == (40, 100) and labels.max() == 3
    assert open_image("labels.tif").resolution.tags == ((20000, 1), (20000, 1), 3)
    assert iio.imread("picture.png").shape[2] == 3
    assert sorted(path.name for path in Path().iterdir()) == ["images", "labels.tif", "picture.png", "results"]


@pytest.mark.usefixtures("folder", "segmenter")
def test_the_picture_lies_beside_the_labels_if_it_has_no_path():
    assert _main("-i images/a.tif -o results/labels.tif --overlay") == 0
    assert sorted(path.name for path in Path("results").iterdir()) == ["labels.tif", "labels_overlay.png"]


@pytest.mark.usefixtures("folder", "segmenter")
def test_images_of_a_folder_that_share_their_name_get_results_of_their_own(capsys):
    assert _main("-i images --pattern *.* -o results --overlay") == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert sorted(path.name for path in Path("results").iterdir()) == [
        "a_png.tif", "a_png_overlay.png", "a_tif.tif", "a_tif_overlay.png", "b.tif", "b_overlay.png",
    ]  # fmt: skip
    assert {name: load_image_data(f"results/{name}.tif").max() for name in ("a_png", "a_tif", "b")} == {
        "a_png": 4, "a_tif": 3, "b": 1,
    }  # fmt: skip


@pytest.mark.usefixtures("folder", "segmenter")
def test_several_images_in_one_command():
    assert _main("-i images/a.png images/b.tif -o results") == 0
    assert sorted(path.name for path in Path("results").iterdir()) == ["a.tif", "b.tif"]


@pytest.mark.usefixtures("folder", "segmenter")
@pytest.mark.parametrize("output", ["labels.zarr", "labels.ome.zarr"])
def test_zarr_output(output):
    assert _main(f"-i images/a.tif -o {output}") == 0
    group = zarr.open_group(output, mode="r")
    [multiscale] = group.attrs["ome"]["multiscales"]
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == pytest.approx([0.5, 0.5])
    assert group["0"][...].max() == 3


@pytest.mark.usefixtures("folder", "segmenter")
def test_zarr_output_in_a_folder():
    assert _main("-i images --pattern *.tif -o results --format zarr") == 0
    assert sorted(path.name for path in Path("results").iterdir()) == ["a.zarr", "b.zarr"]


@pytest.mark.usefixtures("folder", "segmenter")
def test_hdf5_with_key():
    with h5py.File("data.h5", "w") as file:
        file["raw"], file["other"] = _image(2), _image(5)
    assert _main("-i data.h5 -k raw -o labels.tif") == 0
    assert load_image_data("labels.tif").max() == 2


@pytest.mark.usefixtures("folder", "segmenter")
def test_an_image_that_fails_is_named_and_the_others_are_segmented(capsys):
    path = Path("images/a.tif")
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 255, (40, 100), dtype=np.uint8), compression="zlib")
    content = bytearray(path.read_bytes())
    content[-2000:-1000] = bytes(1000)  # the header is right, the pixels are not
    path.write_bytes(bytes(content))
    assert _main("-i images --pattern *.tif -o results") == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["images/b.tif: 1 object -> results/b.tif"]
    errors = captured.err.splitlines()
    assert len(errors) == 2 and errors[0].startswith("images/a.tif: error: ") and "1 of 2 images failed" in errors[1]
    assert [path.name for path in Path("results").iterdir()] == ["b.tif"]


@pytest.mark.usefixtures("folder")
def test_parameters_reach_the_segmenter(segmenter):
    arguments = "--mode amg --points_per_side 8 --pred_iou_thresh 0.5 --min_mask_region_area 7 --no-with_background"
    assert _main(f"-i images/a.tif -o labels.tif -m vit_b -d cpu --precision float32 {arguments}") == 0
    made = segmenter.made_with
    assert (made["model_type"], made["device"], made["precision"]) == ("vit_b", "cpu", "float32")
    assert (made["segmentation_mode"], made["points_per_side"], made["is_tiled"]) == ("amg", 8, False)
    assert segmenter.generated_with == [{"pred_iou_thresh": 0.5, "min_mask_region_area": 7, "with_background": False}]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("model", "mode"), [("vit_b", "amg"), ("vit_b_lm", "ais"), ("vit_t_builtin", "ais")])
def test_the_mode_follows_from_the_model(segmenter, monkeypatch, model, mode):
    monkeypatch.setattr(library, "segmentation_mode_of", lambda segmenter: mode)
    assert _main(f"-i images/a.tif -o labels.tif -m {model}") == 0
    assert segmenter.made_with["segmentation_mode"] == mode


@pytest.mark.usefixtures("folder")
def test_embeddings_of_several_images_go_to_a_folder(segmenter):
    Path("embeddings").mkdir()
    assert _main("-i images --pattern *.tif -o results -e embeddings") == 0
    assert segmenter.embeddings == [Path("embeddings/a.zarr"), Path("embeddings/b.zarr")]
    assert _main("-i images/a.tif -o results/a.tif -e a.zarr") == 0
    assert segmenter.embeddings[-1] == Path("a.zarr")


@pytest.mark.usefixtures("folder")
def test_an_unreachable_model_is_one_line(monkeypatch, capsys):
    def unreachable(*args, **kwargs):
        raise DownloadError("The model cannot be downloaded; put it there.")

    monkeypatch.setattr(library, "get_predictor_and_segmenter", unreachable)
    assert _main("-i images/a.tif -o labels.tif") == 2
    captured = capsys.readouterr()
    assert captured.err == "micro_sam.automatic_segmentation: error: The model cannot be downloaded; put it there.\n"
    assert not Path("labels.tif").exists()


@pytest.mark.usefixtures("folder", "segmenter")
def test_an_interrupted_run_keeps_what_is_finished_and_leaves_nothing_half_written(monkeypatch, capsys):
    write = tifffile.imwrite

    def interrupted(path, *args, **kwargs):
        write(path, *args, **kwargs)
        if "b.tif" in str(path):
            raise KeyboardInterrupt

    monkeypatch.setattr(tifffile, "imwrite", interrupted)
    assert _main("-i images --pattern *.tif -o results") == 130
    assert [path.name for path in Path("results").iterdir()] == ["a.tif"]
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("method", ["slices", "volume"])
def test_a_volume_is_segmented_as_one(monkeypatch, capsys, method):
    truth = np.stack([draw_ellipses((48, 80), 3, (7, 9), seed=1)] * 4)
    tifffile.imwrite("volume.tif", np.where(truth > 0, 220, 20).astype(np.uint8), metadata={"axes": "ZYX"})
    predictor = toy_predictor()
    made = InstanceSegmentationWithDecoder(predictor, TrueDecoder(true_maps(truth[0])))
    monkeypatch.setattr(library, "get_predictor_and_segmenter", lambda *args, **kwargs: (predictor, made))
    assert _main(f"-i volume.tif -n 3 -o labels.zarr --volume_method {method} --min_z_extent 2 --overlay") == 0
    labels = load_image_data("labels.zarr")
    assert labels.shape == truth.shape
    assert "volume.tif: 3 objects" in capsys.readouterr().out
    assert (labels == labels[0]).all() and Path("labels_overlay.png").is_file()


@pytest.mark.usefixtures("folder", "segmenter")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("-i images/a.tif --gap_closing 1", "--gap_closing belongs to volumes"),
        ("-i images/a.tif -n 3 --volume_method volume --gap_closing 1", "belongs to the volume method 'slices'"),
        ("-i images/a.tif --z_smoothing 70", "--z_smoothing must be between 0 and 50"),
    ],
)
def test_flags_for_volumes_are_checked(arguments, sentence, capsys):
    assert _main(f"{arguments} -o labels.tif") == 2
    assert sentence in capsys.readouterr().err
    assert not Path("labels.tif").exists()


@pytest.mark.usefixtures("folder", "segmenter")
def test_a_bundled_sample_needs_no_input(capsys):
    from micro_sam.cli.jobs import sample_names

    for name in sample_names():
        assert _main(f"--sample {name} -o labels.tif") == 0
        assert capsys.readouterr().out.startswith(f"{name}: ")
    assert _main("--sample -o labels.tif") == 0
