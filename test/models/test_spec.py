from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest
from reference_weights import published_models

from micro_sam.errors import ParameterError, UnknownModelError
from micro_sam.models import spec as registry
from micro_sam.models.spec import get_model_names, get_spec, model_names, parse_registry

PUBLISHED = published_models()
RENAMED = {
    "center_distance_thresh": "center_distance_threshold",
    "boundary_distance_thresh": "boundary_distance_threshold",
    "projection_mode": "projection",
}


def _registry_name(published_name):
    return re.sub(r" \(released with (.+)\)", r"@\1", published_name)


def _published():
    for group in ("current", "previous", "medical"):
        for name, facts in PUBLISHED[group].items():
            yield pytest.param(_registry_name(name), facts, id=_registry_name(name))


@pytest.mark.parametrize(("name", "facts"), list(_published()))
def test_every_published_model_is_registered_with_its_facts(name, facts):
    spec = get_spec(name)
    assert (spec.encoder, spec.url, spec.hash) == (facts["encoder"], facts["url"], facts["hash"])
    assert (spec.decoder_url, spec.decoder_hash) == (facts.get("decoder_url"), facts.get("decoder_hash"))
    assert (spec.bioimageio, spec.doi) == (facts.get("bioimageio"), facts.get("doi"))
    assert spec.decoder == ("unetr" if "decoder_url" in facts else None)
    assert spec.released_with == (name.split("@")[1] if "@" in name else None)


@pytest.mark.parametrize("kind", ["ais", "amg", "propagation_3d"])
def test_every_published_default_belongs_to_its_model(kind):
    for name, defaults in PUBLISHED["postprocessing_defaults"][kind].items():
        assert dict(getattr(get_spec(name), kind)) == {RENAMED.get(k, k): v for k, v in defaults.items()}


@pytest.mark.parametrize("name", model_names())
def test_a_model_can_be_downloaded_is_bundled_or_is_found_by_its_doi(name):
    spec = get_spec(name)
    assert spec.name == name
    assert spec.encoder in registry.ENCODERS
    assert bool(spec.url) + bool(spec.bundled_file) + (spec.group == "publication" and bool(spec.doi)) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.url = "http://elsewhere"
    with pytest.raises(TypeError):
        spec.ais["min_size"] = 1


def test_the_default_and_the_builtin_model_exist():
    assert get_spec(registry.DEFAULT_MODEL).encoder == "vit_b"
    builtin = get_spec(registry.BUILTIN_MODEL)
    assert (builtin.encoder, builtin.decoder, builtin.url) == ("vit_t", "light", None)


def test_names_can_be_listed_by_group():
    assert list(get_model_names()) == list(model_names())
    assert model_names("bundled") == ("vit_t_builtin",)
    assert "vit_b_lm@0.2" in model_names("previous")
    assert "vit_b_lm" not in model_names("previous", "medical")


def test_training_configurations_and_sample_data_are_there():
    published = PUBLISHED["training_configurations"]
    assert set(registry.training_configurations()) == set(published)
    for name, entry in registry.training_configurations().items():
        expected = {k: v for k, v in published[name].items() if k != "peft"}
        assert {k: v for k, v in entry.items() if k != "attention_layers_to_update"} == expected
        assert entry.get("attention_layers_to_update") == ((11,) if "peft" in published[name] else None)
    for name, entry in registry.sample_data_files().items():
        facts = PUBLISHED["sample_data"][name]
        assert (entry["file"], entry["url"], entry["hash"]) == (
            facts["file"],
            facts["url"],
            f"sha256:{facts['sha256']}",
        )
    assert len(registry.sample_data_files()) == len(PUBLISHED["sample_data"])
    assert dict(registry.publications()) == PUBLISHED["publication_models_by_doi"]


def test_a_misspelt_name_gives_a_hint():
    with pytest.raises(UnknownModelError, match="no model named 'vit_b_ml': did you mean .*vit_b_lm"):
        get_spec("vit_b_ml")
    with pytest.raises(UnknownModelError, match="choose one of vit_t_builtin, vit_t, vit_b"):
        get_spec("resnet")


MINIMAL = '[models.a]\ngroup = "current"\nencoder = "vit_b"\nurl = "http://x"\nhash = "sha256:0"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + 'checksum = "x"\n', "Unknown key 'checksum' in models.a"),
        (MINIMAL + "ais = { centre = 0.5 }\n", "Unknown key 'centre' in models.a.ais"),
        (MINIMAL.replace("vit_b", "vit_x"), "models.a.encoder is one of vit_t, vit_b, vit_l, vit_h, got 'vit_x'"),
        (MINIMAL.replace("current", "new"), "models.a.group is one of"),
        (MINIMAL + 'bundled_file = "a.pt"\n', "needs a url or a bundled_file"),
        (MINIMAL + 'decoder_url = "http://y"\n', "needs decoder, decoder_url and decoder_hash together"),
        (MINIMAL.replace("sha256:0", "0"), "models.a.hash is 'xxh128:...' or 'sha256:...', got '0'"),
        (MINIMAL + "[model.b]\n", "Unknown key 'model' in the registry"),
        ('[sample_data.a]\nfile = "a"\nurl = "http://x"\n', "Missing key 'hash' in sample_data.a"),
        ('[training.CPU]\nmodel_type = "vit_b"\nlr = 1\n', "Unknown key 'lr' in training.CPU"),
    ],
)
def test_a_registry_with_a_mistake_is_refused(text, message):
    with pytest.raises(ParameterError, match=re.escape(message)):
        parse_registry(text)


def test_the_registry_is_read_without_torch_and_pooch():
    code = (
        "import sys, micro_sam.models.spec as s; s.get_spec('vit_b'); "
        "print({'torch', 'pooch', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
