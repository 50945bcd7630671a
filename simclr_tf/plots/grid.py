"""Rows of images of any sizes in cells, which several figures are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from simclr_tf.plots.pixels import displayed
from simclr_tf.plots.style import INK, dress, new_axes

if TYPE_CHECKING:  # loaded where a figure is drawn: matplotlib takes a while
    from matplotlib.figure import Figure


def draw_grid(
    grid: Sequence[Sequence[np.ndarray]] | np.ndarray,
    *,
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    title: str,
    cell: float,
) -> Figure:
    """Draws rows of images into cells of so many inches."""
    columns = max(len(row) for row in grid)
    beside = 0.3 + 0.06 * max(map(len, row_titles), default=0)  # inches; a letter takes about 0.06
    # Rows are as high as their highest image, so that flat ones leave no gaps.
    heights = [max(_share_of_cell(image)[0] for image in row) + 0.06 for row in grid]
    edges = np.cumsum([0.0, *heights])
    figure, axes = new_axes(cell * columns + beside, cell * edges[-1] + 0.6)
    figure.set_layout_engine("compressed")  # no room beside cells, whose aspect is fixed
    middles = (edges[:-1] + edges[1:]) / 2
    for middle, row in zip(middles, grid, strict=True):
        for column, image in enumerate(row):
            height, width = _share_of_cell(image)
            left, top = column - width / 2, middle - height / 2
            extent = (left, left + width, top + height, top)
            axes.imshow(displayed(image), extent=extent, interpolation="nearest")
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(edges[-1], 0.0), aspect="equal")
    axes.spines[:].set_visible(False)
    axes.set_yticks(middles[: len(row_titles)], row_titles)
    axes.set_xticks(np.arange(len(column_titles)), column_titles)
    axes.xaxis.tick_top()
    dress(figure, axes, title, grid=False)
    axes.tick_params(length=0, labelcolor=INK)
    return figure


def _share_of_cell(image: np.ndarray) -> tuple[float, float]:
    """Returns the height and width that an image takes of its cell: its longer side 0.94."""
    height, width = np.shape(image)[:2]
    return 0.94 * height / max(height, width), 0.94 * width / max(height, width)
