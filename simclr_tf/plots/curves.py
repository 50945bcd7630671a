"""Curves over training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simclr_tf.plots.style import MUTED, as_percent, colour_of, draw_legend, dress, new_axes, save

if TYPE_CHECKING:  # loaded where a figure is drawn: matplotlib takes a while
    from matplotlib.figure import Figure


def series_of(rows: Iterable[Mapping[str, object]]) -> dict[str, np.ndarray]:
    """Turns rows of metrics into columns, nan where a row has no number.

    Args:
        rows: Numbers by name; not every row has every name.

    Returns:
        float64 [M] for each name.
    """
    table = list(rows)
    names = dict.fromkeys(name for row in table for name in row)
    return {name: np.array([_number(row.get(name)) for row in table]) for name in names}


def plot_curves(
    series: Mapping[str, Sequence[float] | np.ndarray],
    path: str | Path | None = None,
    *,
    title: str,
    x: Sequence[float] | np.ndarray | None = None,
    x_label: str = "epoch",
    levels: Mapping[str, float] | None = None,
    percent: bool = False,
) -> Figure:
    """Draws curves over training.

    Args:
        series: float [M] for each name in the legend; nan where nothing was measured.
        path: PNG file to write, its folder is made; None: none.
        title: What the curves show.
        x: Where the values were measured, [M]; None: 1 to M.
        x_label: Unit of `x`.
        levels: Named values drawn as horizontal lines, such as a loss's start and floor.
        percent: Values are shares, 0 to 1, and are written as percentages.
    """
    figure, axes = new_axes(6.4, 4.0)
    for index, (name, values) in enumerate(series.items()):
        y = np.asarray(values, np.float64)  # [M]
        at = np.arange(1, len(y) + 1) if x is None else np.asarray(x, np.float64)
        known = ~np.isnan(y)
        marker = "o" if known.sum() <= 30 else None
        axes.plot(
            at[known], y[known], color=colour_of(index),
            linewidth=2, marker=marker, markersize=4, label=name,
        )  # fmt: skip
    for name, value in (levels or {}).items():
        axes.axhline(value, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"{name} {value:.2f}", (1, value), xycoords=("axes fraction", "data"),
            xytext=(-2, 5), textcoords="offset points", ha="right", color=MUTED, fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    dress(figure, axes, title, x_label=x_label)
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    if percent:
        axes.yaxis.set_major_formatter(as_percent)
    if len(series) > 1:
        draw_legend(axes)
    return save(figure, path)


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # not measured: None, or an empty cell of a CSV file
        return float("nan")
