"""A look at the training data before the first step: what is fine, what is skipped, what is wrong."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MicroSamError, ParameterError
from .dataset import inner_key, list_sources
from .sampling import Pair, open_pair

FINE, SKIPPED, WRONG = "fine", "skipped", "wrong"

_MOST_PLANES = 16
_SAME_EDGES = 0.02


@dataclass(frozen=True)
class Finding:
    """What was found in one image and its labels.

    Attributes:
        name: The image.
        status: "fine", "skipped" or "wrong".
        shape: The spatial shape of the labels.
        dtypes: Number types of image and labels.
        channels: Number of channels.
        n_objects: Objects in the planes that were looked at.
        n_small: Of these, objects smaller than the minimum.
        unknown: Share of the area whose labels are unknown.
        remark: What else there is to say.
    """

    name: str
    status: str
    shape: tuple[int, ...] = ()
    dtypes: tuple[str, str] = ("", "")
    channels: int = 0
    n_objects: int = 0
    n_small: int = 0
    unknown: float = 0.0
    remark: str = ""


@dataclass(frozen=True)
class PreflightReport:
    """What was found in all images.

    Attributes:
        findings: One for each image.
    """

    findings: tuple[Finding, ...]

    @property
    def is_usable(self) -> bool:
        """Whether nothing is wrong and there is something to train on."""
        return self.n(WRONG) == 0 and self.n(FINE) > 0

    def n(self, status: str) -> int:
        """How many images have a status."""
        return sum(finding.status == status for finding in self.findings)

    def usable_indices(self) -> list[int]:
        """Indices of the images to train on."""
        return [i for i, finding in enumerate(self.findings) if finding.status == FINE]

    def raise_if_wrong(self) -> None:
        """Raise `ParameterError` for the first image that is wrong, or if there is nothing to train on."""
        wrong = [finding for finding in self.findings if finding.status == WRONG]
        if wrong:
            more = f" ({len(wrong) - 1} more are wrong, too)" if len(wrong) > 1 else ""
            raise ParameterError(f"{wrong[0].name} cannot be trained on: {wrong[0].remark}{more}")
        if not self.is_usable:
            raise ParameterError("No image can be trained on: none has objects that are large enough.")

    def table(self) -> str:
        """The findings as text, one line an image."""
        head = ("image", "status", "shape", "types", "channels", "objects", "too small", "unlabelled", "remark")
        rows = [head, *(_row(finding) for finding in self.findings)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        lines.append(f"{self.n(FINE)} fine, {self.n(SKIPPED)} skipped, {self.n(WRONG)} wrong")
        return "\n".join(lines)


def _row(finding: Finding) -> tuple[str, ...]:
    return (
        finding.name, finding.status, " x ".join(map(str, finding.shape)), " / ".join(t for t in finding.dtypes if t),
        str(finding.channels or ""), str(finding.n_objects), str(finding.n_small), f"{finding.unknown:.0%}",
        finding.remark,
    )  # fmt: skip


def check_training_data(
    raw_paths: Any,
    label_paths: Any,
    raw_key: str | None = None,
    label_key: str | None = None,
    patch_shape: Sequence[int] = (512, 512),
    min_size: int = 25,
    unknown_label: int | None = None,
    with_channels: bool | None = None,
    names: Sequence[str] | None = None,
) -> PreflightReport:
    """Look at images and labels as `default_sam_dataset` takes them.

    Args:
        raw_paths: Images or volumes, see `default_sam_dataset`.
        label_paths: Their annotated instances.
        raw_key: The data set inside the files, or the pattern of a folder.
        label_key: The same for the labels.
        patch_shape: (height, width) of the patches.
        min_size: Smallest object, in pixels.
        unknown_label: A label that says that nothing is known.
        with_channels: Whether images have channels; found from the shapes if None.
        names: What images are called; by default by their files, or numbered.

    Raises:
        ParameterError: The numbers of images and labels differ.
        InputError: A folder holds no such files.
    """
    raws, labels = list_sources(raw_paths, raw_key), list_sources(label_paths, label_key)
    if len(raws) != len(labels):
        raise ParameterError(
            f"There must be as many images as labels, got {len(raws)} and {len(labels)}: {_odd_one(raws, labels)}."
        )
    findings = []
    for raw, label in zip(raws, labels):
        name = Path(raw).name if isinstance(raw, str | os.PathLike) else f"array {len(findings)}"
        name = name if names is None else names[len(findings)]
        try:
            pair = open_pair(
                raw, label, inner_key(raw, raw_key), inner_key(label, label_key), with_channels, None, unknown_label
            )
            findings.append(_look_at(name, pair, tuple(patch_shape)[-2:], min_size))
        except MicroSamError as error:
            findings.append(Finding(name, WRONG, remark=str(error)))
    return PreflightReport(tuple(findings))


def _odd_one(raws: Sequence[Any], labels: Sequence[Any]) -> str:
    """Which file has no partner, by the place in the list."""
    longer, what = (raws, "image") if len(raws) > len(labels) else (labels, "label file")
    odd = longer[min(len(raws), len(labels))]
    name = Path(odd).name if isinstance(odd, str | os.PathLike) else f"number {min(len(raws), len(labels)) + 1}"
    return f"the {what} {name} and those after it have no partner"


def _look_at(name: str, pair: Pair, patch_shape: tuple[int, int], min_size: int) -> Finding:
    shape, remarks = pair.shape, []
    planes = np.unique(np.linspace(0, pair.n_planes - 1, min(pair.n_planes, _MOST_PLANES)).astype(int))
    window = tuple(slice(0, min(n, 4096)) for n in shape[-2:])
    n_objects = n_small = 0
    unknown, edges = [], []
    for plane in planes:
        labels = pair.read_labels(int(plane), *window)
        ids, counts = np.unique(labels, return_counts=True)
        counts = counts[ids > 0]
        n_objects, n_small = n_objects + len(counts), n_small + int((counts < min_size).sum())
        unknown.append((labels < 0).mean())
        if len(counts) and len(edges) < 4:
            edges.append(_edge_agreement(pair.read_raw(int(plane), *window), labels))
    channels = 1 if pair.channels_axis is None else pair.raw.shape[pair.channels_axis]
    if len(planes) < pair.n_planes:
        remarks.append(f"looked at {len(planes)} of {pair.n_planes} planes")
    if any(n < p for n, p in zip(shape[-2:], patch_shape)):
        remarks.append("smaller than the patches, which are padded")
    if channels > 3:
        remarks.append(f"the first 3 of {channels} channels are used")
    if pair.channels_axis == 0:
        remarks.append("channels come first")
    status = FINE
    if n_objects - n_small == 0:
        status = SKIPPED
        remarks.insert(0, "no object" if n_objects == 0 else f"all objects have fewer than {min_size} pixels")
    elif _is_binary(pair, planes, window):
        remarks.insert(0, "a single label: touching objects are one, connected parts are taken as objects")
    if _is_constant(pair, planes, window):
        status, remarks = WRONG, ["the image has one value everywhere.", *remarks]
    elif edges and max(edges) < _SAME_EDGES and n_objects > 3:
        remarks.append("outlines of labels lie nowhere at edges of the image: do they belong together?")
    dtypes = (str(np.dtype(pair.raw.dtype)), str(np.dtype(pair.labels.dtype)))
    return Finding(
        name, status, shape, dtypes, channels, n_objects, n_small, float(np.mean(unknown)), "; ".join(remarks)
    )


def _edge_agreement(raw: np.ndarray, labels: np.ndarray) -> float:
    """How much stronger the image's gradient is at outlines of labels than elsewhere, in standard deviations."""
    plane = raw[:3].astype(np.float32).mean(0)
    gy, gx = np.gradient(plane)
    strength = np.hypot(gy, gx)
    outline = np.zeros(labels.shape, bool)
    outline[:-1] |= labels[:-1] != labels[1:]
    outline[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    spread = float(strength.std())
    if spread == 0 or not outline.any() or outline.all():
        return float("inf")
    return float((strength[outline].mean() - strength[~outline].mean()) / spread)


def _is_binary(pair: Pair, planes: np.ndarray, window: tuple[slice, ...]) -> bool:
    ids = np.unique(np.concatenate([np.unique(pair.read_labels(int(p), *window)) for p in planes]))
    return int((ids > 0).sum()) == 1


def _is_constant(pair: Pair, planes: np.ndarray, window: tuple[slice, ...]) -> bool:
    raw = pair.read_raw(int(planes[len(planes) // 2]), *window)
    return raw.size > 0 and bool((raw == raw.flat[0]).all())
