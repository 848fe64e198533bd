from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from micro_sam.bioimageio import bioengine_export, export_onnx_model, onnx_export, quantize_onnx
from micro_sam.bioimageio.onnx_export import OPSET, encoder_part, instance_part, prompt_part, write_onnx
from micro_sam.bioimageio.onnx_modules import ToOriginalSize
from micro_sam.bioimageio.tensors import prompts_from_labels
from micro_sam.embeddings.preprocessing import to_image
from micro_sam.errors import MissingDependencyError, OutputError, ParameterError
from micro_sam.mask_decoding import Upscaler
from micro_sam.models.predictor import get_sam_model


@pytest.fixture(scope="module")
def sam(source):
    return source.build_sam()


@pytest.fixture(scope="module")
def files(tmp_path_factory, sam, source):
    """Each part of the bundled model as an ONNX file; the encoder with the older opset, which is written faster."""
    folder = tmp_path_factory.mktemp("onnx")
    for part, opset in ((encoder_part(sam), 17), (prompt_part(sam), OPSET), (instance_part(source), OPSET)):
        write_onnx(part, folder / f"{part.name}.onnx", opset)
    return folder


@pytest.fixture(scope="module")
def predictor(sample):
    """The bundled model with the sample set."""
    predictor = get_sam_model("vit_t_builtin", "cpu", precision="float32", accelerate=False)
    predictor.set_image(to_image(sample[0]))
    return predictor


def run(path, **inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: np.asarray(value, dtype=np.float32) for name, value in inputs.items()})


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def resized(predictor, sample):
    """The image as the encoder's file takes it."""
    return predictor.transform.apply_image(to_image(sample[0])).transpose(2, 0, 1)[None]


def boxes(predictor, sample):
    """The boxes of the three largest objects as corners in the encoder's frame, and the labels of these."""
    found = prompts_from_labels(sample[1], sample[1].shape)["box_prompts"][0]
    corners = predictor.transform.apply_boxes(found, predictor.original_size).reshape(-1, 2, 2)
    return corners, np.repeat([[2, 3]], len(corners), axis=0)


def test_the_encoder_gives_the_same_embeddings(files, predictor, sample):
    [embeddings] = run(files / "encoder.onnx", image=resized(predictor, sample))
    expected = predictor.features.numpy()
    assert np.abs(embeddings - expected).max() < 1e-3 * np.abs(expected).max()


def test_the_prompt_decoder_gives_the_same_masks_for_several_boxes(files, predictor, sample):
    corners, labels = boxes(predictor, sample)
    masks, scores, low_res = run(
        files / "decoder.onnx",
        image_embeddings=predictor.features,
        point_coords=corners,
        point_labels=labels,
        mask_input=np.zeros((len(corners), 1, 256, 256)),
        has_mask_input=[0],
        orig_im_size=predictor.original_size,
    )
    frame = torch.as_tensor(corners.reshape(-1, 4), dtype=torch.float32)
    logits, ious, low = predictor.predict_torch(None, None, frame, multimask_output=False, return_logits=True)
    assert masks.shape == logits.shape == (3, 1, 96, 128)
    assert np.abs(masks - logits.numpy()).max() < 1e-3 and np.abs(low_res - low.numpy()).max() < 1e-3
    np.testing.assert_allclose(scores, ious.numpy(), atol=1e-4)
    assert all(iou(a, b) > 0.999 for a, b in zip(masks > 0, logits.numpy() > 0))


def test_one_click_gives_the_best_of_three_masks(files, predictor, sample):
    point = prompts_from_labels(sample[1], sample[1].shape)["point_prompts"][0][:1]
    coords = predictor.transform.apply_coords(point, predictor.original_size)
    masks, scores, low_res = run(
        files / "decoder.onnx",
        image_embeddings=predictor.features,
        point_coords=np.concatenate([coords, np.zeros((1, 1, 2))], axis=1),
        point_labels=[[1, -1]],
        mask_input=np.zeros((1, 1, 256, 256)),
        has_mask_input=[0],
        orig_im_size=predictor.original_size,
    )
    logits, ious, _ = predictor.predict_torch(
        torch.as_tensor(coords, dtype=torch.float32), torch.ones(1, 1), return_logits=True
    )
    best = ious[0].argmax()
    assert scores[0, 0] == pytest.approx(float(ious[0, best]), abs=1e-4)
    np.testing.assert_allclose(masks[0, 0], logits[0, best].numpy(), atol=1e-3)
    again, _, _ = run(
        files / "decoder.onnx",
        image_embeddings=predictor.features,
        point_coords=np.concatenate([coords, np.zeros((1, 1, 2))], axis=1),
        point_labels=[[1, -1]],
        mask_input=low_res,
        has_mask_input=[1],
        orig_im_size=predictor.original_size,
    )
    expected, _, _ = predictor.predict_torch(
        torch.as_tensor(coords, dtype=torch.float32), torch.ones(1, 1), mask_input=torch.as_tensor(low_res),
        return_logits=True,
    )  # fmt: skip
    assert min(np.abs(again[0, 0] - other).max() for other in expected[0].numpy()) < 1e-3
    assert np.abs(again - masks).max() > 0.1


