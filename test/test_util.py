from __future__ import annotations

import inspect

import pytest

from micro_sam import util
from micro_sam.progress import handle_pbar

FUNCTIONS = {
    "get_cache_directory": (),
    "microsam_cachedir": (),
    "models": (),
    "get_device": ("device",),
    "get_sam_model": [
        "model_type",
        "device",
        "checkpoint_path",
        "return_sam",
        "return_state",
        "peft_kwargs",
        "flexible_load_checkpoint",
        "progress_bar_factory",
        "decoder_path",
    ],
    "export_custom_sam_model": ("checkpoint_path", "model_type", "save_path", "with_segmentation_decoder", "prefix"),
    "get_model_names": (),
    "handle_pbar": ("verbose", "pbar_init", "pbar_update"),
    "precompute_image_embeddings": [
        "predictor",
        "input_",
        "save_path",
        "lazy_loading",
        "ndim",
        "tile_shape",
        "halo",
        "verbose",
        "batch_size",
        "mask",
        "pbar_init",
        "pbar_update",
    ],
    "set_precomputed": ("predictor", "image_embeddings", "i", "tile_id"),
    "compute_iou": ("mask1", "mask2"),
    "get_centers_and_bounding_boxes": ("segmentation", "mode"),
    "load_image_data": ("path", "key", "lazy_loading"),
    "segmentation_to_one_hot": ("segmentation", "segmentation_ids"),
    "get_block_shape": ("shape",),
    "micro_sam_info": (),
    "mask_data_to_segmentation": (
        ["masks", "shape", "min_object_size", "max_object_size", "label_masks", "with_background", "merge_exclusively"]
    ),
    "apply_nms": [
        "predictions",
        "min_size",
        "shape",
        "perform_box_nms",
        "nms_thresh",
        "max_size",
        "intersection_over_min",
    ],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_keep_their_arguments_in_order(name):
    names = list(inspect.signature(getattr(util, name)).parameters)
    assert names[: len(FUNCTIONS[name])] == list(FUNCTIONS[name])


def test_constants_and_classes():
    assert util._DEFAULT_MODEL == "vit_b_lm"
    assert util.VIT_T_SUPPORT is True
    assert util.SamPredictor.__mro__[-2].__module__.startswith("segment_anything")
    assert util.ImageEmbeddings is not None


def test_all_names_are_listed_and_unknown_ones_are_an_error():
    assert set(FUNCTIONS) <= set(dir(util))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = util.no_such_name


def test_the_default_model_is_that_of_the_registry():
    from micro_sam.models.spec import DEFAULT_MODEL

    assert util._DEFAULT_MODEL == DEFAULT_MODEL


def test_handle_pbar_gives_functions_that_can_always_be_called():
    bar, init, update, close = handle_pbar(False, None, None)
    assert bar is None
    init(3, "text")
    update(1)
    close()


def test_handle_pbar_prefers_the_callers_callbacks():
    calls = []
    bar, init, update, close = handle_pbar(True, lambda n, text: calls.append((n, text)), calls.append)
    init(3, "text")
    update(2)
    close()
    assert bar is None and calls == [(3, "text"), 2]


def test_handle_pbar_shows_a_bar_when_asked_to(capsys):
    bar, init, update, close = handle_pbar(True, None, None)
    init(2, "Embed")
    update(2)
    close()
    assert bar.n == 2 and "Embed" in capsys.readouterr().err
