"""Figures of a run: arrays in, a figure out, and a PNG file where a path is given.

Figures are drawn on their own canvas, never through pyplot: nothing here needs a screen, changes
global state or leaves a figure open. The colours keep apart for colour-blind readers.
"""

from simclr_tf.plots.bars import plot_bars
from simclr_tf.plots.confusion_matrix import plot_confusion_matrix
from simclr_tf.plots.curves import plot_curves, series_of
from simclr_tf.plots.embedding import plot_embedding, plot_pair
from simclr_tf.plots.fractions import plot_fractions
from simclr_tf.plots.histograms import histograms_of, plot_histograms
from simclr_tf.plots.images import plot_captioned, plot_images, plot_views
from simclr_tf.plots.masks import colour_masks, mask_palette, overlay_masks
from simclr_tf.plots.neighbours import RIGHT_FRAME, plot_neighbours
from simclr_tf.plots.pixels import displayed
from simclr_tf.plots.segmentation import plot_segmentation
from simclr_tf.plots.style import COLOURS, WRONG_PIXEL

__all__ = [
    "COLOURS",
    "RIGHT_FRAME",
    "WRONG_PIXEL",
    "colour_masks",
    "displayed",
    "histograms_of",
    "mask_palette",
    "overlay_masks",
    "plot_bars",
    "plot_captioned",
    "plot_confusion_matrix",
    "plot_curves",
    "plot_embedding",
    "plot_fractions",
    "plot_histograms",
    "plot_images",
    "plot_neighbours",
    "plot_pair",
    "plot_segmentation",
    "plot_views",
    "series_of",
]
