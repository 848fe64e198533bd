"""From arrays to an exported model, which opens with no further argument."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from micro_sam.automatic_segmentation import get_predictor_and_segmenter, model_defaults
from micro_sam.errors import OutputError, ParameterError
from micro_sam.models.predictor import get_sam_model
from micro_sam.progress import drain
from micro_sam.training import TrainingData, TrainingSettings, run_training
from micro_sam.training.configuration import CONFIGURATIONS, configuration, find_configuration, has_little_memory
from micro_sam.training.data import split_regions
from micro_sam.training.progress import TrainingProgress, read_past
from micro_sam.training.run_model import starting_point
from micro_sam.training.sampling import open_pair

SMALL = {
    "model_type": "vit_t_builtin", "n_iterations": 2, "n_samples": 2, "patch_shape": (64, 64), "n_objects_per_batch": 3,
    "n_sub_iteration": 2, "n_scored": 1,
}  # fmt: skip


@pytest.fixture
def data(images):
    return TrainingData([raw for raw, _ in images], [labels.astype(np.int32) for _, labels in images])


def _run(data, root, **kwargs):
    options = {k: kwargs.pop(k) for k in ("overwrite", "output_path", "validation", "stop") if k in kwargs}
    settings = TrainingSettings(**{"name": "cells", **SMALL, **kwargs})
    return run_training(settings, data, save_root=root, device="cpu", model_kwargs={"image_size": 64}, **options)


def test_the_exported_file_holds_everything(data, tmp_path):
    result = drain(_run(data, tmp_path, output_path=tmp_path / "cells.pt", peft="lora"))
    assert set(result.before) == {"box_iou", "point_iou", "ais_msa"}
    assert set(result.before) <= set(result.after)
    stored = json.loads((result.checkpoint_folder / "scores.json").read_text())
    assert stored["verdict"] == result.verdict
    assert stored["after"] == result.after

    predictor = get_sam_model(checkpoint_path=tmp_path / "cells.pt", device="cpu")
    assert (predictor.model_type, predictor.model_name) == ("vit_t", "cells")
    assert predictor.defaults == result.defaults
    assert not [name for name in predictor.model.state_dict() if "lora" in name]
    predictor.defaults = {"ais": {"foreground_threshold": 0.4}}
    _, segmenter = get_predictor_and_segmenter("vit_b_lm", predictor=predictor)
    assert model_defaults(predictor, segmenter) == {"foreground_threshold": 0.4}


def test_the_encoder_of_a_file_of_ones_own_is_recognised(data, tmp_path):
    result = drain(_run(data, tmp_path, n_iterations=1, n_scored=0))
    start = starting_point(TrainingSettings(configuration="V100", frame=512), result.output_path, device="cpu")
    assert start.model_type == "vit_t" and start.model_kwargs == {"image_size": 512}


def test_a_closed_run_goes_on_and_other_settings_are_refused(data, tmp_path):
    work = _run(data, tmp_path, n_scored=0)
    for progress in work:
        if progress.done == 1:
            break
    work.close()
    assert torch.load(tmp_path / "checkpoints/cells/latest.pt", weights_only=True)["iteration"] == 1
    with pytest.raises(OutputError, match="another learning_rate"):
        drain(_run(data, tmp_path, n_scored=0, learning_rate=1e-4))
    result = drain(_run(data, tmp_path, n_scored=0))
    assert torch.load(tmp_path / "checkpoints/cells/latest.pt", weights_only=True)["iteration"] == 2
    assert result.verdict == "The model was not scored."


def test_the_only_image_is_split(images, tmp_path):
    raw, labels = images[0]
    data = TrainingData([raw], [labels.astype(np.int32)])
    result = drain(_run(data, tmp_path, segmentation_decoder="none", n_iterations=1, val_fraction=0.5))
    assert set(result.after) == {"box_iou", "point_iou"}


def test_what_is_learned_can_be_watched_and_stopped_with_the_best_kept(data, tmp_path):
    stop, seen = threading.Event(), []
    work = _run(data, tmp_path, n_iterations=100, n_samples=2, stop=stop, peft="lora")
    try:
        while True:
            seen.append(next(work))
            if len([p for p in seen if getattr(p, "scores", {})]) == 2 and getattr(seen[-1], "losses", {}):
                stop.set()  # in the middle of the third epoch
    except StopIteration as ended:
        result = ended.value
    steps = [p for p in seen if isinstance(p, TrainingProgress)]
    assert [p.done for p in steps] == [1, 2, 2, 3, 4, 4, 5, 5]
    assert {"mask", "iou", "instance"} <= set(steps[0].losses) and "metric" in steps[2].scores
    assert steps[2].is_best
    epochs = read_past(result.checkpoint_folder)
    assert [p.done for p in epochs] == [2, 4, 5]
    assert [p.is_best for p in epochs] == [p.is_best for p in steps if p.scores]
    best = min(epochs, key=lambda p: p.scores["metric"])
    assert torch.load(result.checkpoint_folder / "best.pt", weights_only=True)["iteration"] == best.done
    [example] = result.examples
    assert example.image.shape == (64, 64, 3) and example.before.shape == example.after.shape == (64, 64)
    assert example.scores == (result.before["ais_msa"], result.after["ais_msa"])
    picture = iio.imread(result.checkpoint_folder / "examples.png")
    assert picture.shape[2] == 3 and picture.shape[1] > 3 * 64


def test_a_training_that_is_stopped_before_its_first_step_gives_the_model_it_began_with(data, tmp_path):
    stop = threading.Event()
    stop.set()
    result = drain(_run(data, tmp_path, stop=stop, segmentation_decoder="none"))
    assert result.before == result.after and not result.got_worse
    assert "neither better nor worse" in result.verdict


def test_a_model_that_was_trained_in_a_smaller_frame_is_used_in_the_usual_one(data, images, tmp_path):
    settings = TrainingSettings(**{"name": "cells", **SMALL, "frame": 128})
    work = run_training(settings, data, save_root=tmp_path, device="cpu")
    result = drain(work)
    predictor = get_sam_model(checkpoint_path=result.output_path, device="cpu")
    assert predictor.model.image_encoder.img_size == 1024
    predictor.set_image(np.repeat(images[0][0][..., None], 3, axis=2))
    assert predictor.features.shape == (1, 256, 64, 64)


@pytest.mark.parametrize(("model", "frame"), [("vit_b", 512), ("vit_t_builtin", 500)])
def test_frames_that_a_network_cannot_be_used_with_are_refused(model, frame):
    with pytest.raises(ParameterError, match=f"multiple of 64, and 1024 .* got {frame} for {model}"):
        starting_point(TrainingSettings(model_type=model, frame=frame), device="cpu")


def test_time_limits_end_a_training(data, tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr("micro_sam.training.resumable.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    result = drain(_run(data, tmp_path, n_iterations=50, max_minutes=2, n_scored=0))
    latest = torch.load(result.checkpoint_folder / "latest.pt", weights_only=True)
    assert latest["iteration"] < 5
    # the rate has come down by then, although only a tenth of the iterations were made
    assert latest["annealed_share"] > 0.5 and latest["optimizer_state"]["param_groups"][0]["lr"] < 0.5e-5
    longer = drain(_run(data, tmp_path, n_iterations=50, max_minutes=4, n_scored=0))  # more time may be given
    assert torch.load(longer.checkpoint_folder / "latest.pt", weights_only=True)["iteration"] > latest["iteration"]


def test_the_only_image_is_cut_where_objects_are_on_both_sides():
    labels = np.zeros((100, 40), np.int32)
    for label, row in enumerate((4, 8, 12, 16), start=1):
        labels[row : row + 2, 5:20] = label
    pair = open_pair(labels.astype(np.float32), labels)
    training, held_out = split_regions(pair, 0.2)
    assert training == (slice(0, training[0].stop),) and training[0].stop == held_out[0].start
    assert 13 < training[0].stop <= 17  # the last of the four objects is held out

    volume = np.zeros((6, 100, 40), np.int32)
    volume[2] = labels  # only this plane is annotated
    training, held_out = split_regions(open_pair(volume.astype(np.float32), volume), 0.2)
    assert training[0] == slice(None) and 13 < training[1].stop <= 17
    volume[4] = labels
    assert split_regions(open_pair(volume.astype(np.float32), volume), 0.2)[0][0].stop in (3, 4)

    alone = np.where(labels == 1, labels, 0)
    with pytest.raises(ParameterError, match="annotate at least two"):
        split_regions(open_pair(alone.astype(np.float32), alone), 0.2)


def test_wrong_data_is_refused_before_the_model_is_loaded(images, tmp_path):
    raw, labels = images[0]
    with pytest.raises(ParameterError, match=r"cannot be trained on: .*\(80, 80\)"):
        drain(_run(TrainingData([raw], [labels[:40].astype(np.int32)]), tmp_path))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_names_arguments_of_the_training(name):
    values = configuration(name)
    known = {"model_type", "n_objects_per_batch", "n_sub_iteration", "peft_kwargs", "activation_checkpointing"}
    assert set(values) <= known
    assert ("activation_checkpointing" in values) == (name in ("gtx1080", "gtx3080"))  # little memory
    if name == "gtx3080":
        assert values["peft_kwargs"]["attention_layers_to_update"] == [11]


@pytest.mark.parametrize(
    ("memory", "expected"), [(80, "A100"), (32, "V100"), (16, "rtx5000"), (10, "gtx3080"), (8, "gtx1080")]
)
def test_the_configuration_follows_from_the_memory_of_the_gpu(memory, expected, monkeypatch):
    class Properties:
        total_memory = int(memory * 0.98 * 2**30)

    monkeypatch.setattr("micro_sam.training.configuration.get_device", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    assert find_configuration("cuda") == expected


def test_memory_is_saved_where_a_model_would_not_fit(monkeypatch):
    monkeypatch.setattr("micro_sam.training.configuration._memory", lambda: 8)
    assert has_little_memory("vit_b", "cpu") and not has_little_memory("vit_t", "cpu")
    monkeypatch.setattr("micro_sam.training.configuration._memory", lambda: 64)
    assert not has_little_memory("vit_h", "cpu")
    assert starting_point(TrainingSettings(configuration="gtx1080"), device="cpu").values["activation_checkpointing"]
    refused = TrainingSettings(configuration="gtx1080", activation_checkpointing=False)
    assert not starting_point(refused, device="cpu").values["activation_checkpointing"]


def test_small_computers_get_the_small_configuration(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert find_configuration("cpu") == "Minimal"
    monkeypatch.setattr("os.cpu_count", lambda: 32)
    monkeypatch.setattr("micro_sam.training.configuration._memory", lambda: 64)
    assert find_configuration("cpu") == "CPU"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"segmentation_decoder": "semantic"}, "instances, none, only"),
        ({"quantize": True}, "quantize is for peft 'lora'"),
        ({"n_epochs": None}, "n_epochs is a number"),
        ({"configuration": "H200"}, "gtx1080"),
        ({"model_type": "vit_x"}, "no model named"),
        ({"freeze": ("encoder",)}, "image_encoder"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**values)


def test_settings_say_which_layers_are_trained():
    assert TrainingSettings().peft_kwargs() is None
    assert TrainingSettings(peft="last_blocks").peft_kwargs()["attention_layers_to_update"] == [-1]
    assert TrainingSettings(peft="lora", peft_rank=8, quantize=True).peft_kwargs() == {
        "peft_module": "LoRASurgery", "rank": 8, "quantize": True,
    }  # fmt: skip
