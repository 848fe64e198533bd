"""Pictures of scores; needs matplotlib."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError, ParameterError
from ..io import replacing

if TYPE_CHECKING:
    import pandas as pd


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("Plots need matplotlib; install it with: pip install matplotlib") from error
    matplotlib.use("Agg", force=False)
    import matplotlib.pyplot as plt

    return plt


def plot_iterative_prompting(
    results: Mapping[str, pd.DataFrame],
    save_path: str | os.PathLike,
    automatic: Mapping[str, float] | None = None,
    score: str = "mSA",
) -> None:
    """Plot accuracy over the number of corrections.

    Args:
        results: For each name in the legend the table of `run_evaluation_for_iterative_prompting`.
        save_path: The picture (.png, .svg, .pdf).
        automatic: Scores of automatic segmentation, drawn as horizontal lines.
        score: Which column of the tables.

    Raises:
        ParameterError: There is nothing to plot.
        MissingDependencyError: matplotlib is not installed.
    """
    if not results and not automatic:
        raise ParameterError("There is nothing to plot: expected at least one table of scores.")
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, table in results.items():
        axis.plot(range(len(table)), table[score], marker="o", label=name)
    for k, (name, value) in enumerate((automatic or {}).items()):
        axis.axhline(value, color=f"C{len(results) + k}", linestyle="--", label=name)
    axis.set(xlabel="Corrections", ylabel=score, ylim=(0, 1))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend()
    with replacing(save_path) as temporary:
        figure.savefig(temporary, format=str(save_path).rpartition(".")[2], dpi=150)
    plt.close(figure)
