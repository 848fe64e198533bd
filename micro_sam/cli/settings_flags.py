"""Flags for the post-processing parameters, made from the settings dataclasses of the segmentation modes."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any

from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.settings import SETTINGS

_TITLES = {
    "amg": "parameters of --mode amg (automatic mask generation)",
    "ais": "parameters of --mode ais (instance segmentation with the decoder)",
    "apg": "parameters of --mode apg (automatic prompt generation)",
}
#: Parameters whose flag is named differently because another flag has their name.
_RENAMED = {"batch_size": "prompt_batch_size"}
_DESTINATION = "setting_"


def add_settings_flags(parser: argparse.ArgumentParser) -> None:
    """One flag per parameter; one that several modes have is listed with the first and says which modes take it."""
    groups = {mode: parser.add_argument_group(_TITLES[mode]) for mode in SETTINGS}
    for name, owners in _owners().items():
        first = next(iter(owners))
        _add_flag(groups[first], name, owners)


def add_field_flags(group: argparse._ArgumentGroup, settings: type, *names: str) -> None:
    """One flag per field of a settings dataclass, or for those that are named."""
    for item in fields(settings):
        if not names or item.name in names:
            _add_flag(group, item.name, {"": item}, "")


def given_fields(args: argparse.Namespace, settings: type) -> dict[str, Any]:
    """The fields of a settings dataclass that were given on the command line."""
    values = {item.name: getattr(args, _DESTINATION + item.name, None) for item in fields(settings)}
    return {name: value for name, value in values.items() if value is not None}


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The parameters that were given on the command line, under the names of the dataclass fields."""
    values = {name: getattr(args, _DESTINATION + name) for name in _owners()}
    return {name: value for name, value in values.items() if value is not None}


def check_settings(mode: str, given: dict[str, Any]) -> None:
    """Raise a `ParameterError` if a parameter does not belong to the mode or is out of range."""
    owners = _owners()
    for name in given:
        if mode not in owners[name]:
            modes = " and ".join(owners[name])
            raise ParameterError(f"--{_flag(name)} belongs to --mode {modes}, but the mode is {mode}; leave it out.")
    SETTINGS[mode](**given)


def modes_that_take(given: dict[str, Any]) -> list[str]:
    """The modes that have all the given parameters."""
    owners = _owners()
    return [mode for mode in SETTINGS if all(mode in owners[name] for name in given)]


def _owners() -> dict[str, dict[str, Field]]:
    owners: dict[str, dict[str, Field]] = {}
    for mode, cls in SETTINGS.items():
        for item in fields(cls):
            owners.setdefault(item.name, {})[mode] = item
    return owners


def _flag(name: str) -> str:
    return _RENAMED.get(name, name)


def _add_flag(
    group: argparse._ArgumentGroup, name: str, owners: dict[str, Field], or_else: str = ", or what suits the model"
) -> None:
    item = next(iter(owners.values()))
    also = [mode for mode in owners if owners[mode] is not item]
    help_text = item.metadata["help"].replace("%", "%%") + (f" Also for {' and '.join(also)}." if also else "")
    default = "; ".join(dict.fromkeys(str(field.default) for field in owners.values()))
    help_text += f" (default: {default}{or_else})"
    kwargs: dict[str, Any] = {"dest": _DESTINATION + name, "help": help_text, "default": None}
    if isinstance(item.default, bool):
        group.add_argument(f"--{_flag(name)}", action=argparse.BooleanOptionalAction, **kwargs)
        return
    ranges = [field.metadata["range"] for field in owners.values()]
    kwargs |= {"type": number(type(item.default), ranges), "metavar": "N" if isinstance(item.default, int) else "X"}
    group.add_argument(f"--{_flag(name)}", **kwargs)


def number(kind: type, ranges: list[tuple[float | None, float | None] | None]) -> Callable[[str], Any]:
    """An argument type: a whole or real number in one of the ranges; None leaves a side open."""
    lows = [r[0] for r in ranges if r is not None and r[0] is not None]
    highs = [r[1] for r in ranges if r is not None and r[1] is not None]

    def parse(text: str) -> Any:
        expected = "a whole number" if kind is int else "a number"
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {expected}, got '{text}'") from None
        if math.isnan(value) or (lows and value < min(lows)) or (len(highs) == len(ranges) and value > max(highs)):
            span = f"at least {min(lows):g}" if len(highs) < len(ranges) else f"from {min(lows):g} to {max(highs):g}"
            raise argparse.ArgumentTypeError(f"must be {span}, got {text}")
        return value

    return parse
