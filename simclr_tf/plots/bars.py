"""A bar per name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simclr_tf.plots.style import COLOURS, INK, dress, new_axes, save

if TYPE_CHECKING:  # loaded where a figure is drawn: matplotlib takes a while
    from matplotlib.figure import Figure


def plot_bars(
    names: Sequence[str],
    values: Sequence[float] | np.ndarray,
    path: str | Path | None = None,
    *,
    title: str,
    errors: Sequence[float] | np.ndarray | None = None,
    percent: bool = False,
) -> Figure:
    """Draws a bar per name, from top to bottom, with its value written at its end.

    Args:
        names: A name per bar.
        values: float [M], 0 or more.
        path: PNG file to write; None: none.
        title: What the bars show.
        errors: Half-lengths of the error bars, float [M].
        percent: Values are shares, 0 to 1: they are written as percentages, and a bar of all the
            width is 100 %, so that those of a bad and of a good run do not look alike.
    """
    values = np.asarray(values, np.float64)
    reach = np.zeros_like(values) if errors is None else np.asarray(errors, np.float64)
    figure, axes = new_axes(6.4, 1.3 + 0.42 * len(values))
    rows = np.arange(len(values))
    axes.barh(rows, values, height=0.66, color=COLOURS[0])
    if errors is not None:
        axes.errorbar(values, rows, xerr=reach, fmt="none", color=INK, capsize=3, linewidth=1.2)
    for row, value in zip(rows, values, strict=True):
        axes.annotate(
            f"{100 * value:.1f} %" if percent else f"{value:.3g}", (value + reach[row], row),
            xytext=(5, 0), textcoords="offset points", va="center", color=INK, fontsize=9.5,
        )  # fmt: skip
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    longest = 1.0 if percent else np.max(values + reach)
    axes.set_xlim(0, 1.18 * longest or 1.0)
    dress(figure, axes, title, grid=False)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9.5)
    return save(figure, path)
