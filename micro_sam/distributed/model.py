"""A model by description, which every worker loads once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from micro_sam.errors import CheckpointError
from micro_sam.models.predictor import SamPredictor, get_sam_model
from micro_sam.models.spec import DEFAULT_MODEL, get_spec

_in_use = threading.Lock()  # one block at a time goes through the network, with all threads of the worker


@dataclass(frozen=True)
class ModelSource:
    """Which model to load. The files it names must be visible to all workers.

    Attributes:
        model_type: A registered model; with ``checkpoint`` it names the encoder.
        checkpoint: A model file of your own.
        decoder_path: A file with the weights of its decoder.
        device: Where to compute; by default the best device each worker has. Workers of this machine take turns over
            its GPUs.
        precision: "float32", "bfloat16" or "auto".
        expected: The hash that the model file must have on every worker, see `checked`.
    """

    model_type: str = DEFAULT_MODEL
    checkpoint: str | None = None
    decoder_path: str | None = None
    device: str | None = None
    precision: str = "auto"
    expected: str | None = None

    def __post_init__(self) -> None:
        for name in ("checkpoint", "decoder_path"):  # workers have other working folders
            path = getattr(self, name)
            object.__setattr__(self, name, None if path is None else os.path.abspath(path))

    def facts(self) -> dict[str, Any]:
        """What tells this model from another. Fetches the weights of a registered model if they are not here yet.

        Raises:
            MicroSamError: The model is unknown, or its files are missing or cannot be downloaded.
        """
        from micro_sam.models.download import file_hash, models

        spec = get_spec(self.model_type)
        path = self.checkpoint or models().fetch(spec.name, progressbar=True)
        facts = {"model_type": spec.encoder, "model_name": self.model_type, "model_hash": file_hash(path)}
        return facts if self.decoder_path is None else {**facts, "decoder_hash": file_hash(self.decoder_path)}

    def checked(self, facts: Mapping[str, Any]) -> ModelSource:
        """This model, of which every worker makes sure that its file is the one whose facts these are."""
        return replace(self, expected=facts["model_hash"])

    @contextmanager
    def in_use(self) -> Iterator[SamPredictor]:
        """The loaded model, for one task at a time, computing with as many threads as the worker has."""
        import torch

        with _in_use:
            torch.set_num_threads(_threads_of_worker())
            yield _predictor(self)

    @contextmanager
    def segmenter_in_use(self, mode: str | None, init: tuple[tuple[str, Any], ...]) -> Iterator[tuple[Any, Any]]:
        """The model and what segments with it; see `get_predictor_and_segmenter` for the arguments."""
        with self.in_use() as predictor:
            yield predictor, _segmenter(self, mode, init)


@lru_cache(maxsize=1)
def _predictor(model: ModelSource) -> SamPredictor:
    predictor = get_sam_model(
        model.model_type,
        model.device or _device_of_worker(),
        checkpoint_path=model.checkpoint,
        decoder_path=model.decoder_path,
        precision=model.precision,
    )
    if model.expected is not None and predictor._hash != model.expected:
        raise CheckpointError(
            f"A worker has another model file '{predictor.checkpoint_path}' ({predictor._hash}) than this computer "
            f"({model.expected}); give all of them the same file."
        )
    return predictor


@lru_cache(maxsize=1)
def _segmenter(model: ModelSource, mode: str | None, init: tuple[tuple[str, Any], ...]) -> Any:
    from micro_sam.automatic_segmentation import get_predictor_and_segmenter

    predictor = _predictor(model)
    return get_predictor_and_segmenter(model.model_type, segmentation_mode=mode, predictor=predictor, **dict(init))[1]


def _worker() -> Any | None:
    from dask.distributed import get_worker

    try:
        return get_worker()
    except ValueError:  # not on a worker
        return None


def _threads_of_worker() -> int:
    worker = _worker()
    return 1 if worker is None else max(1, int(worker.state.nthreads))


def _device_of_worker() -> str | None:
    """The GPU of a worker, if there are several: workers of a local cluster are numbered."""
    import torch

    worker, count = _worker(), torch.cuda.device_count()
    if count < 2 or worker is None or not str(worker.name).isdigit():
        return None
    return f"cuda:{int(worker.name) % count}"
