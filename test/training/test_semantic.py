"""Training of classes, and training from one prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from micro_sam.errors import ParameterError
from micro_sam.training import (
    ConvertToSamInputs,
    ConvertToSemanticSamInputs,
    CustomDiceLoss,
    MedSAMTrainer,
    SemanticMapsSamTrainer,
    SemanticSamTrainer,
    SimpleSamTrainer,
    get_trainable_sam_model,
)
from micro_sam.training.trainable_sam import BOTTOM_RIGHT, PAD, POSITIVE, TOP_LEFT


def _patches(n=2):
    """Images in which brightness is the class."""
    rng = np.random.default_rng(0)
    classes = torch.from_numpy(np.kron(rng.integers(0, 3, (n, 1, 4, 4)), np.ones((16, 16)))).float()
    return [(c.expand(3, -1, -1) * 100, c) for c in classes]


@pytest.fixture
def trainer(tmp_path):
    def make(kind, model, **kwargs):
        loader = torch.utils.data.DataLoader(_patches(), batch_size=1)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        return kind(
            name="run", train_loader=loader, val_loader=loader, model=model, optimizer=optimizer, device="cpu",
            save_root=str(tmp_path), logger=None, mixed_precision=False, **kwargs,
        )  # fmt: skip

    return make


def test_dice_is_that_of_the_definition_and_ignores_the_unknown():
    loss = CustomDiceLoss(3)
    target = torch.tensor([[[[0, 1], [2, 2]]]])
    perfect = torch.nn.functional.one_hot(target[:, 0], 3).movedim(-1, 1) * 50.0
    assert loss(perfect, target) < 1e-4
    half = CustomDiceLoss(2, softmax=False)
    pred = torch.tensor([[[[0.0, 0.0]], [[1.0, 1.0]]]])
    assert torch.allclose(half.scores(pred, torch.tensor([[[[0, 1]]]])), torch.tensor([0.0, 2 / 3]), atol=1e-4)
    unknown = target.clone()
    unknown[..., 1] = -1
    worse = perfect.clone()
    worse[..., 1] = -perfect[..., 1]
    assert torch.equal(loss(worse, unknown), loss(perfect, unknown))
    with pytest.raises(ParameterError, match="at least 2"):
        CustomDiceLoss(1)


def test_classes_are_learned_with_the_mask_decoder(trainer):
    model = get_trainable_sam_model(
        "vit_t_builtin", "cpu", freeze=["image_encoder"], flexible_load_checkpoint=True, num_multimask_outputs=4,
        image_size=64,
    )  # fmt: skip
    with pytest.raises(ParameterError, match="dice_weight"):
        trainer(SemanticSamTrainer, model, convert_inputs=None, num_classes=4, dice_weight=2.0)
    training = trainer(
        SemanticSamTrainer, model, convert_inputs=ConvertToSemanticSamInputs(), num_classes=4, dice_weight=0.5
    )
    before = training.validate()
    assert {"metric", "dice_0", "dice_3"} <= set(before)
    list(training.steps(epochs=4))
    assert training.best_metric < before["metric"]
    assert training.predict(_patches()[0][0][None]).shape == (1, 4, 64, 64)


def test_classes_are_learned_by_any_network_that_gives_maps(trainer):
    training = trainer(SemanticMapsSamTrainer, torch.nn.Conv2d(3, 3, 1), convert_inputs=None, num_classes=3)
    first = training.training_step(*torch.utils.data.default_collate(_patches()), 1.0)["semantic"]
    list(training.steps(epochs=3))
    assert training.training_step(*torch.utils.data.default_collate(_patches()), 1.0)["semantic"] < first


def test_one_prompt_is_a_point_or_a_box(trainer):
    labels = torch.zeros(1, 1, 64, 64)
    labels[..., 10:30, 10:30], labels[..., 40:60, 40:60] = 1, 2
    model = torch.nn.Conv2d(1, 1, 1)
    arguments = {"convert_inputs": ConvertToSamInputs(None), "model": model}
    for kind, options, expected in (
        (MedSAMTrainer, {}, [TOP_LEFT, BOTTOM_RIGHT]),
        (SimpleSamTrainer, {"use_box": False}, [POSITIVE, PAD]),
    ):
        training = trainer(kind, **arguments, **options, n_sub_iteration=8)
        assert training.n_sub_iteration == 1
        _, kinds, _ = training.initial_prompts(torch.zeros(1, 3, 64, 64), labels)
        assert kinds.tolist() == [expected] * 2
    with pytest.raises(ParameterError, match="neither"):
        trainer(SimpleSamTrainer, **arguments, use_points=False, use_box=False)
