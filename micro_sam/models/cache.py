"""Where downloaded models and sample data lie on this computer."""

from __future__ import annotations

from pathlib import Path

from ..user_settings import setting
from .spec import ModelSpec, get_spec


def get_cache_directory() -> Path:
    """The folder for everything micro_sam downloads.

    It is the environment variable MICROSAM_CACHEDIR or what is set in `micro_sam.user_settings`, read anew in every
    call, or else the user's cache folder.
    """
    chosen = setting("cache_directory")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import pooch

    return Path(pooch.os_cache("micro_sam"))


def microsam_cachedir() -> Path:
    """The same as `get_cache_directory`; scripts know it under both names."""
    return get_cache_directory()


def journals_directory() -> Path:
    """The folder of the annotators' journals that lie beside no embeddings."""
    chosen = setting("journal_directory")
    return Path(chosen).expanduser().absolute() if chosen else get_cache_directory() / "journals"


def models_directory() -> Path:
    """The folder of downloaded models: one file per model, under its registry name."""
    return get_cache_directory() / "models"


def bundled_path(file_name: str) -> Path:
    """The path of a model file that is part of the package."""
    return Path(__file__).parent / "weights" / file_name


def checkpoint_location(model: str | ModelSpec) -> Path:
    """Where the checkpoint of a registered model lies, or will lie once it is downloaded."""
    spec = get_spec(model) if isinstance(model, str) else model
    return bundled_path(spec.bundled_file) if spec.bundled_file else models_directory() / spec.file_name


def decoder_location(model: str | ModelSpec) -> Path | None:
    """Where the separate decoder file of a registered model lies or will lie; None if it has no such file."""
    spec = get_spec(model) if isinstance(model, str) else model
    return models_directory() / spec.decoder_file_name if spec.decoder_file_name else None


def is_cached(model: str | ModelSpec) -> bool:
    """Whether a registered model can be used without network: its checkpoint, and its decoder file if it has one."""
    locations = (checkpoint_location(model), decoder_location(model))
    return all(path.is_file() for path in locations if path is not None)
