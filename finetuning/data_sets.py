"""The public data sets that models are finetuned on: where their images and labels lie once torch-em has fetched them.

Each lies in a folder of its own, which torch-em fills with ``--download``. A folder with ``train`` and ``val``, which hold
``images`` and ``labels`` with files of the same names, is taken in its place: put your own images there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from micro_sam.errors import InputError
from micro_sam.io.paths import expand_inputs


@dataclass(frozen=True)
class Files:
    """Images with labels.

    Attributes:
        images: Files, or a folder with ``key`` "*.tif".
        labels: The same.
        image_key: The data set inside the files, or the pattern.
        label_key: The same for the labels.
        rois: The part of each file that is used; None for all of it.
    """

    images: Any
    labels: Any
    image_key: str | None = None
    label_key: str | None = None
    rois: list[Any] | None = field(default=None)


def find(name: str, root: Path, split: str, download: bool = False) -> Files:
    """The files of a data set.

    Args:
        name: One of `DATA_SETS`.
        root: The folder in which all data sets lie.
        split: "train" or "val".
        download: Fetch it if it is not there.

    Raises:
        InputError: It is not there, or cannot be fetched.
    """
    folder = root / name
    own = folder / split
    if (own / "images").is_dir() and (own / "labels").is_dir():
        images, labels = (expand_inputs([own / kind], "*") for kind in ("images", "labels"))
        return Files(images, labels)
    try:
        return DATA_SETS[name](str(folder), split, download)
    except Exception as error:  # every loader has errors of its own
        advice = "check the network" if download else "run it with --download, or put your own images there"
        raise InputError(
            f"The data set '{name}' cannot be read from '{folder}' ({type(error).__name__}: {error}); {advice}."
        ) from error


def _livecell(path: str, split: str, download: bool) -> Files:
    from torch_em.data.datasets.light_microscopy.livecell import get_livecell_paths

    return Files(*get_livecell_paths(path, split, download))


def _tissuenet(path: str, split: str, download: bool) -> Files:
    from torch_em.data.datasets.light_microscopy.tissuenet import get_tissuenet_paths

    paths = get_tissuenet_paths(path, split, download)
    return Files(paths, paths, "raw/rgb", "labels/cell")


def _neurips_cellseg(path: str, split: str, download: bool) -> Files:
    from torch_em.data.datasets.light_microscopy.neurips_cell_seg import get_neurips_cellseg_paths

    return Files(*get_neurips_cellseg_paths(path, split, download))


def _deepbacs(path: str, split: str, download: bool) -> Files:
    from torch_em.data.datasets.light_microscopy.deepbacs import get_deepbacs_paths

    images, labels = get_deepbacs_paths(path, "mixed", split, download)
    return Files(images, labels, "*.tif", "*.tif")


def _plantseg_root(path: str, split: str, download: bool) -> Files:
    from torch_em.data.datasets.light_microscopy.plantseg import get_plantseg_paths

    paths = get_plantseg_paths(path, "root", split, download)
    return Files(paths, paths, "raw", "label")


def _dsb(path: str, split: str, download: bool) -> Files:
    """It has no validation split: the last tenth of the images is held out."""
    from torch_em.data.datasets.light_microscopy.dsb import get_dsb_paths

    images, labels = get_dsb_paths(path, "reduced", "train", download=download)
    border = len(images) - max(1, len(images) // 10)
    part = slice(border, None) if split == "val" else slice(0, border)
    return Files(images[part], labels[part])


def _cremi(path: str, split: str, download: bool) -> Files:
    """The last 25 of 125 sections of each sample are held out."""
    from torch_em.data.datasets.electron_microscopy.cremi import get_cremi_paths

    paths = get_cremi_paths(path, download=download)
    roi = np.s_[100:, :, :] if split == "val" else np.s_[:100, :, :]
    return Files(paths, paths, "volumes/raw", "volumes/labels/neuron_ids", [roi] * len(paths))


def _asem_er(path: str, split: str, download: bool) -> Files:
    """Endoplasmic reticulum; connected parts are taken as objects. One of the cells is held out."""
    from torch_em.data.datasets.electron_microscopy.asem import ORGANELLES, get_asem_paths

    volumes = list(ORGANELLES["er"])
    volumes = volumes[-1:] if split == "val" else volumes[:-1]
    paths = get_asem_paths(path, volumes, download, ["er"])
    raw = "volumes/raw_er" if Path(paths[0], "volumes", "raw_er").exists() else "volumes/raw"
    return Files(paths, paths, raw, "volumes/labels/er")


def _mitoem(path: str, split: str, download: bool) -> Files:
    """The volumes are in the n5 format, which needs the package z5py."""
    from elf.io import open_file
    from torch_em.data.datasets.electron_microscopy.mitoem import get_mitoem_paths

    files = [open_file(found, "r") for found in get_mitoem_paths(path, [split], download=download)]
    return Files([file["raw"] for file in files], [file["labels"] for file in files])


def _platynereis_nuclei(path: str, split: str, download: bool) -> Files:
    """Two of the twelve blocks are held out."""
    from torch_em.data.datasets.electron_microscopy.platynereis import get_platynereis_paths

    samples = [11, 12] if split == "val" else list(range(1, 11))
    paths = get_platynereis_paths(path, samples, "nuclei", download=download)
    return Files(paths, paths, "volumes/raw", "volumes/labels/nucleus_instance_labels")


def _mitolab(path: str, split: str, download: bool) -> Files:
    from torch_em.data.datasets.electron_microscopy.cem import get_mitolab_paths

    return Files(*get_mitolab_paths(path, split, download=download))


#: Name -> what finds its files.
DATA_SETS: dict[str, Callable[[str, str, bool], Files]] = {
    "livecell": _livecell,
    "tissuenet": _tissuenet,
    "neurips_cellseg": _neurips_cellseg,
    "deepbacs": _deepbacs,
    "plantseg_root": _plantseg_root,
    "dsb": _dsb,
    "cremi": _cremi,
    "asem_er": _asem_er,
    "mitoem": _mitoem,
    "platynereis_nuclei": _platynereis_nuclei,
    "mitolab": _mitolab,
}
