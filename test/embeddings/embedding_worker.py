"""Run in another process by the tests: compute the embeddings of a volume, slowly if asked, and say what is done."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from embedding_toys import make_toy_predictor

from micro_sam.embeddings import iter_precompute
from micro_sam.errors import MicroSamError


def work(said: Connection, image: np.ndarray, store: str, pause: float, options: dict[str, Any]) -> None:
    """Compute and send one line per event.

    Args:
        said: Where the lines go.
        image: The volume.
        store: The store's folder.
        pause: The seconds to sleep after every slice.
        options: For `iter_precompute`; "uid" is the user to become, "file_limit" the largest file in bytes, "hash"
            the model's.
    """
    uid, limit = options.pop("uid", None), options.pop("file_limit", None)
    predictor = make_toy_predictor(options.pop("hash", "xxh128:0123"))
    if uid is not None:
        os.setuid(uid)
    if limit is not None:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        for progress in iter_precompute(predictor, image, store, **options):
            said.send(f"{progress.text.split()[0]} {progress.done}")
            time.sleep(pause)
    except MicroSamError as error:
        said.send(f"{type(error).__name__}: {error}")
    said.send(f"encoded {sum(predictor.model.image_encoder.batch_sizes)}")
