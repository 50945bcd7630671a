"""What all figures share: their canvas, colours, axes, legend and file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from simclr_tf.atomic_write import write_whole

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
WRONG_PIXEL = "#e0182d"  # of the wrong class; the frame of a neighbour that is, too
DPI = 150
MAX_CLASSES_NAMED = 40  # in a legend


def colour_of(index: int) -> str:
    """Returns the colour of one curve or class of several."""
    return COLOURS[index % len(COLOURS)]


def class_mark(index: int) -> dict[str, Any]:
    """Returns colour and marker of a class of points."""
    return {"color": colour_of(index), "marker": MARKERS[index // len(COLOURS) % len(MARKERS)]}


def as_percent(value: float, _: object = None) -> str:
    """Writes a share as a percentage; also a formatter of an axis."""
    return f"{100 * value:.4g} %"


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of so many inches, on a canvas of its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns a figure of so many inches, and its only axes."""
    figure = new_figure(width, height)
    return figure, figure.add_subplot()


def dress(
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


def name_panel(panel: Axes, name: str) -> None:
    """Puts a title above one of the axes of a figure."""
    panel.set_title(name, fontsize=10, color=INK)


def draw_legend(axes: Axes, *, columns: int = 1, outside: bool = False) -> None:
    """Names what is drawn: within the axes, or right of them."""
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if outside else {"loc": "best"}
    legend = axes.legend(ncols=columns, frameon=False, fontsize=9, labelcolor=INK, **place)
    for handle in legend.legend_handles if outside else ():
        handle.set_sizes([36])  # type: ignore[union-attr]


def save(figure: Figure, path: str | Path | None) -> Figure:
    """Returns the finished figure, written to a PNG file where a path is given."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # the $ of a path or of a class's name is a $
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), lambda file: figure.savefig(file, dpi=DPI, format="png"))
    return figure
