"""The recipe of the bundled model, on a handful of synthetic images and for a step or two."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from micro_sam.sample_data import synthetic_data

RECIPE = Path(__file__).parents[2] / "finetuning" / "builtin"
CROP = 128


@pytest.fixture(scope="module")
def recipe():
    """The recipe's modules, which are scripts beside each other and not part of the package."""
    names = ("data", "prompting", "losses", "optimizer", "train", "export")
    before = set(sys.modules)
    sys.path.insert(0, str(RECIPE))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(RECIPE))
        for name in set(names) - before:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def cache(recipe, tmp_path_factory):
    root = tmp_path_factory.mktemp("recipe")
    folder = root / "dsb2018" / "train"
    folder.mkdir(parents=True)
    for index in range(3):
        image, labels = synthetic_data((200, 240), seed=index)
        tifffile.imwrite(folder / f"{index}_image.tif", image)
        tifffile.imwrite(folder / f"{index}_labels.tif", labels.astype("uint16"))
    recipe["data"].prepare(root, root / "cache.npz", n_synthetic=6, n_ground=8)
    return root / "cache.npz"


@pytest.fixture
def batch(recipe, cache):
    sampler = recipe["data"].CropSampler(recipe["data"].load(cache), CROP, seed=0)
    return next(iter(torch.utils.data.DataLoader(sampler, 2)))


def _trainer(recipe, **settings):
    train = recipe["train"]
    return train.Trainer(train.Settings(crop=CROP, batch_size=2, objects_per_crop=2, **settings), torch.device("cpu"))


def test_prepared_images_come_back_with_normalised_distances(recipe, cache):
    sources = recipe["data"].load(cache)
    assert len(sources) == 17 and {s.domain for s in sources} == {"dsb2018", "synthetic", "ground"}
    for source in sources:
        inside = source.distances[:, source.labels > 0]
        assert source.image.dtype == np.uint8 and source.distances.min() >= 0 and inside.max(initial=0) <= 1
        assert (source.distances[:, source.labels == 0] == 1).all()


def test_ground_is_mostly_empty_and_every_fourth_image_shows_nothing_at_all(recipe, cache):
    ground = [s for s in recipe["data"].load(cache) if s.domain == "ground"]
    assert [s.labels.max() > 0 for s in ground] == [False, True, True, True] * 2
    assert all((s.labels > 0).mean() < 0.3 for s in ground)
    assert all(s.image.max() == 255 and s.image.min() == 0 for s in ground)  # noise is stretched as it is in use


def test_crops_without_objects_are_kept_of_ground_and_seldom_of_images(recipe):
    data = recipe["data"]
    empty = np.zeros((64, 64), np.int32)
    ground, image = (
        data.Source(domain, empty.astype(np.uint8), empty, np.ones((2, 64, 64), np.float16))
        for domain in ("ground", "dsb2018")
    )
    assert next(iter(data.CropSampler([ground], CROP, seed=0)))["labels"].max() == 0
    seen = []
    sampler = data.CropSampler([image], CROP, seed=0)
    sampler.sample = lambda source, rng: seen.append(source) or {"labels": torch.zeros(1)}
    crops = iter(sampler)
    for _ in range(5):
        next(crops)
    assert len(seen) > 15  # of five that were kept


def test_stained_tissue_is_drawn_twice_as_often(recipe):
    data = recipe["data"]
    gray, colour = (
        data.Source("dsb2018", np.zeros(shape, np.uint8), np.ones((64, 64), np.int32), np.ones((2, 64, 64), np.float16))
        for shape in ((64, 64), (64, 64, 3))
    )
    sampler = data.CropSampler([gray, colour], CROP, seed=0)
    np.testing.assert_allclose(sampler.weights[0], (1 / 3, 2 / 3))


