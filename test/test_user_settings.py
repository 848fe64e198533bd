"""What is set for a computer: defaults, the file, the environment above it, and arguments above both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from micro_sam.errors import DeviceError, OutputError, ParameterError
from micro_sam.models.cache import get_cache_directory, journals_directory
from micro_sam.models.device import get_device
from micro_sam.models.precision import resolve_precision
from micro_sam.user_settings import UserSettings, load_settings, origin_of, save_settings, setting, settings_path


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "config" / "settings.json"
    monkeypatch.setenv("MICROSAM_SETTINGS", str(path))
    monkeypatch.delenv("MICROSAM_CACHEDIR", raising=False)
    return path


def test_tests_never_see_the_settings_of_the_person_who_runs_them():
    assert "tests have no settings" in settings_path().name and load_settings() == UserSettings()


def test_the_file_lies_in_the_users_folder_for_settings(monkeypatch):
    monkeypatch.delenv("MICROSAM_SETTINGS")
    assert settings_path().parts[-2:] == ("micro_sam", "settings.json")


def test_settings_are_kept_and_used_at_once(file, tmp_path):
    assert load_settings() == UserSettings() and not file.exists()
    wanted = UserSettings(str(tmp_path / "cache"), str(tmp_path / "journals"), "vit_t_builtin", "cpu", "bfloat16")
    assert save_settings(wanted) == file and load_settings() == wanted
    assert [path.name for path in file.parent.iterdir()] == ["settings.json"]
    assert get_cache_directory() == tmp_path / "cache" and journals_directory() == tmp_path / "journals"
    assert get_device() == torch.device("cpu") and resolve_precision("auto", "cpu") == torch.bfloat16
    save_settings(UserSettings(cache_directory=str(tmp_path / "other")))
    assert get_cache_directory() == tmp_path / "other" and journals_directory() == tmp_path / "other" / "journals"


def test_the_environment_wins_over_the_file_and_arguments_over_both(file, tmp_path, monkeypatch):
    save_settings(UserSettings(cache_directory=str(tmp_path / "set"), precision="bfloat16", device="cpu"))
    assert origin_of("cache_directory") == "settings" and origin_of("model") == "default"
    monkeypatch.setenv("MICROSAM_CACHEDIR", str(tmp_path / "environment"))
    monkeypatch.setenv("MICROSAM_PRECISION", "float32")
    assert get_cache_directory() == tmp_path / "environment" and origin_of("cache_directory") == "MICROSAM_CACHEDIR"
    assert resolve_precision("auto", "cpu") == torch.float32
    assert resolve_precision("bfloat16", "cpu") == torch.bfloat16
    monkeypatch.setenv("MICROSAM_DEVICE", "quantum")
    assert get_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match="MICROSAM_DEVICE says 'quantum'"):
        get_device()


@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="This computer has the device that must not exist")
def test_a_device_that_is_gone_is_said_with_where_it_was_set(file):
    save_settings(UserSettings(device="cuda:7"))
    with pytest.raises(DeviceError, match="the settings say 'cuda:7'"):
        get_device()


@pytest.mark.parametrize("content", ["{", "[1]", '{"device": "toaster"}', '{"model": 3}', ""])
def test_a_damaged_file_is_said_and_not_used(file, content, caplog):
    file.parent.mkdir()
    file.write_text(content)
    assert load_settings() == UserSettings()
    assert "are not used" in caplog.text and str(file) in caplog.text


def test_settings_of_a_newer_version_are_left_out(file):
    file.parent.mkdir()
    file.write_text(json.dumps({"device": "cpu", "something_new": 1}))
    assert load_settings() == UserSettings(device="cpu")


def test_what_cannot_be_is_refused(file):
    with pytest.raises(ParameterError, match="'precision' is one of auto, float32, bfloat16, got 'float8'"):
        UserSettings(precision="float8")
    file.parent.write_text("a file in the place of the folder")
    with pytest.raises(OutputError, match="could not be written"):
        save_settings(UserSettings())


def test_the_default_model_follows_the_settings(file):
    def default_model(**variables: str) -> list[str]:
        code = "import micro_sam.util as u, micro_sam.cli.options as o; print(u._DEFAULT_MODEL, o.DEFAULT_MODEL)"
        result = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=True
        )
        return result.stdout.split()

    assert default_model() == ["vit_b_lm"] * 2
    save_settings(UserSettings(model="vit_b_em_organelles"))
    assert default_model() == ["vit_b_em_organelles"] * 2
    assert default_model(MICROSAM_MODEL="vit_t_builtin") == ["vit_t_builtin"] * 2
    assert setting("model") == "vit_b_em_organelles"
