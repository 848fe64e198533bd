"""Training: what it writes, what it changes, and that an interruption changes nothing."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import ImageEncoderViT

from micro_sam.errors import CheckpointError, ParameterError
from micro_sam.models.checkpoint import read_checkpoint
from micro_sam.models.fast_vit import FastViT
from micro_sam.models.predictor import get_sam_model
from micro_sam.training import export_instance_segmentation_model, train_instance_segmentation, train_sam
from micro_sam.training.assess import verdict
from micro_sam.training.trainable_sam import _encode_in_pieces
from micro_sam.training.training import distance_loss, make_sam_trainer, train_sam_for_configuration
from micro_sam.training.util import get_trainable_sam_model

FRAME = 64
FAST = {
    "model_type": "vit_t_builtin", "n_objects_per_batch": 2, "n_sub_iteration": 2, "device": "cpu", "image_size": FRAME,
}  # fmt: skip
ENCODER_FROZEN = {"freeze": ["image_encoder"]}


def _read(path):
    return torch.load(path, weights_only=True, map_location="cpu")


def _trainer(make_loader, root, **kwargs):
    arguments = {"train_loader": make_loader(3), "val_loader": make_loader(1, is_train=False), "save_root": root}
    return make_sam_trainer(name="run", lr=1e-4, **{**FAST, **arguments, **kwargs})


def _changed(before, after):
    return {k for k in before if not torch.equal(before[k], after[k])}


def test_a_training_writes_checkpoints_that_are_safe_and_open(make_loader, tmp_path):
    train_sam(
        name="cells", train_loader=make_loader(2), val_loader=make_loader(1, is_train=False), n_iterations=2,
        save_root=tmp_path, save_every_kth_epoch=1, verbose=False, **FAST,
    )  # fmt: skip
    folder = tmp_path / "checkpoints" / "cells"
    assert {"best.pt", "latest.pt", "epoch-1.pt", "settings.json", "metrics.json"} <= {p.name for p in folder.iterdir()}
    state = _read(folder / "best.pt")  # weights_only: nothing but tensors and plain values
    assert all(name.startswith("sam.") for name in state["model_state"])
    assert "out_conv.weight" in state["decoder_state"]
    [epoch] = json.loads((folder / "metrics.json").read_text())["epochs"]
    assert {"train_mask", "train_iou", "train_instance", "validation_iou", "validation_metric"} <= set(epoch)
    assert json.loads((folder / "settings.json").read_text())["n_sub_iteration"] == 2
    predictor = get_sam_model("vit_t", "cpu", folder / "best.pt")
    assert predictor.decoder_state is not None


def test_losses_fall_when_the_same_prompts_are_learned(make_loader, tmp_path):
    trainer = _trainer(make_loader, tmp_path, seed=1, **ENCODER_FROZEN)
    trainer._prepare(30, None)
    trainer.optimizer.param_groups[0]["lr"] = 1e-3
    x, y = next(iter(make_loader(1, is_train=False)))
    trainer.set_training_mode()
    totals = []
    for _ in range(8):
        torch.manual_seed(0)
        np.random.seed(0)
        trainer.optimizer.zero_grad()
        totals.append(trainer.training_step(x, y, 1.0)["mask"])
        trainer._step_optimizer()
    assert np.mean(totals[-3:]) < 0.5 * np.mean(totals[:3])


EACH_EPOCH = {"scheduler_class": torch.optim.lr_scheduler.ExponentialLR, "scheduler_kwargs": {"gamma": 0.5}}


@pytest.mark.parametrize(
    "schedule", [EACH_EPOCH, {"anneal": True, "scheduler_class": None}], ids=["epochs", "annealed"]
)
def test_a_broken_run_ends_as_an_unbroken_one(make_loader, tmp_path, schedule):
    """Stopped in the middle of accumulated gradients, at the end of an epoch and in the middle of another."""
    options = {**ENCODER_FROZEN, "gradient_accumulation": 2, **schedule}
    for _ in _trainer(make_loader, tmp_path / "whole", **options).steps(iterations=6):
        pass
    for n_steps in (1, 3, 1, 100):
        trainer = _trainer(make_loader, tmp_path / "broken", **options)
        np.random.seed(n_steps)  # another process knows nothing of this one's random numbers
        torch.manual_seed(n_steps)
        work = trainer.steps(iterations=6, overwrite_training=False)
        for _, _ in zip(range(n_steps), work):
            pass
        work.close()
    whole, broken = (_read(tmp_path / kind / "checkpoints/run/latest.pt") for kind in ("whole", "broken"))
    assert whole["iteration"] == broken["iteration"] == 6
    for part in ("model_state", "decoder_state"):
        assert not _changed(whole[part], broken[part])
    assert whole["metrics"] == broken["metrics"]
    assert whole["optimizer_state"]["param_groups"][0]["lr"] == broken["optimizer_state"]["param_groups"][0]["lr"]


def test_a_complete_run_is_left_alone_and_another_network_is_refused(make_loader, tmp_path):
    list(_trainer(make_loader, tmp_path, **ENCODER_FROZEN).steps(iterations=1))
    path = tmp_path / "checkpoints/run/latest.pt"
    written = path.stat().st_mtime_ns
    again = _trainer(make_loader, tmp_path, **ENCODER_FROZEN)
    assert list(again.steps(iterations=1, overwrite_training=False)) == []
    assert path.stat().st_mtime_ns == written
    with pytest.raises(CheckpointError, match="other settings"):
        list(_trainer(make_loader, tmp_path, peft_kwargs={"rank": 2}).steps(iterations=2, overwrite_training=False))


def test_training_stops_when_nothing_gets_better(make_loader, tmp_path):
    trainer = _trainer(make_loader, tmp_path, early_stopping=1, **ENCODER_FROZEN)
    scores = iter([1.0, 2.0, 2.0, 2.0, 2.0])
    trainer.validate = lambda: {"metric": next(scores)}
    trainer._train_on = lambda x, y: setattr(trainer, "_iteration", trainer._iteration + 1)
    list(trainer.steps(epochs=5))
    assert trainer._epoch == 2  # the best one, and one without gain
    assert trainer.best_metric == 1.0


def test_frozen_parts_stay_and_the_others_learn(make_loader, tmp_path):
    trainer = _trainer(make_loader, tmp_path, freeze=["image_encoder", "prompt_encoder"])
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    list(trainer.steps(iterations=1))
    changed = _changed(before, trainer.model.state_dict())
    assert changed
    assert all(name.startswith("sam.mask_decoder.") for name in changed)


def test_lora_trains_only_its_updates_in_the_encoder(make_loader, tmp_path):
    trainer = _trainer(make_loader, tmp_path, peft_kwargs={"rank": 2})
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    list(trainer.steps(iterations=1))
    changed = {k for k in _changed(before, trainer.model.state_dict()) if "image_encoder" in k}
    assert changed
    assert all(".lora_" in name for name in changed)
    assert get_sam_model("vit_t", "cpu", tmp_path / "checkpoints/run/best.pt").model_type == "vit_t"


def test_unlabelled_area_does_not_matter_to_any_loss(make_loader, tmp_path):
    trainer = _trainer(make_loader, tmp_path, **ENCODER_FROZEN)
    trainer._prepare(1, None)
    trainer.model.eval()
    trainer.unetr.eval()
    x, y = next(iter(make_loader(1, is_train=False)))
    y[..., 40:] = 0
    y[:, :2, :, 40:] = -1
    other = y.clone()
    other[:, 2:, :, 40:] = 0.7  # the distances where nothing is known
    losses = []
    for target in (y, other):
        torch.manual_seed(0)
        np.random.seed(0)
        losses.append(trainer.training_step(x, target, 1.0))
    assert losses[0] == losses[1]
    maps, target = torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(1, 3, 8, 8)
    valid = torch.zeros(1, 1, 8, 8)
    valid[..., :4] = 1
    distance_loss()(maps * valid, target * valid).backward()
    assert (maps.grad[..., 4:] == 0).all()
    assert (maps.grad[..., :4] != 0).any()


def test_batches_without_objects_train_the_decoder_only(make_loader, tmp_path):
    trainer = _trainer(make_loader, tmp_path)
    trainer._prepare(1, None)
    trainer.set_training_mode()
    x, y = next(iter(make_loader(1)))
    y[:, :2] = 0
    assert set(trainer.training_step(x, y, 1.0)) == {"instance"}


def test_fewer_rounds_with_gradients_and_passes_of_few_objects_compute_the_same_losses(make_loader, tmp_path):
    x, y = next(iter(make_loader(1, is_train=False)))
    grads = []
    for objects_per_pass in (None, 2):
        trainer = _trainer(
            make_loader, tmp_path, objects_per_pass=objects_per_pass, mixed_precision=False, **ENCODER_FROZEN
        )
        trainer._prepare(1, None)
        trainer.set_training_mode()
        torch.manual_seed(0)
        np.random.seed(0)
        trainer.training_step(x, y, 1.0)
        grads.append(trainer.model.sam.mask_decoder.iou_token.weight.grad)
    assert torch.allclose(grads[0], grads[1], rtol=1e-3, atol=1e-6)
    trainer = _trainer(make_loader, tmp_path, n_sub_iteration=5, n_gradient_rounds=2)
    rounds = trainer._rounds_with_gradients()
    assert 0 in rounds
    assert len(rounds) == 2


def test_saving_memory_leaves_the_gradients_as_they_are():
    model = get_trainable_sam_model("vit_t_builtin", "cpu", activation_checkpointing=True, image_size=FRAME)
    x = torch.linspace(0, 255, 3 * 48 * 64).view(1, 3, 48, 64)
    encoded = model.encode(x)
    assert encoded.input_shape == (48, 64)
    encoded.features.square().mean().backward()
    grad = model.sam.image_encoder.patch_embed.seq[0].c.weight.grad
    reference = get_trainable_sam_model("vit_t_builtin", "cpu", image_size=FRAME)
    reference.encode(x).features.square().mean().backward()
    assert torch.allclose(grad, reference.sam.image_encoder.patch_embed.seq[0].c.weight.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("wrap", [lambda encoder: encoder, FastViT])
def test_saving_memory_leaves_the_gradients_of_every_vit_block_as_they_are(wrap):
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64, embed_dim=32, depth=2, num_heads=2, out_chans=16, use_rel_pos=True, window_size=2,
        global_attn_indexes=(1,),
    )  # fmt: skip
    encoder = wrap(encoder)
    x, grads = torch.randn(1, 3, 64, 64), []
    for forward in (encoder, lambda x: _encode_in_pieces(encoder, x)):
        encoder.zero_grad()
        forward(x).square().mean().backward()
        grads.append({name: p.grad.clone() for name, p in encoder.named_parameters()})
    assert any("blocks.0" in name for name in grads[0]) and all(g.abs().sum() > 0 for g in grads[0].values())
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-8)


def test_instance_segmentation_alone_is_trained_and_exported(make_loader, tmp_path):
    loaders = [
        make_loader(1, is_train, decoder=False, train_instance_segmentation_only=True) for is_train in (True, False)
    ]
    train_instance_segmentation(
        name="only", model_type="vit_t_builtin", train_loader=loaders[0], val_loader=loaders[1], n_iterations=1,
        save_root=tmp_path, device="cpu", image_size=FRAME, lr=1e-3, verbose=False,
    )  # fmt: skip
    best, output = tmp_path / "checkpoints/only/best.pt", tmp_path / "only.pt"
    with pytest.raises(CheckpointError, match="export_instance_segmentation_model"):
        read_checkpoint(best)
    export_instance_segmentation_model(best, output, "vit_t_builtin")
    predictor = get_sam_model(checkpoint_path=output, device="cpu")
    trained = _read(best)["model_state"]
    assert torch.equal(predictor.decoder_state["out_conv.weight"], trained["out_conv.weight"])


def test_a_configuration_fills_in_what_is_not_given(make_loader, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr("micro_sam.training.training.train_sam", lambda **kwargs: given.update(kwargs))
    train_sam_for_configuration("x", make_loader(1), make_loader(1), "Minimal", model_type="vit_t_builtin", n_epochs=3)
    assert given["model_type"] == "vit_t_builtin"
    assert (given["n_objects_per_batch"], given["n_sub_iteration"], given["n_epochs"]) == (4, 4, 3)
    with pytest.raises(ParameterError, match="Minimal"):
        train_sam_for_configuration("x", make_loader(1), make_loader(1), "gtx9999")


def test_wrong_loaders_are_one_sentence(make_loader, tmp_path):
    arguments = {"name": "x", "save_root": tmp_path, "n_iterations": 1, **FAST}
    with pytest.raises(ParameterError, match="1 target channels, 4 are needed"):
        train_sam(train_loader=make_loader(1, decoder=False), val_loader=make_loader(1), **arguments)
    with pytest.raises(ParameterError, match="Nothing would be trained"):
        train_sam(
            train_loader=make_loader(1), val_loader=make_loader(1), with_segmentation_decoder=False,
            freeze=["image_encoder", "prompt_encoder", "mask_decoder"], **arguments,
        )  # fmt: skip
    with pytest.raises(ParameterError, match="names parts of the model"):
        train_sam(train_loader=make_loader(1), val_loader=make_loader(1), freeze="encoder", **arguments)


def test_progress_reaches_signals(make_loader, tmp_path):
    class Signal(list):
        emit = list.append

    class Signals:
        pbar_total, pbar_update, pbar_description = Signal(), Signal(), Signal()

    train_sam(
        name="x", train_loader=make_loader(2), val_loader=make_loader(1, is_train=False), n_iterations=2,
        save_root=tmp_path, pbar_signals=Signals, with_segmentation_decoder=False, **FAST, **ENCODER_FROZEN,
    )  # fmt: skip
    assert set(Signals.pbar_total) == {2}
    assert any("validation" in text for text in Signals.pbar_description)


def test_a_model_that_got_worse_says_so():
    before = {"box_iou": 0.8, "ais_msa": 0.5}
    assert "WORSE" in verdict(before, {"box_iou": 0.9, "ais_msa": 0.4})
    assert "mSA of automatic segmentation 0.500 -> 0.400" in verdict(before, {"box_iou": 0.9, "ais_msa": 0.4})
    assert "got better" in verdict(before, {"box_iou": 0.9, "ais_msa": 0.5})
    assert "neither" in verdict(before, {"box_iou": 0.801, "ais_msa": 0.5})


def test_without_tensorboard_training_goes_on(make_loader, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.INFO, logger="micro_sam"):  # a command that ran before may have raised it
        list(_trainer(make_loader, tmp_path, with_segmentation_decoder=False, **ENCODER_FROZEN).steps(iterations=1))
    assert not (tmp_path / "logs").exists()
    assert "tensorboard is not installed" in caplog.text
