"""Images and what lies next to them in the features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simclr_tf.plots.grid import draw_grid
from simclr_tf.plots.style import INK, WRONG_PIXEL, save

if TYPE_CHECKING:  # loaded where a figure is drawn: matplotlib takes a while
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

RIGHT_FRAME = "#2a9d4a"  # of neighbours of the right class


def plot_neighbours(
    images: Sequence[np.ndarray],
    neighbours: Sequence[Sequence[np.ndarray]],
    similarities: np.ndarray,
    path: str | Path | None = None,
    *,
    right: np.ndarray | None = None,
    row_titles: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Draws each image followed by its neighbours, each with its similarity in a corner.

    Args:
        images: N images, uint8 [H, W, 3] or float in 0..1, of any sizes.
        neighbours: N rows of k images.
        similarities: float [N, k].
        path: PNG file to write; None: none.
        right: Which neighbours are of the image's class, bool [N, k]: these are framed green, the
            others red and dashed. None: no frames.
        row_titles: A title left of each row, such as the image's class, or none.
        title: Heading.
    """
    rows = [[image, *own] for image, own in zip(images, neighbours, strict=True)]
    names = ["query", *(str(number) for number in range(1, len(rows[0])))]
    figure = draw_grid(rows, row_titles=row_titles, column_titles=names, title=title, cell=1.15)
    (axes,) = figure.axes
    shown = iter(axes.images)
    for row, own in enumerate(similarities):
        next(shown)  # the query itself
        for column, similarity in enumerate(own):
            left, edge, bottom, top = next(shown).get_extent()
            if right is not None:
                good = right[row, column]
                axes.add_patch(_frame(left, top, edge - left, bottom - top, good))
            axes.text(
                left + 0.04, bottom - 0.04, f"{similarity:.2f}", fontsize=6.5, color=INK,
                bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8},
            )  # fmt: skip
    return save(figure, path)


def _frame(left: float, top: float, width: float, height: float, good: bool) -> Rectangle:
    """Returns a frame about an image: green, or red and dashed, for who cannot tell the two."""
    from matplotlib.patches import Rectangle

    look = (RIGHT_FRAME, "solid") if good else (WRONG_PIXEL, (0, (3, 1.2)))
    return Rectangle(
        (left, top), width, height, fill=False, linewidth=2.2, edgecolor=look[0], linestyle=look[1]
    )
