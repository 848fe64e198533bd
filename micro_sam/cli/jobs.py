"""From the inputs and outputs on the command line to a list of jobs, checked before anything is computed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micro_sam.errors import MissingInputError, OutputError
from micro_sam.io.labels import TIF_SUFFIXES, ZARR_SUFFIXES, check_labels_path
from micro_sam.io.overlay import check_overlay_path
from micro_sam.io.paths import (
    check_folder_of,
    check_overwrites_no_input,
    expand_inputs,
    stem,
    unique_names,
)

#: Asks for a picture beside the result, without a path of its own.
BESIDE = object()


@dataclass(frozen=True)
class Job:
    """One image to process.

    Attributes:
        path: The file or folder, or the name of a bundled sample.
        key: The data set or pattern inside.
        is_sample: Whether it is a bundled sample.
        output: Where the labels go, if any.
        overlay: Where the picture goes, if any.
        embedding_path: Where the embeddings are kept, if they are.
    """

    path: Path
    key: str | None = None
    is_sample: bool = False
    output: Path | None = None
    overlay: Path | None = None
    embedding_path: Path | None = None

    def open(self, ndim: int | None) -> tuple[Any, int]:
        """Open the image without reading it.

        Returns:
            The `ImageFile` and the number of spatial dimensions, 2 or 3.
        """
        import numpy as np

        from micro_sam.embeddings.source import ImageSource
        from micro_sam.errors import ImageError
        from micro_sam.io import open_image

        image = open_sample(str(self.path)) if self.is_sample else open_image(self.path, self.key)
        stand_in = np.broadcast_to(np.zeros((), image.dtype), image.shape)  # one element, whatever the shape
        try:
            with warnings.catch_warnings(action="ignore"):  # they come when the image is used
                return image, ImageSource.from_input(stand_in, ndim).ndim
        except ImageError as error:
            raise ImageError(f"'{self.path}' cannot be used: {error}") from error


def find_inputs(inputs: Sequence[Path], pattern: str | None, key: str | None) -> list[Path]:
    """The images to process; see `expand_inputs`. A folder needs a pattern, or a key that makes it one stack."""
    from micro_sam.io.formats import image_format

    paths = expand_inputs(inputs, pattern)
    for path in paths:
        image_format(path, key)
    return paths


def plan_outputs(
    paths: Sequence[Path], output: Path, suffix: str, overlay: object | Path | None = None
) -> list[tuple[Path, Path | None]]:
    """Where the labels and the picture of each image go.

    Args:
        paths: The images.
        output: A file for one image, an existing folder for any number.
        suffix: What labels in a folder end with, ``.tif`` or ``.zarr``.
        overlay: None for no pictures, `BESIDE`, or a file for one image or an existing folder.

    Raises:
        OutputError: If a folder is missing or an output would overwrite an input.
    """
    outputs = _in_folder_or_file(paths, output, suffix, TIF_SUFFIXES + ZARR_SUFFIXES, "labels")
    if overlay is None:
        pictures: list[Path | None] = [None] * len(outputs)
    elif overlay is BESIDE:
        pictures = [path.with_name(f"{stem(path)}_overlay.png") for path in outputs]
    else:
        pictures = list(_in_folder_or_file(paths, Path(str(overlay)), "_overlay.png", (".png",), "the overlay"))
    for path in outputs:
        check_labels_path(path)
    for picture in filter(None, pictures):
        check_overlay_path(picture)
    check_overwrites_no_input([*outputs, *filter(None, pictures)], paths)
    return list(zip(outputs, pictures, strict=True))


def _in_folder_or_file(
    paths: Sequence[Path], output: Path, suffix: str, known: tuple[str, ...], what: str
) -> list[Path]:
    if output.is_dir() and output.suffix not in ZARR_SUFFIXES:
        return [output / f"{name}{suffix}" for name in unique_names(paths)]
    if len(paths) > 1:
        state = "is a file" if output.exists() else "does not exist"
        raise OutputError(
            f"For {len(paths)} images {what} go to a folder, but '{output}' {state}; create that folder first."
        )
    if output.suffix.lower() not in known and not output.exists():
        raise OutputError(
            f"The output folder '{output}' does not exist; create it, or name a file ({', '.join(known)})."
        )
    return [output]


def plan_embeddings(paths: Sequence[Path], embedding_path: Path | None, in_folder: bool) -> list[Path | None]:
    """Where the embeddings of each image are kept.

    Args:
        paths: The images.
        embedding_path: The store of one image, or the folder for ``<name>.zarr``; None keeps none.
        in_folder: Whether it is a folder.

    Raises:
        OutputError: If the folder is missing or not a folder.
    """
    if embedding_path is None:
        return [None] * len(paths)
    if not in_folder:
        check_folder_of(embedding_path)
        if embedding_path.is_file():
            raise OutputError(f"'{embedding_path}' is a file, expected the path of a zarr store; choose another one.")
        return [embedding_path]
    if not embedding_path.is_dir():
        state = "is a file" if embedding_path.exists() else "does not exist"
        raise OutputError(
            f"The embeddings of each image go to a folder, but '{embedding_path}' {state}; create it first."
        )
    return [embedding_path / f"{name}.zarr" for name in unique_names(paths)]


#: Real microscopy images that come with scikit-image, and the functions that give them.
_SAMPLES = {"cell": "cell", "ihc": "immunohistochemistry", "microaneurysms": "microaneurysms"}
#: What ``--sample`` without a name means.
DEFAULT_SAMPLE = "cell"


def sample_names() -> tuple[str, ...]:
    """Names of the bundled microscopy images."""
    return tuple(_SAMPLES)


def open_sample(name: str) -> Any:
    """A bundled microscopy image as an `ImageFile`."""
    import skimage.data

    from micro_sam.io.images import ImageFile

    if name not in _SAMPLES:
        raise MissingInputError(f"There is no sample '{name}'; choose one of {', '.join(_SAMPLES)}.")
    image = getattr(skimage.data, _SAMPLES[name])()
    return ImageFile(Path(name), None, image.shape, image.dtype, None, None, lambda lazy: image)
