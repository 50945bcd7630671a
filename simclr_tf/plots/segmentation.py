"""Images, their masks and what was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simclr_tf.plots.grid import draw_grid
from simclr_tf.plots.masks import NO_CLASS, colour_masks, mask_palette, overlay_masks
from simclr_tf.plots.pixels import as_bytes, rgb
from simclr_tf.plots.style import INK, MAX_CLASSES_NAMED, MUTED, WRONG_PIXEL, save

if TYPE_CHECKING:  # loaded where a figure is drawn: matplotlib takes a while
    from matplotlib.figure import Figure

MAX_SHEET_ROWS = 8  # above which pictures without a truth stand two in a row


def plot_segmentation(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray] | None,
    predictions: Sequence[np.ndarray],
    path: str | Path | None = None,
    *,
    class_names: Sequence[str],
    ignore_label: int | None = None,
    title: str = "",
    iou: Sequence[float] = (),
) -> Figure:
    """Draws rows of image, truth, prediction and error, with a legend of the classes that occur.

    In the error, wrong pixels are red on the grayed image, and ignored ones plain gray. Without
    truths the rows are image, prediction and overlay.

    Args:
        images: N images, uint8 [H, W, 3] or float in 0..1, of any sizes.
        truths: N masks, uint8 [H, W], or None.
        predictions: N masks, uint8 [H, W].
        path: PNG file to write; None: none.
        class_names: K names.
        ignore_label: Value of the pixels in `truths` that do not count.
        title: Heading.
        iou: A number per image, written beside it; nan where there is none.
    """
    count = len(class_names)
    counted, any_ignored = np.zeros(256, np.int64), False
    rows = []
    for index, (image, prediction) in enumerate(zip(images, predictions, strict=True)):
        pixels, predicted = as_bytes(image), colour_masks(prediction, count)
        counted += np.bincount(prediction.ravel(), minlength=256)
        if truths is None:
            rows.append([pixels, predicted, overlay_masks(pixels, prediction, count)])
            continue
        truth = truths[index]
        ignored = np.zeros(truth.shape, bool) if ignore_label is None else truth == ignore_label
        any_ignored |= bool(ignored.any())
        counted += np.bincount(truth[~ignored], minlength=256)
        true = colour_masks(truth, count)
        true[ignored] = rgb(NO_CLASS)
        rows.append([pixels, true, predicted, _draw_errors(pixels, ignored, prediction != truth)])
    names = ["image", "prediction", "overlay"]
    if truths is not None:
        names = ["image", "truth", "prediction", "error"]
    elif len(rows) > MAX_SHEET_ROWS:
        rows = [sum(rows[start : start + 2], []) for start in range(0, len(rows), 2)]
        names *= 2
    titles = ["" if np.isnan(value) else f"IoU {value:.2f}" for value in iou]
    figure = draw_grid(rows, row_titles=titles, column_titles=names, title=title, cell=1.9)
    others = [("ignored", NO_CLASS)] if any_ignored else []
    others += [("wrong", WRONG_PIXEL)] if truths is not None else []
    _mask_legend(figure, counted[:count], class_names, others)
    return save(figure, path)


def _draw_errors(image: np.ndarray, ignored: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Returns the image grayed and lightened, wrong pixels red, ignored ones gray."""
    luma = image @ np.array([0.299, 0.587, 0.114])
    shown = np.repeat((96 + 0.6 * luma).astype(np.uint8)[..., np.newaxis], 3, axis=-1)
    shown[wrong] = rgb(WRONG_PIXEL)
    shown[ignored] = rgb(NO_CLASS)
    return shown


def _mask_legend(
    figure: Figure,
    counted: np.ndarray,
    class_names: Sequence[str],
    others: Sequence[tuple[str, str]],
) -> None:
    """Names, below the figure, the classes that have pixels, int [K], and other (name, colour)."""
    from matplotlib.patches import Patch

    palette = mask_palette(len(class_names)) / 255.0
    occur = np.flatnonzero(counted).tolist()
    shown = sorted(sorted(occur, key=lambda value: -counted[value])[:MAX_CLASSES_NAMED])
    entries = [(class_names[value], palette[value]) for value in shown] + list(others)
    if len(shown) < len(occur):
        entries.append((f"({len(occur) - len(shown)} more)", "white"))
    handles = [Patch(facecolor=colour, edgecolor=MUTED, linewidth=0.5) for _, colour in entries]
    widest = max(len(name) for name, _ in entries)
    columns = int(figure.get_figwidth() / (0.55 + 0.075 * widest))  # inches
    columns = min(max(columns, 1), len(entries))
    figure.set_figheight(figure.get_figheight() + 0.25 * -(-len(entries) // columns))
    figure.legend(
        handles,
        [name for name, _ in entries],
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.2,
        handleheight=1.1,
    )
