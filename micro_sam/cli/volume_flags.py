"""Flags for the automatic segmentation of volumes, made from the fields of `VolumeSettings`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from micro_sam.errors import ParameterError
from micro_sam.multi_dimensional_segmentation.volume_settings import METHODS, VolumeSettings


def add_volume_flags(parser: argparse.ArgumentParser, title: str = "volumes (--ndim 3)") -> None:
    """One flag per setting."""
    group = parser.add_argument_group(title)
    for item in fields(VolumeSettings):
        kind, default = item.metadata["kind"], item.default
        text = item.metadata["help"] + ("" if default is None else f" (default: {default})")
        kwargs: dict[str, Any] = {"choices": METHODS} if item.name == "volume_method" else {"type": kind}
        if kind is not str:
            kwargs["metavar"] = "N" if kind is int else "X"
        group.add_argument(f"--{item.name}", default=None, help=text, **kwargs)


def given_volume_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, checked.

    Raises:
        ParameterError: One is out of range, or they do not fit each other.
    """
    values = {item.name: getattr(args, item.name) for item in fields(VolumeSettings)}
    given = {name: value for name, value in values.items() if value is not None}
    try:
        VolumeSettings(**given)
    except ParameterError as error:
        raise ParameterError(f"--{error}" if str(error).startswith(tuple(given)) else str(error)) from None
    return given
