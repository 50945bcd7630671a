"""Figures of a run: arrays in, a figure out, and a PNG file where a path is given.

Figures are drawn on their own canvas, never through pyplot: nothing here needs a screen, changes
global state or leaves a figure open. The colours keep apart for colour-blind readers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simclr_tf.writing import write_whole

if TYPE_CHECKING:  # loaded where a figure is drawn: matplotlib takes a while
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

# Ten colours chosen to differ in lightness too (Petroff, arXiv 2107.02270).
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#94a4a2",
    "#a96b59", "#e76300", "#717581", "#92dadd", "#b9ac70",
)  # fmt: skip
MARKERS = "os^Dv"  # after ten classes the colours come round with the next marker
INK, MUTED, GRID = "#24292f", "#6e7781", "#e3e7eb"
DPI = 150
MAX_CELLS_WRITTEN = 20  # classes up to which each cell of a confusion matrix is written out

# Of masks: class 0, which is the background where there is one, values that are no class, and
# pixels of the wrong class.
FIRST_CLASS, NO_CLASS, WRONG_PIXEL = "#1c2430", "#dcdcdc", "#e0182d"
RIGHT_FRAME = "#2a9d4a"  # of neighbours of the right class
OVERLAY_ALPHA = 0.55
MAX_CLASSES_NAMED = 40  # in the legend of a segmentation: those with the most pixels
MAX_SHEET_ROWS = 8  # above which pictures without a truth stand two in a row


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
    figure, axes = _figure(6.4, 4.0)
    for index, (name, values) in enumerate(series.items()):
        y = np.asarray(values, np.float64)  # [M]
        at = np.arange(1, len(y) + 1) if x is None else np.asarray(x, np.float64)
        known = ~np.isnan(y)
        marker = "o" if known.sum() <= 30 else None
        axes.plot(
            at[known], y[known], color=COLOURS[index % len(COLOURS)],
            linewidth=2, marker=marker, markersize=4, label=name,
        )  # fmt: skip
    for name, value in (levels or {}).items():
        axes.axhline(value, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"{name} {value:.2f}", (1, value), xycoords=("axes fraction", "data"),
            xytext=(-2, 5), textcoords="offset points", ha="right", color=MUTED, fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    _dress(figure, axes, title, x_label=x_label)
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    if percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    if len(series) > 1:
        _legend(axes)
    return _save(figure, path)


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
    figure, axes = _figure(side + 0.6, side)
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
    _dress(figure, axes, title, x_label="predicted", y_label="true", grid=False)
    axes.spines[:].set_visible(False)
    return _save(figure, path)


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
    figure, axes = _figure(6.4, 1.3 + 0.42 * len(values))
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
    _dress(figure, axes, title, grid=False)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9.5)
    return _save(figure, path)


def plot_embedding(
    points: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    path: str | Path | None = None,
    *,
    title: str,
) -> Figure:
    """Draws points of the plane, coloured by class, such as features after t-SNE or PCA.

    Args:
        points: float [M, 2].
        labels: int [M], 0 to K - 1.
        class_names: K names.
        path: PNG file to write; None: none.
        title: What the points are.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    figure, axes = _figure(7.2, 5.4)
    size = float(np.clip(12_000 / max(len(points), 1), 3.0, 30.0))
    for index, name in enumerate(class_names):
        own = points[labels == index]
        axes.scatter(
            own[:, 0], own[:, 1], s=size, color=COLOURS[index % len(COLOURS)], alpha=0.75,
            marker=MARKERS[index // len(COLOURS) % len(MARKERS)], linewidths=0, label=name,
        )  # fmt: skip
    _dress(figure, axes, title, grid=False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    _legend(axes, columns=-(-len(class_names) // 20), outside=True)
    return _save(figure, path)


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
    figure = _draw_grid(
        grid, row_titles=row_titles, column_titles=column_titles, title=title, cell=cell
    )
    return _save(figure, path)


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


def mask_palette(num_classes: int) -> np.ndarray:
    """Returns a colour for every value of a mask, uint8 [256, 3].

    A class has one colour whatever their number: 0 is dark, 1 to 10 have those of the plots, the
    others are as unlike all before them as can be. Values from `num_classes` on are light gray.
    """
    palette = np.tile(_rgb(NO_CLASS), (256, 1))
    palette[:num_classes] = _class_colours()[:num_classes]
    return palette


def colour_masks(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns a mask, uint8 [..., H, W], in colours, uint8 [..., H, W, 3]."""
    return mask_palette(num_classes)[mask]


def overlay_masks(
    image: np.ndarray, mask: np.ndarray, num_classes: int, alpha: float = OVERLAY_ALPHA
) -> np.ndarray:
    """Lays the colours of a mask over an image; pixels of no class stay as they are.

    Args:
        image: uint8 [H, W, 3] or float in 0..1.
        mask: uint8 [H, W].
        num_classes: K.
        alpha: Share of the mask's colour, 0 to 1.

    Returns:
        uint8 [H, W, 3].
    """
    pixels = _bytes(image)
    # In 8 bits of fraction: of large images floats would take four times the memory.
    share = np.where(mask < num_classes, round(256 * alpha), 0).astype(np.uint16)[..., np.newaxis]
    mixed = pixels * (256 - share)
    mixed += colour_masks(mask, num_classes) * share
    mixed += 128
    return (mixed >> 8).astype(np.uint8)


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
        pixels, predicted = _bytes(image), colour_masks(prediction, count)
        counted += np.bincount(prediction.ravel(), minlength=256)
        if truths is None:
            rows.append([pixels, predicted, overlay_masks(pixels, prediction, count)])
            continue
        truth = truths[index]
        ignored = np.zeros(truth.shape, bool) if ignore_label is None else truth == ignore_label
        any_ignored |= bool(ignored.any())
        counted += np.bincount(truth[~ignored], minlength=256)
        true = colour_masks(truth, count)
        true[ignored] = _rgb(NO_CLASS)
        rows.append([pixels, true, predicted, _draw_errors(pixels, ignored, prediction != truth)])
    names = ["image", "prediction", "overlay"]
    if truths is not None:
        names = ["image", "truth", "prediction", "error"]
    elif len(rows) > MAX_SHEET_ROWS:
        rows = [sum(rows[start : start + 2], []) for start in range(0, len(rows), 2)]
        names *= 2
    titles = ["" if np.isnan(value) else f"IoU {value:.2f}" for value in iou]
    figure = _draw_grid(rows, row_titles=titles, column_titles=names, title=title, cell=1.9)
    others = [("ignored", NO_CLASS)] if any_ignored else []
    others += [("wrong", WRONG_PIXEL)] if truths is not None else []
    _mask_legend(figure, counted[:count], class_names, others)
    return _save(figure, path)


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
    figure, axes = _figure(2.1 * columns, 0.5 + (1.9 + 0.17 * lines) * rows)
    axes.remove()
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    for panel, image, caption in zip(panels, images, captions, strict=False):
        panel.imshow(displayed(image))
        panel.set_anchor("N")  # captions of a row stand on one line
        panel.set_title(caption, fontsize=8.5, color=INK)
    _dress(figure, panels[0], title, grid=False)
    return _save(figure, path)


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
    figure = _draw_grid(rows, row_titles=row_titles, column_titles=names, title=title, cell=1.15)
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
    return _save(figure, path)


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
    figure, axes = _figure(2.2 + 3.4 * columns, 0.8 + 1.8 * rows)
    axes.remove()
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
                colour = COLOURS[index % len(COLOURS)]
                panel.stairs(values, edges, fill=True, color=colour, alpha=0.07)
                panel.stairs(values, edges, color=colour, linewidth=1.3, alpha=0.9)
            _dress(figure, panel, title)
            panel.set(xlim=(-0.01, 1.01), ylim=(0.0, 1.1 * top), xticks=[0, 0.5, 1])
            panel.xaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
            panel.tick_params(labelbottom=last, labelleft=panel is right[0])
            panel.set_xlabel("pixel value" if last else "", color=MUTED)
    for panel, name in zip(panels[0, 1:], column_titles, strict=True):
        panel.set_title(name, fontsize=10, color=INK)
    return _save(figure, path)


def plot_fractions(
    finetune: Mapping[str, float | Sequence[float]],
    supervised: Mapping[str, float | Sequence[float]],
    path: str | Path | None = None,
    *,
    title: str = "Accuracy by share of the labels",
) -> Figure:
    """Draws accuracy against the share of labels, of a pre-trained and of an untrained encoder.

    Several accuracies of a share, such as one a seed, become their mean with their standard
    deviation as error bars.

    Args:
        finetune: Accuracies, 0 to 1, by share of the labels as text or number, above 0 to 1.
        supervised: The same of the twin that starts from random weights; either may be empty.
        path: PNG file to write; None: none.
        title: Heading.
    """
    figure, axes = _figure(6.4, 4.2)
    shown: set[float] = set()
    for index, (name, by_share) in enumerate(
        (("fine-tuned", finetune), ("supervised", supervised))
    ):
        known = []
        for share in sorted(by_share, key=float):
            values = np.atleast_1d(np.asarray(by_share[share], np.float64))
            values = values[~np.isnan(values)]
            if values.size:
                known.append((float(share), values.mean(), values.std()))
        if known:
            x, y, spread = np.array(known).T
            axes.errorbar(
                x, y, yerr=spread if spread.any() else None, color=COLOURS[index], linewidth=2,
                marker="os"[index], markersize=6, capsize=4, label=name,
            )  # fmt: skip
            shown.update(x)
    _dress(figure, axes, title, x_label="share of the labels", y_label="accuracy")
    axes.set_xscale("log")
    axes.set_xticks(sorted(shown), [f"{100 * share:.4g} %" for share in sorted(shown)])
    axes.set_xticks([], minor=True)
    if shown:
        axes.set_xlim(min(shown) / 1.5, max(shown) * 1.5)
        _legend(axes)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    return _save(figure, path)


def plot_pair(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    path: str | Path | None = None,
    *,
    is_test: np.ndarray | None = None,
    panel_titles: tuple[str, str] = ("h", "z"),
    title: str = "",
) -> Figure:
    """Draws two maps of the same images side by side, with one legend, such as t-SNE of h and of z.

    Training images are pale dots, test images dark-edged ones that lie over them.

    Args:
        first: float [M, 2], left.
        second: float [M, 2], right; row by row the same images.
        labels: int [M], 0 to K - 1.
        class_names: K names.
        path: PNG file to write; None: none.
        is_test: bool [M]; None: no image is marked as one of training or test.
        panel_titles: A title above each map.
        title: Heading.
    """
    from matplotlib.lines import Line2D

    labels = np.asarray(labels)
    figure, axes = _figure(10.6, 5.0)
    axes.remove()
    panels = figure.subplots(1, 2)
    size = float(np.clip(9_000 / max(len(labels), 1), 4.0, 30.0))
    plain: dict[str, Any] = {"alpha": 0.75, "linewidths": 0.0, "s": size}
    pale: dict[str, Any] = {"alpha": 0.3, "linewidths": 0.0, "s": size}
    edged: dict[str, Any] = {"alpha": 0.9, "linewidths": 0.7, "s": 1.3 * size, "edgecolors": INK}
    if is_test is None:
        looks = [(np.ones(len(labels), bool), plain)]
    else:
        looks = [(~np.asarray(is_test, bool), pale), (np.asarray(is_test, bool), edged)]
    for panel, points, name in zip(panels, (first, second), panel_titles, strict=True):
        for chosen, look in looks:
            for index in range(len(class_names)):
                own = np.asarray(points)[chosen & (labels == index)]
                panel.scatter(own[:, 0], own[:, 1], **_class_mark(index), **look)
        _dress(figure, panel, title, grid=False)
        panel.set_title(name, fontsize=10, color=INK)
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    handles = [
        Line2D([], [], linestyle="none", markersize=6, label=name, **_class_mark(index))
        for index, name in enumerate(class_names[:MAX_CLASSES_NAMED])
    ]
    if len(class_names) > MAX_CLASSES_NAMED:
        rest = len(class_names) - MAX_CLASSES_NAMED
        handles.append(Line2D([], [], linestyle="none", label=f"({rest} more)"))
    if is_test is not None:
        mark: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 6, "color": MUTED}
        handles.append(Line2D([], [], label="train", alpha=0.4, markeredgewidth=0, **mark))
        handles.append(Line2D([], [], label="test", markeredgecolor=INK, **mark))
    figure.legend(
        handles=handles, loc="outside right center", ncols=-(-len(handles) // 22),
        frameon=False, fontsize=9, labelcolor=INK,
    )  # fmt: skip
    return _save(figure, path)


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # not measured: None, or an empty cell of a CSV file
        return float("nan")


def displayed(image: np.ndarray) -> np.ndarray:
    """Returns an image [H, W, C] as colours [H, W, 3]: of other channels the first, or the first
    three.
    """
    image = np.asarray(image)
    image = image[..., np.newaxis] if image.ndim == 2 else image
    channels = image.shape[2]
    if channels != 3:
        image = image[..., :3] if channels > 3 else np.repeat(image[..., :1], 3, axis=-1)
    return image if image.dtype == np.uint8 else np.clip(image.astype(np.float32), 0.0, 1.0)


def _bytes(image: np.ndarray) -> np.ndarray:
    image = displayed(image)
    return image if image.dtype == np.uint8 else np.rint(255.0 * image).astype(np.uint8)


def _rgb(colour: str) -> np.ndarray:
    """Returns "#rrggbb" as uint8 [3]."""
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)


@functools.cache
def _class_colours() -> np.ndarray:
    """Returns the colours of 256 classes, uint8 [256, 3]; the first do not depend on the others."""
    levels = np.linspace(0, 255, 14).round().astype(np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    chosen = [_rgb(colour) for colour in (FIRST_CLASS, *COLOURS)]
    seen = _perceived(candidates)

    def distance_to(colour: np.ndarray) -> np.ndarray:
        return np.linalg.norm(seen - _perceived(colour), axis=-1)

    taken = [*chosen, _rgb(NO_CLASS)]
    distance = np.min([distance_to(colour) for colour in taken], axis=0)
    while len(chosen) < 256:
        chosen.append(candidates[distance.argmax()])
        distance = np.minimum(distance, distance_to(chosen[-1]))
    return np.array(chosen)


def _perceived(colours: np.ndarray) -> np.ndarray:
    """Returns sRGB, uint8 [..., 3], in CIELAB, where like distances look alike."""
    shares = colours / 255.0
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / to_xyz.sum(axis=1)  # of white: 1, 1, 1
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _draw_errors(image: np.ndarray, ignored: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Returns the image grayed and lightened, wrong pixels red, ignored ones gray."""
    luma = image @ np.array([0.299, 0.587, 0.114])
    shown = np.repeat((96 + 0.6 * luma).astype(np.uint8)[..., np.newaxis], 3, axis=-1)
    shown[wrong] = _rgb(WRONG_PIXEL)
    shown[ignored] = _rgb(NO_CLASS)
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


def _draw_grid(
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
    figure, axes = _figure(cell * columns + beside, cell * edges[-1] + 0.6)
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
    _dress(figure, axes, title, grid=False)
    axes.tick_params(length=0, labelcolor=INK)
    return figure


def _frame(left: float, top: float, width: float, height: float, good: bool) -> Rectangle:
    """Returns a frame about an image: green, or red and dashed, for who cannot tell the two."""
    from matplotlib.patches import Rectangle

    look = (RIGHT_FRAME, "solid") if good else (WRONG_PIXEL, (0, (3, 1.2)))
    return Rectangle(
        (left, top), width, height, fill=False, linewidth=2.2, edgecolor=look[0], linestyle=look[1]
    )


def _share_of_cell(image: np.ndarray) -> tuple[float, float]:
    """Returns the height and width that an image takes of its cell: its longer side 0.94."""
    height, width = np.shape(image)[:2]
    return 0.94 * height / max(height, width), 0.94 * width / max(height, width)


def _class_mark(index: int) -> dict[str, Any]:
    """Returns colour and marker of a class of points."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index // len(COLOURS) % len(MARKERS)],
    }


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _dress(
    figure: Figure,
    axes: Axes,
    title: str,
    *,
    x_label: str = "",
    y_label: str = "",
    grid: bool = True,
) -> None:
    """Gives every figure the same look."""
    if title:
        figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold", color=INK)
    axes.set_xlabel(x_label, color=MUTED)
    axes.set_ylabel(y_label, color=MUTED)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis="y", color=GRID, linewidth=1)


def _legend(axes: Axes, *, columns: int = 1, outside: bool = False) -> None:
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if outside else {"loc": "best"}
    legend = axes.legend(ncols=columns, frameon=False, fontsize=9, labelcolor=INK, **place)
    for handle in legend.legend_handles if outside else ():
        handle.set_sizes([36])  # type: ignore[union-attr]


def _save(figure: Figure, path: str | Path | None) -> Figure:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # the $ of a path or of a class's name is a $
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), lambda file: figure.savefig(file, dpi=DPI, format="png"))
    return figure
