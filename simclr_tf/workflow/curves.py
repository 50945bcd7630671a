"""The curves of a training with labels or masks, drawn from the run's journal."""

from __future__ import annotations

from collections.abc import Mapping

from simclr_tf import plots
from simclr_tf.runs.folder import RunFolder


def draw_curves(folder: RunFolder, titles: Mapping[str, str], *, judged: str) -> None:
    """Draws a figure for each number: of training, and of the images it was judged by.

    Args:
        folder: The run's folder.
        titles: What each number is called, by its name in the journal, "loss" or a share.
        judged: What those images are for, as the legend has it.
    """
    series = plots.series_of(folder.rows)
    for name, title in titles.items():
        curves = {
            label: series[column]
            for label, column in (("train", name), (judged, f"val_{name}"))
            if column in series
        }
        if curves:  # else the journal was removed
            path, share = folder.plots / f"{name}.png", name != "loss"
            of = f", {next(iter(curves))}" if len(curves) == 1 else ""  # there is no legend then
            plots.plot_curves(curves, path, title=title + of, x=series["epoch"], percent=share)
