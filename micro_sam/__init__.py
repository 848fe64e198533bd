"""Segment Anything for microscopy."""

from importlib import metadata

try:
    __version__ = metadata.version("micro_sam")
except metadata.PackageNotFoundError:  # the source tree is used without being installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
