"""What a person has set for this computer: folders, default model and device. In a small JSON file of the user's own.

An environment variable wins over what is set here, and an argument of a function or command wins over both.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from dataclasses import Field, asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from micro_sam.errors import OutputError, ParameterError

FILE_VARIABLE = "MICROSAM_SETTINGS"

logger = logging.getLogger(__name__)


def _setting(label: str, help: str, variable: str, kind: str, default: str = "", choices: tuple[str, ...] = ()) -> Any:
    """A field; ``kind`` is "folder", "model" or "choice", ``variable`` the environment variable that wins over it."""
    metadata = {"label": label, "help": help, "variable": variable, "kind": kind, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class UserSettings:
    """What a person has set. Empty text stands for the default.

    Raises:
        ParameterError: A value is not among those it can have.
    """

    cache_directory: str = _setting(
        "Cache folder",
        "Where models and sample images are kept after they are downloaded.",
        "MICROSAM_CACHEDIR",
        "folder",
    )
    journal_directory: str = _setting(
        "Journal folder",
        "Where every step of an annotation is written down, so that nothing is lost; beside the cache by default.",
        "MICROSAM_JOURNALS",
        "folder",
    )
    model: str = _setting(
        "Model", "The model that annotators, commands and scripts use if none is named.", "MICROSAM_MODEL", "model"
    )
    device: str = _setting(
        "Device",
        "Where models compute; automatic takes a GPU if there is one.",
        "MICROSAM_DEVICE",
        "choice",
        "auto",
        ("auto", "cpu", "cuda", "mps"),
    )
    precision: str = _setting(
        "Precision",
        "What networks compute in; automatic takes bfloat16 where the hardware is faster with it.",
        "MICROSAM_PRECISION",
        "choice",
        "auto",
        ("auto", "float32", "bfloat16"),
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            value, choices = getattr(self, item.name), item.metadata["choices"]
            if not isinstance(value, str) or (choices and value not in choices and not _is_numbered(value)):
                expected = f"one of {', '.join(choices)}" if choices else "text"
                raise ParameterError(f"The setting '{item.name}' is {expected}, got {value!r}.")


def _is_numbered(device: str) -> bool:
    name, _, number = device.partition(":")
    return name == "cuda" and number.isdecimal()


def settings_path() -> Path:
    """The file of the settings: MICROSAM_SETTINGS, or ``micro_sam/settings.json`` in the user's folder for settings."""
    named = os.environ.get(FILE_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    import platformdirs

    return platformdirs.user_config_path("micro_sam", appauthor=False) / "settings.json"


def load_settings() -> UserSettings:
    """What is set; defaults if nothing is. A file that cannot be read is said once and not used."""
    path = settings_path()
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        return UserSettings()
    return _read(path, stamp)


@lru_cache(maxsize=4)
def _read(path: Path, stamp: int) -> UserSettings:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names = {item.name for item in fields(UserSettings)}
        return UserSettings(**{name: value for name, value in found.items() if name in names})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.warning("The settings in '%s' are not used (%s); save them again.", path, error)
        return UserSettings()


def save_settings(settings: UserSettings) -> Path:
    """Write the settings; the file changes at once and as a whole.

    Returns:
        The file.

    Raises:
        OutputError: It cannot be written.
    """
    path = settings_path()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"The settings '{path}' could not be written ({error.strerror}); check the disk and the permissions."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path


def setting(name: str) -> str:
    """The value of a setting: of its environment variable, else as it was set, else its default.

    Args:
        name: The name of a field of `UserSettings`.
    """
    return os.environ.get(_field(name).metadata["variable"]) or getattr(load_settings(), name)


def origin_of(name: str) -> str:
    """Where the value of a setting comes from: the environment variable, "settings" or "default"."""
    item = _field(name)
    if os.environ.get(item.metadata["variable"]):
        return item.metadata["variable"]
    return "default" if getattr(load_settings(), name) == item.default else "settings"


def _field(name: str) -> Field:
    return next(item for item in fields(UserSettings) if item.name == name)
