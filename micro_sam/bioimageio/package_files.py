"""The files beside the weights in a package: documentation, cover pictures, environment, test tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from skimage.transform import resize

from micro_sam import __version__
from micro_sam.bioimageio.package_info import PackageInfo
from micro_sam.embeddings.preprocessing import to_image
from micro_sam.io.overlay import draw_overlay

_COVER_SIDE = 320

_PROMPTS = """\
Inputs: an image, and for each object a box, points with labels, a mask at low resolution, or several of these. Boxes and
points are in pixels, x first. The image embeddings that come out can be passed in with further prompts for the same image,
which saves nearly all of the time.

The file `{decoder}` holds the decoder for automatic instance segmentation, if the model has one."""

_AUTOMATIC = """\
Input: an image. Outputs: instance labels, and the three maps they are made from (foreground probability, distance to the
object's centre, distance to its boundary). The labels come from a watershed on the maps with the parameters

{settings}"""

_DOCUMENTATION = """\
# {name}

{own}{summary}

{kind}

Any range of intensities will do: the image is scaled to its minimum and maximum.

## Use

In micro_sam, with windows, from the command line and in Python: open this package, or the file `{weights}` in it, as a
checkpoint.

    micro_sam.annotator_2d -i cells.tif -m {encoder} -c package.zip
    micro_sam.automatic_segmentation -i cells.tif -o labels.tif -m {encoder} -c package.zip

In other programs through bioimageio.core, in an environment with micro_sam (see `environment.yaml`).

## Validation

Compare the result with annotated images that were not used for training, for example by
`micro_sam.evaluate` (mean segmentation accuracy, matching at an IoU of 0.5 and higher). Results depend on magnification
and contrast: look at a few images of yours before you trust numbers from others.
"""


def write_documentation(
    folder: Path,
    info: PackageInfo,
    encoder: str,
    weights: str,
    settings: Mapping[str, object] | None,
) -> Path:
    """Write ``README.md``; the settings are those of automatic segmentation, None for a package for prompts."""
    if settings is None:
        kind = _PROMPTS.format(decoder=decoder_name(weights))
    else:
        kind = _AUTOMATIC.format(settings="\n".join(f"- `{key}`: {value}" for key, value in settings.items()))
    text = _DOCUMENTATION.format(
        name=info.name,
        own=f"{info.documentation.strip()}\n\n" if info.documentation else "",
        summary=info.summary(encoder, settings is not None),
        kind=kind,
        weights=weights,
        encoder=encoder,
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def decoder_name(weights: str) -> str:
    """The name of the decoder's file beside a file of weights, which micro_sam finds by itself."""
    path = Path(weights)
    return f"{path.stem}_decoder{path.suffix}"


def write_environment(folder: Path) -> Path:
    """Write the conda environment in which the package runs."""
    path = folder / "environment.yaml"
    lines = [
        "channels:", "  - conda-forge", "  - nodefaults", "dependencies:", "  - python >=3.11", "  - pip", "  - pytorch",
        "  - torchvision", "  - pip:", f"      - micro_sam >={__version__.partition('.dev')[0]}", "",
    ]  # fmt: skip
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_cover(folder: Path, image: np.ndarray, labels: np.ndarray) -> Path:
    """Write a picture twice as wide as high: the middle of the image, without and with the objects' outlines.

    Args:
        folder: Where to write ``cover.png``.
        image: (H, W) or (H, W, 3).
        labels: (H, W).
    """
    picture = to_image(image)
    sides = []
    for half in (picture, draw_overlay(picture, labels)):
        height, width = half.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = half[top : top + side, left : left + side]
        sides.append(resize(square, (_COVER_SIDE, _COVER_SIDE), anti_aliasing=side > _COVER_SIDE))
    path = folder / "cover.png"
    imageio.imwrite(path, (np.concatenate(sides, axis=1) * 255).round().astype(np.uint8))
    return path


def write_tensors(folder: Path, arrays: Mapping[str, np.ndarray], kind: str) -> dict[str, Path]:
    """Write test tensors as ``<kind>_<name>.npy``."""
    paths = {name: folder / f"{kind}_{name}.npy" for name in arrays}
    for name, path in paths.items():
        np.save(path, arrays[name])
    return paths
