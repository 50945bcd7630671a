"""Images: in rows, beside their views, or under captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simclr_tf.plots.grid import draw_grid
from simclr_tf.plots.pixels import displayed
from simclr_tf.plots.style import INK, dress, new_figure, save

if TYPE_CHECKING:  # loaded where a figure is drawn: matplotlib takes a while
    from matplotlib.figure import Figure


def plot_images(
    grid: Sequence[Sequence[np.ndarray]] | np.ndarray,
    path: str | Path | None = None,
    *,
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Draws rows of images, pixel by pixel, their sizes free.

    Args:
        grid: Rows of images, each uint8 [H, W, 3] or float in 0..1 (what is outside is cut off).
        path: PNG file to write; None: none.
        row_titles: A title left of each row, or none.
        column_titles: A title above each column, or none.
        title: Heading.
    """
    columns = max(len(row) for row in grid)
    cell = float(np.clip(9.0 / columns, 0.7, 1.6))
    figure = draw_grid(
        grid, row_titles=row_titles, column_titles=column_titles, title=title, cell=cell
    )
    return save(figure, path)


def plot_views(
    images: Sequence[np.ndarray] | np.ndarray,
    views: Sequence[Sequence[np.ndarray]] | np.ndarray,
    path: str | Path | None = None,
    *,
    title: str = "",
) -> Figure:
    """Draws each image followed by its augmented views.

    Args:
        images: N images, uint8 [H, W, 3] or float in 0..1.
        views: N rows of V views; an array is [N, V, h, w, 3].
        path: PNG file to write; None: none.
        title: Heading.
    """
    rows = [[image, *own] for image, own in zip(images, views, strict=True)]
    names = ["image", *(f"view {number}" for number in range(1, len(rows[0])))]
    return plot_images(rows, path, column_titles=names, title=title)


def plot_captioned(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    path: str | Path | None = None,
    *,
    columns: int = 4,
    title: str = "",
) -> Figure:
    """Draws images, each under its caption.

    Args:
        images: N images, uint8 [H, W, 3] or float in 0..1, of any sizes.
        captions: N texts of a line or a few.
        path: PNG file to write; None: none.
        columns: Images side by side.
        title: Heading.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = 1 + max(caption.count("\n") for caption in captions)
    figure = new_figure(2.1 * columns, 0.5 + (1.9 + 0.17 * lines) * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    for panel, image, caption in zip(panels, images, captions, strict=False):
        panel.imshow(displayed(image))
        panel.set_anchor("N")  # captions of a row stand on one line
        panel.set_title(caption, fontsize=8.5, color=INK)
    dress(figure, panels[0], title, grid=False)
    return save(figure, path)
