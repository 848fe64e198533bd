from __future__ import annotations

import pytest
import segment_anything
import torch

from micro_sam.errors import CheckpointError, MissingInputError, OutputError
from micro_sam.models.build_sam import parameter_shapes
from micro_sam.models.export import export_custom_sam_model, save_checkpoint
from micro_sam.models.predictor import get_sam_model


@pytest.fixture
def trained(tmp_path, tiny_state, decoder_state):
    """A training checkpoint."""
    path = tmp_path / "best.pt"
    optimizer = torch.optim.AdamW([torch.ones(2, requires_grad=True)])
    content = {
        "model_state": {f"sam.{name}": value for name, value in tiny_state.items()},
        "decoder_state": decoder_state,
        "optimizer_state": optimizer.state_dict(),
        "init": {"optimizer": optimizer},
    }
    torch.save(content, path)
    return path


def test_the_flat_layout_is_plain_weights_under_the_original_names(trained, tmp_path, tiny_state):
    export_custom_sam_model(trained, "vit_t", tmp_path / "flat.pt")
    state = torch.load(tmp_path / "flat.pt", weights_only=True)
    assert set(state) == set(tiny_state)
    assert all(torch.equal(state[name], value) for name, value in tiny_state.items())
    assert get_sam_model("vit_t", "cpu", tmp_path / "flat.pt", accelerate=False).decoder_state is None


def test_the_original_registry_reads_it(tmp_path):
    state = {f"sam.{name}": torch.full(value.shape, 0.01) for name, value in parameter_shapes("vit_b").items()}
    torch.save({"model_state": state}, tmp_path / "best.pt")
    export_custom_sam_model(tmp_path / "best.pt", "vit_b_lm", tmp_path / "flat.pth")
    sam = segment_anything.sam_model_registry["vit_b"](checkpoint=tmp_path / "flat.pth")
    assert sam.image_encoder.pos_embed.unique().tolist() == pytest.approx([0.01])


def test_the_decoder_goes_along_if_asked_for(trained, tmp_path, decoder_state):
    export_custom_sam_model(trained, "vit_t", tmp_path / "both.pt", with_segmentation_decoder=True)
    content = torch.load(tmp_path / "both.pt", weights_only=True)
    assert set(content) == {"model_state", "decoder_state"}
    exported = get_sam_model("vit_t", "cpu", tmp_path / "both.pt", accelerate=False).decoder_state
    assert all(torch.equal(exported[name], value) for name, value in decoder_state.items())


def test_an_exported_model_can_be_exported_again(trained, tmp_path, tiny_state):
    export_custom_sam_model(trained, "vit_t", tmp_path / "both.pt", with_segmentation_decoder=True)
    export_custom_sam_model(tmp_path / "both.pt", "vit_t_lm", tmp_path / "flat.pt")
    assert set(torch.load(tmp_path / "flat.pt", weights_only=True)) == set(tiny_state)


def test_another_prefix(tmp_path, tiny_state):
    torch.save({"model_state": {f"net.{name}": value for name, value in tiny_state.items()}}, tmp_path / "best.pt")
    for prefix in ("net.", "sam."):
        export_custom_sam_model(tmp_path / "best.pt", "vit_t", tmp_path / "flat.pt", prefix=prefix)
        assert set(torch.load(tmp_path / "flat.pt", weights_only=True)) == set(tiny_state)


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(trained, tmp_path, tiny_state):
    target = tmp_path / "out.pt"
    with pytest.raises(CheckpointError, match="holds a vit_t encoder, but the model type 'vit_l'"):
        export_custom_sam_model(trained, "vit_l", target)
    with pytest.raises(MissingInputError):
        export_custom_sam_model(tmp_path / "none.pt", "vit_t", target)
    torch.save(tiny_state, tmp_path / "flat.pt")
    with pytest.raises(CheckpointError, match="holds no instance segmentation decoder"):
        export_custom_sam_model(tmp_path / "flat.pt", "vit_t", target, with_segmentation_decoder=True)
    torch.save({name: value for name, value in tiny_state.items() if "neck" not in name}, tmp_path / "part.pt")
    with pytest.raises(CheckpointError, match="it lacks image_encoder.neck.0.weight"):
        export_custom_sam_model(tmp_path / "part.pt", "vit_t", target)
    assert not target.exists()


def test_an_interrupted_export_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "out.pt"
    target.write_text("old")

    def half(content, path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OutputError, match="cannot be written to .*out.pt"):
        save_checkpoint({}, target)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.pt"]


def test_a_missing_folder_is_named(tmp_path, tiny_checkpoint):
    with pytest.raises(OutputError, match="check the folder"):
        export_custom_sam_model(tiny_checkpoint, "vit_t", tmp_path / "none" / "out.pt")
