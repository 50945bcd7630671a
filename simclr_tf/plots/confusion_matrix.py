"""The confusion matrix of a classification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simclr_tf.plots.style import GRID, INK, MUTED, dress, new_axes, save

if TYPE_CHECKING:  # loaded where a figure is drawn: matplotlib takes a while
    from matplotlib.figure import Figure

MAX_CELLS_WRITTEN = 20  # classes up to which each cell is written out


def plot_confusion_matrix(
    matrix: np.ndarray,
    class_names: Sequence[str],
    path: str | Path | None = None,
    *,
    title: str = "Confusion matrix",
) -> Figure:
    """Draws a confusion matrix: colour is the share of a true class, the number is the count.

    Args:
        matrix: int [K, K]; row: the truth, column: the prediction.
        class_names: K names.
        path: PNG file to write; None: none.
        title: Heading.
    """
    matrix = np.asarray(matrix)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)  # [K, K]
    count = len(matrix)
    side = float(np.clip(2.2 + 0.5 * count, 4.0, 12.0))
    figure, axes = new_axes(side + 0.6, side)
    image = axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    bar = figure.colorbar(
        image, ax=axes, shrink=0.8, format=lambda value, _: f"{100 * value:.0f} %"
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, colors=MUTED, labelsize=9)
    if count <= MAX_CELLS_WRITTEN:
        for (row, column), cell in np.ndenumerate(matrix):
            colour = "white" if share[row, column] > 0.55 else INK if cell else GRID
            axes.text(column, row, cell, ha="center", va="center", color=colour, fontsize=8)
    every = -(-count // 40)  # of many classes, each n-th is named
    ticks = np.arange(0, count, every)
    names = [class_names[int(tick)] for tick in ticks]
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    dress(figure, axes, title, x_label="predicted", y_label="true", grid=False)
    axes.spines[:].set_visible(False)
    return save(figure, path)
