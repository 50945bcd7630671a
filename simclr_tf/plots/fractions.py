"""Accuracy against the share of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simclr_tf.plots.style import COLOURS, as_percent, draw_legend, dress, new_axes, save

if TYPE_CHECKING:  # loaded where a figure is drawn: matplotlib takes a while
    from matplotlib.figure import Figure


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
    figure, axes = new_axes(6.4, 4.2)
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
    dress(figure, axes, title, x_label="share of the labels", y_label="accuracy")
    axes.set_xscale("log")
    axes.set_xticks(sorted(shown), [as_percent(share) for share in sorted(shown)])
    axes.set_xticks([], minor=True)
    if shown:
        axes.set_xlim(min(shown) / 1.5, max(shown) * 1.5)
        draw_legend(axes)
    axes.yaxis.set_major_formatter(as_percent)
    return save(figure, path)