def test_the_instance_decoder_gives_the_same_maps_at_any_size(files, predictor, source):
    decoder = source.build_decoder().eval()
    for shape in ((96, 128), (300, 200)):
        height, width = predictor.transform.get_preprocess_shape(*shape, 1024)
        [maps] = run(files / "instance_decoder.onnx", image_embeddings=predictor.features, orig_im_size=shape)
        with torch.no_grad():
            expected = decoder(predictor.features, (height, width), shape).numpy()
        assert maps.shape == expected.shape and np.abs(maps - expected).max() < 1e-3


def test_the_files_are_valid_and_of_the_opset(files):
    for path in files.glob("*.onnx"):
        onnx.checker.check_model(path)
        assert onnx.load(path).opset_import[0].version == (17 if path.stem == "encoder" else OPSET)


def test_int8_is_smaller_and_nearly_the_same(files, predictor, sample, tmp_path):
    quantize_onnx(files / "decoder.onnx", tmp_path / "decoder.onnx")
    assert (tmp_path / "decoder.onnx").stat().st_size < 0.5 * (files / "decoder.onnx").stat().st_size
    corners, labels = boxes(predictor, sample)
    inputs = {
        "image_embeddings": predictor.features, "point_coords": corners, "point_labels": labels,
        "mask_input": np.zeros((3, 1, 256, 256)), "has_mask_input": [0], "orig_im_size": predictor.original_size,
    }  # fmt: skip
    expected, found = (run(folder / "decoder.onnx", **inputs)[0] > 0 for folder in (files, tmp_path))
    assert min(iou(a, b) for a, b in zip(expected, found)) > 0.9


def test_scaling_back_is_that_of_segment_anything():
    maps = torch.randn(2, 1, 256, 256)
    for shape in ((70, 130), (1500, 900), (33, 33)):
        scale = 1024 / max(shape)
        resized = tuple(int(side * scale + 0.5) for side in shape)
        found = ToOriginalSize(256)(maps, torch.tensor(shape, dtype=torch.float32))
        torch.testing.assert_close(found, Upscaler(resized, shape).full(maps), atol=1e-4, rtol=1e-4)


def test_a_model_repository_with_the_older_opset(tmp_path):
    export_onnx_model("vit_t_builtin", tmp_path / "models", export_name="decoder", return_extra_metrics=True)
    folder = tmp_path / "models" / "decoder"
    model = onnx.load(folder / "1" / "model.onnx")
    onnx.checker.check_model(model)
    assert model.opset_import[0].version == 17
    text = (folder / "config.pbtxt").read_text()
    assert 'name: "point_coords", data_type: TYPE_FP32, dims: [-1, -1, 2]' in text
    outputs = [value.name for value in model.graph.output]
    assert outputs == ["masks", "iou_predictions", "stability_scores", "areas", "low_res_masks"]
    results = run(
        folder / "1" / "model.onnx",
        image_embeddings=np.random.default_rng(0).normal(size=(1, 256, 64, 64)),
        point_coords=np.full((4, 1, 2), 300.0),
        point_labels=np.ones((4, 1)),
        mask_input=np.zeros((4, 1, 256, 256)),
        has_mask_input=[0],
        orig_im_size=[123, 77],
    )
    assert [value.shape[0] for value in results] == [4] * 5 and results[0].shape == (4, 1, 123, 77)
    np.testing.assert_allclose(results[3], (results[0] > 0).sum((-2, -1)))


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ParameterError, match="between 17 and"):
        export_onnx_model("vit_t_builtin", tmp_path, opset=9)
    with pytest.raises(OutputError, match="does not exist"):
        bioengine_export.export_image_encoder("vit_t_builtin", tmp_path / "none" / "models")
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"micro_sam\[onnx\]"):
        export_onnx_model("vit_t_builtin", tmp_path)
    assert list(tmp_path.iterdir()) == []
