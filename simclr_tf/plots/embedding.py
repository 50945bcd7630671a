"""Maps of features in the plane, such as those of t-SNE and PCA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simclr_tf.plots.style import (
    INK,
    MAX_CLASSES_NAMED,
    MUTED,
    class_mark,
    draw_legend,
    dress,
    name_panel,
    new_axes,
    new_figure,
    save,
)

if TYPE_CHECKING:  # loaded where a figure is drawn: matplotlib takes a while
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    figure, axes = new_axes(7.2, 5.4)
    size = float(np.clip(12_000 / max(len(points), 1), 3.0, 30.0))
    for index, name in enumerate(class_names):
        own = points[labels == index]
        look: dict[str, Any] = {"alpha": 0.75, "linewidths": 0.0, "s": size}
        axes.scatter(own[:, 0], own[:, 1], label=name, **class_mark(index), **look)
    _dress_map(figure, axes, title)
    draw_legend(axes, columns=-(-len(class_names) // 20), outside=True)
    return save(figure, path)


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
    figure = new_figure(10.6, 5.0)
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
                panel.scatter(own[:, 0], own[:, 1], **class_mark(index), **look)
        _dress_map(figure, panel, title)
        name_panel(panel, name)
    handles = [
        Line2D([], [], linestyle="none", markersize=6, label=name, **class_mark(index))
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
    return save(figure, path)


def _dress_map(figure: Figure, axes: Axes, title: str) -> None:
    """Gives a map its look: its coordinates mean nothing."""
    dress(figure, axes, title, grid=False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
