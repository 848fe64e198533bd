"""Sample data: synthetic images, which need no network."""

from importlib import import_module

_EXPORTS = {"synthetic_data": "synthetic", "KINDS": "synthetic"}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
