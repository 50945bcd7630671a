"""Figures of a run: arrays in, a PNG file out.

Figures are drawn on their own canvas, never through pyplot: nothing here needs a screen, changes
global state or leaves a figure open. The colours keep apart for colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # loaded where a figure is drawn: matplotlib takes a while
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Ten colours chosen to differ in lightness too (Petroff, arXiv 2107.02270).
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#94a4a2",
    "#a96b59", "#e76300", "#717581", "#92dadd", "#b9ac70",
)  # fmt: skip
MARKERS = "os^Dv"  # after ten classes the colours come round with the next marker
INK, MUTED, GRID = "#24292f", "#6e7781", "#e3e7eb"
DPI = 150
MAX_CELLS_WRITTEN = 20  # classes up to which each cell of a confusion matrix is written out


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
    path: str | Path,
    *,
    title: str,
    x: Sequence[float] | np.ndarray | None = None,
    x_label: str = "epoch",
    levels: Mapping[str, float] | None = None,
    percent: bool = False,
) -> None:
    """Draws curves over training.

    Args:
        series: float [M] for each name in the legend; nan where nothing was measured.
        path: PNG file to write; its folder is made.
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
    _save(figure, path)


def plot_confusion_matrix(
    matrix: np.ndarray,
    class_names: Sequence[str],
    path: str | Path,
    *,
    title: str = "Confusion matrix",
) -> None:
    """Draws a confusion matrix: colour is the share of a true class, the number is the count.

    Args:
        matrix: int [K, K]; row: the truth, column: the prediction.
        class_names: K names.
        path: PNG file to write.
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
    _save(figure, path)


def plot_bars(
    names: Sequence[str],
    values: Sequence[float] | np.ndarray,
    path: str | Path,
    *,
    title: str,
    errors: Sequence[float] | np.ndarray | None = None,
    percent: bool = False,
) -> None:
    """Draws a bar per name, from top to bottom, with its value written at its end.

    Args:
        names: A name per bar.
        values: float [M], 0 or more.
        path: PNG file to write.
        title: What the bars show.
        errors: Half-lengths of the error bars, float [M].
        percent: Values are shares, 0 to 1, and are written as percentages.
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
    axes.set_xlim(0, 1.18 * np.max(values + reach) or 1.0)
    _dress(figure, axes, title, grid=False)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9.5)
    _save(figure, path)


def plot_embedding(
    points: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    path: str | Path,
    *,
    title: str,
) -> None:
    """Draws points of the plane, coloured by class, such as features after t-SNE or PCA.

    Args:
        points: float [M, 2].
        labels: int [M], 0 to K - 1.
        class_names: K names.
        path: PNG file to write.
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
    _save(figure, path)


def plot_images(
    grid: Sequence[Sequence[np.ndarray]] | np.ndarray,
    path: str | Path,
    *,
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    title: str = "",
) -> None:
    """Draws rows of images, pixel by pixel, their sizes free.

    Args:
        grid: Rows of images, each uint8 [H, W, 3] or float in 0..1 (what is outside is cut off).
        path: PNG file to write.
        row_titles: A title left of each row, or none.
        column_titles: A title above each column, or none.
        title: Heading.
    """
    columns = max(len(row) for row in grid)
    cell = float(np.clip(9.0 / columns, 0.7, 1.6))  # inches
    beside = 0.3 + 0.06 * max(map(len, row_titles), default=0)  # inches; a letter takes about 0.06
    figure, axes = _figure(cell * columns + beside, cell * len(grid) + 0.6)
    figure.set_layout_engine("compressed")  # no room beside cells, whose aspect is fixed
    for top, row in enumerate(grid):
        for left, image in enumerate(row):
            axes.imshow(
                _displayed(image), extent=_cell(left, top, image.shape), interpolation="nearest"
            )
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(len(grid) - 0.5, -0.5), aspect="equal")
    axes.spines[:].set_visible(False)
    axes.set_yticks(np.arange(len(row_titles)), row_titles)
    axes.set_xticks(np.arange(len(column_titles)), column_titles)
    axes.xaxis.tick_top()
    _dress(figure, axes, title, grid=False)
    axes.tick_params(length=0, labelcolor=INK)
    _save(figure, path)


def plot_views(
    images: Sequence[np.ndarray] | np.ndarray,
    views: Sequence[Sequence[np.ndarray]] | np.ndarray,
    path: str | Path,
    *,
    title: str = "",
) -> None:
    """Draws each image followed by its augmented views.

    Args:
        images: N images, uint8 [H, W, 3] or float in 0..1.
        views: N rows of V views; an array is [N, V, h, w, 3].
        path: PNG file to write.
        title: Heading.
    """
    rows = [[image, *own] for image, own in zip(images, views, strict=True)]
    names = ["image", *(f"view {number}" for number in range(1, len(rows[0])))]
    plot_images(rows, path, column_titles=names, title=title)


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
    path: str | Path,
    *,
    column_titles: Sequence[str],
    title: str = "",
) -> None:
    """Draws each image, and right of it panels of histograms that lie over each other.

    Args:
        images: N images, uint8 [H, W, 3] or float in 0..1.
        histograms: float [N, columns, M, bins]: M histograms over 0..1 in each panel.
        path: PNG file to write.
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
        left.imshow(_displayed(images[row]), interpolation="nearest")
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
    _save(figure, path)


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # not measured: None, or an empty cell of a CSV file
        return float("nan")


def _displayed(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    return image if image.dtype == np.uint8 else np.clip(image.astype(np.float32), 0.0, 1.0)


def _cell(left: int, top: int, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Returns where an image lies, left, right, bottom, top: centred, its longer side 0.94."""
    half_height, half_width = 0.47 * np.array(shape[:2]) / max(shape[:2])
    return left - half_width, left + half_width, top + half_height, top - half_height


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


def _save(figure: Figure, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, format="png")
