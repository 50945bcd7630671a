"""Histograms of pixel values, beside the images they are of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simclr_tf.plots.pixels import displayed
from simclr_tf.plots.style import MUTED, colour_of, dress, name_panel, new_figure, save

if TYPE_CHECKING:  # loaded where a figure is drawn: matplotlib takes a while
    from matplotlib.figure import Figure


def histograms_of(images: np.ndarray, *, bins: int = 32) -> np.ndarray:
    """Counts the pixel values of images over all channels (arXiv 2002.05709, figure 6).

    Args:
        images: N images, float [N, H, W, 3] in 0..1.
        bins: Number of equal bins from 0 to 1.

    Returns:
        float64 [N, bins]: the share of an image's values in each bin, dark to bright.
    """
    counts = [np.histogram(image, bins, range=(0.0, 1.0))[0] for image in images]
    return np.array(counts) / np.prod(images.shape[1:])


def plot_histograms(
    images: Sequence[np.ndarray],
    histograms: np.ndarray,
    path: str | Path | None = None,
    *,
    column_titles: Sequence[str],
    title: str = "",
) -> Figure:
    """Draws each image, and right of it panels of histograms that lie over each other.

    Args:
        images: N images, uint8 [H, W, 3] or float in 0..1.
        histograms: float [N, columns, M, bins]: M histograms over 0..1 in each panel.
        path: PNG file to write; None: none.
        column_titles: A title above each column of panels.
        title: Heading.
    """
    rows, columns, _, bins = histograms.shape
    edges = np.linspace(0.0, 1.0, bins + 1)
    figure = new_figure(2.2 + 3.4 * columns, 0.8 + 1.8 * rows)
    widths = [1.6, *[3.0] * columns]
    panels = figure.subplots(rows, 1 + columns, squeeze=False, width_ratios=widths)
    for row, (left, *right) in enumerate(panels):
        own, last = histograms[row], row == rows - 1
        left.imshow(displayed(images[row]), interpolation="nearest")
        left.set_axis_off()
        # One scale for a row. Values cut off at 0 and 1 pile up there, and may pass the top.
        top = own[..., 1:-1].max() or own.max()
        for panel, lines in zip(right, own, strict=True):
            for index, values in enumerate(lines):
                colour = colour_of(index)
                panel.stairs(values, edges, fill=True, color=colour, alpha=0.07)
                panel.stairs(values, edges, color=colour, linewidth=1.3, alpha=0.9)
            dress(figure, panel, title)
            panel.set(xlim=(-0.01, 1.01), ylim=(0.0, 1.1 * top), xticks=[0, 0.5, 1])
            panel.xaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
            panel.tick_params(labelbottom=last, labelleft=panel is right[0])
            panel.set_xlabel("pixel value" if last else "", color=MUTED)
    for panel, name in zip(panels[0, 1:], column_titles, strict=True):
        name_panel(panel, name)
    return save(figure, path)
