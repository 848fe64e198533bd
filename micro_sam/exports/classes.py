"""Classes of objects from a table, such as one that was exported, or that of the object classifier."""

from __future__ import annotations

import os
from pathlib import Path

from micro_sam.errors import InputError, MissingInputError


def read_classes(path: str | os.PathLike) -> dict[int, str]:
    """Read a .csv table with the columns "label" (or "id") and "class".

    Returns:
        Label -> name of its class; objects without one are left out.

    Raises:
        MissingInputError: There is no such file.
        InputError: It is no such table, or gives an object two classes.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"There is no table '{path}'; check the path.")
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas raises children of ValueError
        raise InputError(f"'{path}' cannot be read as a table ({error}); expected a .csv file.") from error
    table = table.rename(columns={} if "label" in table else {"id": "label"})
    if not {"label", "class"} <= set(table.columns):
        raise InputError(f'\'{path}\' has the columns {", ".join(table.columns)}, expected "label" and "class".')
    pairs = table[["label", "class"]].dropna().drop_duplicates()
    twice = pairs[pairs["label"].duplicated()]
    if len(twice):
        raise InputError(f"'{path}' gives object {twice['label'].iloc[0]} several classes; give it one.")
    return {int(label): str(name) for label, name in zip(pairs["label"], pairs["class"])}
