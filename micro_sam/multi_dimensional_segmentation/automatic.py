"""Segment every object of a volume, slice by slice with a bounded number of slices in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from micro_sam.embeddings.source import ImageSource
from micro_sam.errors import ParameterError
from micro_sam.instance_segmentation.ais import MAP_NAMES, InstanceSegmentationWithDecoder
from micro_sam.instance_segmentation.apg import AutomaticPromptGenerator
from micro_sam.instance_segmentation.settings import settings_for
from micro_sam.instance_segmentation.watershed import Maps
from micro_sam.multi_dimensional_segmentation.label_store import MOST_BYTES, check_out, new_array
from micro_sam.multi_dimensional_segmentation.linking import LinkSettings, SliceLinker, finish
from micro_sam.multi_dimensional_segmentation.slice_stream import SliceOptions, iter_slices
from micro_sam.multi_dimensional_segmentation.volume_settings import VolumeSettings
from micro_sam.multi_dimensional_segmentation.volume_watershed import (
    MapStack,
    VolumeWatershedSettings,
    iter_volume_watershed,
)
from micro_sam.progress import Progress, drain

if TYPE_CHECKING:
    from micro_sam.embeddings import ImageEmbeddings
    from micro_sam.instance_segmentation.base import Segmenter
    from micro_sam.models.predictor import SamPredictor


def automatic_3d_segmentation(
    volume: Any,
    predictor: SamPredictor,
    segmentor: Segmenter,
    embedding_path: str | os.PathLike | None = None,
    with_background: bool = True,
    gap_closing: int | None = None,
    min_z_extent: int | None = None,
    tile_shape: tuple[int, int] | None = None,
    halo: tuple[int, int] | None = None,
    verbose: bool = True,
    return_embeddings: bool = False,
    batch_size: int = 1,
    *,
    volume_method: Literal["auto", "slices", "volume"] = "auto",
    z_smoothing: float = 1.0,
    beta: float = 0.5,
    normalization: Literal["minmax", "robust"] = "minmax",
    mask: np.ndarray | None = None,
    out: Any | None = None,
    pbar_init: Callable[[int, str], None] | None = None,
    pbar_update: Callable[[int], None] | None = None,
    **kwargs: Any,
) -> Any:
    """Segment every object of a volume.

    Args:
        volume: ZYX or ZYXC; numpy or lazy (zarr, HDF5, dask, memory-mapped), read slice by slice.
        predictor: The model.
        segmentor: What segments a slice: AMG, AIS or APG, made for tiles if ``tile_shape`` is given.
        embedding_path: Where to keep the embeddings; an interrupted run goes on from those that are there. Without it
            the embeddings of ``batch_size`` slices are in memory at a time.
        with_background: Whether there is background between objects; for method "slices".
        gap_closing: Objects that are missing in at most this many slices are linked across; for method "slices".
        min_z_extent: Objects that reach over fewer slices are removed.
        tile_shape: Height and width of the tiles; None for no tiling.
        halo: How far tiles reach into their neighbours (y, x).
        verbose: Show a progress bar.
        return_embeddings: Return the embeddings, too.
        batch_size: Tiles or slices encoded at the same time.
        volume_method: "slices": segment the slices and link their objects by overlap and multicut; "volume": stack the
            decoder's predictions and segment them by one watershed in 3d (a segmenter with decoder is needed); "auto":
            "volume" for AIS without ``gap_closing``, else "slices".
        z_smoothing: Sigma in slices for smoothing the predicted distances across slices; for method "volume".
        beta: Between 0 and 1, larger values link less; for method "slices".
        normalization: "minmax" for each slice, or "robust" for all slices together.
        mask: Nothing is segmented where it is 0 (YX).
        out: Array (ZYX, integer) for the labels, for example zarr.
        pbar_init: Called with (total, description).
        pbar_update: Called with the number of slices done since the last call.
        **kwargs: Arguments of the segmenter's ``generate``; for method "volume" the thresholds, smoothing and
            ``min_size`` (in voxels) of `AISSettings`.

    Returns:
        Labels (ZYX) from 1 on without gaps, 0 is background: uint32, uint64 for more than 2^32 - 1 objects, numpy or for
        a large volume zarr; with ``return_embeddings`` also the embeddings.

    Raises:
        ImageError: The volume cannot be segmented.
        ParameterError: Arguments do not fit each other.
    """
    settings = VolumeSettings(volume_method, gap_closing, min_z_extent, z_smoothing, beta)
    options = SliceOptions(tile_shape, halo, batch_size, normalization, return_embeddings)
    work = iter_automatic_3d(
        volume,
        predictor,
        segmentor,
        embedding_path,
        settings,
        options,
        kwargs,
        with_background=with_background,
        mask=mask,
        out=out,
    )
    labels, embeddings = drain(work, verbose, pbar_init, pbar_update)
    return (labels, embeddings) if return_embeddings else labels


def iter_automatic_3d(
    volume: Any,
    predictor: SamPredictor,
    segmenter: Segmenter,
    embedding_path: str | os.PathLike | None = None,
    settings: VolumeSettings | None = None,
    options: SliceOptions | None = None,
    generate_kwargs: Mapping[str, Any] | None = None,
    *,
    with_background: bool = True,
    mask: np.ndarray | None = None,
    out: Any | None = None,
) -> Generator[Progress, None, tuple[Any, ImageEmbeddings | None]]:
    """`automatic_3d_segmentation` as a generator of `Progress`; returns the labels and, if they are kept, embeddings."""
    settings, arguments = settings or VolumeSettings(), dict(generate_kwargs or {})
    source = ImageSource.from_input(volume, 3)
    shape = (source.n_slices, *source.shape)
    if mask is not None and np.shape(mask) != shape[1:]:
        raise ParameterError(f"The mask must cover a slice {shape[1:]}, but its shape is {np.shape(mask)}.")
    if out is not None:
        check_out(out, shape, 0)
    inside = None if mask is None else np.asarray(mask) != 0
    collect = collector(shape, segmenter, settings, arguments, with_background, inside)
    embeddings = yield from iter_slices(volume, predictor, segmenter, collect, embedding_path, options, mask)
    labels = yield from collect.finish(out)
    return labels, embeddings


def collector(
    shape: tuple[int, int, int],
    segmenter: Segmenter,
    settings: VolumeSettings,
    arguments: dict[str, Any],
    with_background: bool = True,
    inside: np.ndarray | None = None,
) -> _Maps | _Objects:
    """What takes one slice after another, called with (z, segmenter initialized with it), and whose generator ``finish(out)``
    makes the labels of the volume from them.

    Args:
        shape: The volume (ZYX).
        segmenter: What segments slices.
        settings: How slices become objects of the volume.
        arguments: Arguments of the segmenter's ``generate``.
        with_background: Whether there is background between objects.
        inside: Where to segment (YX, bool).
    """
    if choose_method(settings, segmenter) == "volume":
        return _Maps(shape, settings, arguments, inside)
    links = LinkSettings(settings.beta, with_background, settings.gap_closing, settings.min_z_extent)
    return _Objects(shape, links, _slice_arguments(segmenter, arguments, with_background), inside)


def choose_method(settings: VolumeSettings, segmenter: Segmenter) -> Literal["slices", "volume"]:
    """The method asked for, or the default for a segmenter.

    Raises:
        ParameterError: The segmenter has no decoder, which the method needs.
    """
    has_decoder = isinstance(segmenter, InstanceSegmentationWithDecoder)
    if settings.volume_method == "volume" and not has_decoder:
        raise ParameterError(
            "The volume method 'volume' needs a model with a decoder and mode ais or apg; use 'slices'."
        )
    if settings.volume_method == "auto":
        is_ais = has_decoder and not isinstance(segmenter, AutomaticPromptGenerator)
        return "volume" if is_ais and not settings.gap_closing else "slices"
    return settings.volume_method


def _slice_arguments(segmenter: Segmenter, arguments: dict[str, Any], with_background: bool) -> dict[str, Any]:
    if isinstance(segmenter, InstanceSegmentationWithDecoder):
        return arguments
    return {"with_background": with_background, **arguments}


class _Objects:
    """Collects the objects of slices, which are then linked."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        links: LinkSettings,
        arguments: dict[str, Any],
        inside: np.ndarray | None,
    ) -> None:
        self._linker, self._arguments, self._inside = SliceLinker(links), arguments, inside
        self._numbered = new_array(shape, np.uint32)

    def __call__(self, z: int, segmenter: Segmenter) -> None:
        labels = segmenter.generate(**self._arguments)
        self._numbered[z] = self._linker.add(labels if self._inside is None else labels * self._inside)

    def finish(self, out: Any | None) -> Generator[Progress, None, Any]:
        yield Progress(0, 1, "Link objects across slices")
        labels = finish(self._linker, self._numbered, out)
        yield Progress(1, 1, "Link objects across slices")
        return labels


class _Maps:
    """Collects the decoder's predictions of slices, which are then segmented together."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: VolumeSettings,
        arguments: dict[str, Any],
        inside: np.ndarray | None,
    ) -> None:
        self._maps, self._inside = MapStack(shape, MOST_BYTES), inside
        slices = settings_for("ais", **arguments)
        self._settings = VolumeWatershedSettings(slices, settings.z_smoothing, settings.min_z_extent)

    def __call__(self, z: int, segmenter: Segmenter) -> None:
        state = segmenter.get_state()
        self._maps.put(z, Maps(*(state[name] for name in MAP_NAMES)))

    def finish(self, out: Any | None) -> Generator[Progress, None, Any]:
        return (yield from iter_volume_watershed(self._maps, self._settings, out, self._inside))
