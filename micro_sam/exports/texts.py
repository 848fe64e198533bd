"""Reading and writing JSON documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from micro_sam.errors import InputError
from micro_sam.io.paths import replacing


def read_json(path: Path) -> Any:
    """The document in a file.

    Raises:
        InputError: It is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read as JSON ({error}); was it written completely?") from error


def write_json(path: Path, document: Any) -> None:
    """Write a document; the file appears when it is complete."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