def test_crops_lie_on_the_grid_of_the_frame_and_maps_fit_the_labels(batch):
    assert batch["image"].shape == (2, 3, CROP, CROP) and batch["maps"].shape == (2, 3, CROP // 2, CROP // 2)
    assert (batch["offset"] % 16 == 0).all() and batch["offset"].max() <= 1024 - CROP
    foreground = torch.nn.functional.avg_pool2d((batch["labels"] > 0).float()[:, None], 2)
    difference = ((foreground - batch["maps"][:, :1]).abs() * batch["valid"]).mean()
    assert difference < 0.02


def test_prompts_lie_in_their_objects_and_corrections_in_the_error(recipe):
    prompting = recipe["prompting"]
    labels = torch.zeros(1, CROP, CROP, dtype=torch.int32)
    labels[0, 32:96, 16:80] = 4
    offsets = torch.tensor([[320, 640]])
    objects = prompting.choose_objects(labels, offsets, per_crop=3)
    assert objects.masks.shape == (1, CROP // 4, CROP // 4) and objects.masks.sum() == 16 * 16
    coords, kinds = prompting.first_prompts(objects, box_share=0.0)
    x, y = coords[0, 0].tolist()
    assert 640 + 16 <= x <= 640 + 80 and 320 + 32 <= y <= 320 + 96
    assert kinds.tolist() == [[prompting.POSITIVE, prompting.PAD]]
    boxes, kinds = prompting.first_prompts(objects, box_share=1.0)
    torch.testing.assert_close(boxes[0], torch.tensor([[656.0, 352.0], [720.0, 416.0]]), atol=20.0, rtol=0)
    assert kinds.tolist() == [[prompting.TOP_LEFT, prompting.BOTTOM_RIGHT]]
    missed = torch.full_like(objects.masks, -5.0)
    assert prompting.correction(objects, missed)[1].tolist() == [[prompting.POSITIVE]]
    flooded = torch.full_like(objects.masks, 5.0)
    point, kind = prompting.correction(objects, flooded)
    assert kind.tolist() == [[prompting.NEGATIVE]]
    x, y = (point[0, 0] - torch.tensor([640, 320])).tolist()
    assert not (16 <= x < 80 and 32 <= y < 96)


def test_crop_prompting_is_what_segment_anything_computes_on_a_full_frame(recipe):
    """With the crop as large as the frame, SAM's own prompt encoder and mask decoder give the same masks."""
    torch.manual_seed(0)
    sam, _ = recipe["train"].assemble()
    prompter = recipe["prompting"].CropPrompter(sam.eval())
    features = torch.randn(1, 256, 64, 64)
    point, box = torch.tensor([[[300.0, 500.0]]]), torch.tensor([[100.0, 200.0, 400.0, 600.0]])
    sparse, dense = sam.prompt_encoder((point, torch.ones(1, 1)), box, None)
    low_res, iou = sam.mask_decoder.predict_masks(features, sam.prompt_encoder.get_dense_pe(), sparse, dense)
    # SAM counts pixels, the recipe measures from their edge
    coords = torch.cat([point, box.view(1, 2, 2)], dim=1) + 0.5
    positions = prompter.position_encoding(torch.zeros(1, 2, dtype=torch.long), 64)
    with torch.no_grad():
        masks, scores = prompter(features, positions, coords, torch.tensor([[1, 2, 3]]), None)
    torch.testing.assert_close(masks, low_res.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores, iou.detach(), atol=1e-5, rtol=1e-4)


def test_muon_steps_are_orthogonal(recipe):
    matrix = torch.randn(48, 96)
    singular = torch.linalg.svdvals(recipe["optimizer"].orthogonalize(matrix))
    assert singular.min() > 0.5 and singular.max() < 1.5


def test_training_lowers_the_loss_and_goes_on_from_a_checkpoint(recipe, batch, tmp_path):
    torch.manual_seed(0)
    np.random.seed(0)
    trainer = _trainer(recipe, warmup=2, rounds=(1.0, 0.0, 0.0, 0.0))
    losses = [trainer.step(batch)["maps"] for _ in range(8)]
    assert losses[-1] < losses[0]
    trainer.save(tmp_path / "latest.pt")
    resumed = _trainer(recipe, warmup=2, rounds=(1.0, 0.0, 0.0, 0.0))
    resumed.load(tmp_path / "latest.pt")
    assert resumed.step_index == 8
    rows = []
    for each in (trainer, resumed):
        torch.manual_seed(1)
        np.random.seed(1)
        rows.append(each.step(batch))
    assert rows[0]["maps"] == pytest.approx(rows[1]["maps"], rel=1e-3)
    for mine, other in zip(trainer.sam.parameters(), resumed.sam.parameters()):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-2)


def test_exported_weights_open_as_a_model_with_decoder(recipe, tmp_path):
    from micro_sam.util import get_sam_model

    trainer = _trainer(recipe)
    trainer.save(tmp_path / "latest.pt")
    recipe["export"].export([tmp_path / "latest.pt"], tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 40e6
    predictor = get_sam_model("vit_t", checkpoint_path=tmp_path / "model.pt", device="cpu")
    assert predictor.model_type == "vit_t"
    assert set(predictor.decoder_state) == set(trainer.decoder.state_dict())
    again = _trainer(recipe, seed=1)
    again.start_from(tmp_path / "model.pt")
    for mine, other in zip(again.sam.parameters(), trainer.sam.parameters()):
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-2)


def test_runs_are_averaged_when_they_are_exported_together(recipe, tmp_path):
    runs = [_trainer(recipe, seed=seed) for seed in (0, 1)]
    for number, trainer in enumerate(runs):
        trainer.step_index = number
        trainer.save(tmp_path / f"{number}.pt")
    recipe["export"].export([tmp_path / "1.pt", tmp_path / "0.pt"], tmp_path / "mean.pt")
    mean = torch.load(tmp_path / "mean.pt", weights_only=True)
    assert mean["metadata"]["steps"] == 1 and mean["metadata"]["averaged"] == [0, 1]
    one, other = (trainer.average["sam"] for trainer in runs)
    for name, value in mean["model_state"].items():
        torch.testing.assert_close(value.float(), (one[name] + other[name]).float() / 2, atol=1e-3, rtol=1e-3)


def test_last_weights_are_mixed_in_and_where_prompts_are_answered_those_a_run_began_with(recipe, tmp_path):
    first, trainer = _trainer(recipe, seed=0), _trainer(recipe, seed=1)
    first.save(tmp_path / "first.pt")
    recipe["export"].export([tmp_path / "first.pt"], tmp_path / "began.pt")
    with torch.no_grad():
        for parameter in trainer.sam.parameters():
            parameter.add_(1.0)  # the running average stays behind
    trainer.save(tmp_path / "latest.pt")
    recipe["export"].export([tmp_path / "latest.pt"], tmp_path / "mixed.pt", 0.25, tmp_path / "began.pt", 0.2)
    mixed = torch.load(tmp_path / "mixed.pt", weights_only=True)["model_state"]
    for name, _ in trainer.sam.named_parameters():
        expected = trainer.average["sam"][name] + 0.25
        if not name.startswith("image_encoder."):
            expected = 0.8 * expected + 0.2 * first.average["sam"][name]
        torch.testing.assert_close(mixed[name].float(), expected, atol=2e-3, rtol=2e-3)
