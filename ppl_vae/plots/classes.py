"""Figures of classifiers: whether a probability means what it says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.core.errors import InputError
from ppl_vae.plots import canvas
from ppl_vae.plots.canvas import SERIES, WIDTH, Values, styled


@styled
def calibration(rows: Mapping[str, Values]) -> Figure:
    """Draw the share of data whose predicted class is true against its probability, and below, how many data there are.

    `rows` holds, by name, what `Classification.calibration` returns: (bins, 3), mean probability, share and count. Bars
    are two standard errors either way, of a binomial share with one more datum of either kind, so that a share of 0 or
    1 has an error too; the dashed line is where a probability means what it says.
    """
    if not rows or len(rows) > len(SERIES):
        raise InputError("rows", expected=f"1 to {len(SERIES)} classifiers", got=str(len(rows)))
    figure = Figure((WIDTH, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=canvas.GREY, linestyle="--", linewidth=1)
    for position, (name, values) in enumerate(rows.items()):
        table = canvas.as_matrix(values, name)
        count, colour = table[:, 2], SERIES[position]
        seen = count > 0
        confidence, share = table[seen, 0], table[seen, 1]
        smoothed = (share * count[seen] + 1) / (count[seen] + 2)
        error = 2 * np.sqrt(smoothed * (1 - smoothed) / (count[seen] + 2))
        upper.errorbar(confidence, share, error, color=colour, marker="o", markersize=4, capsize=2, label=name)
        middles = (np.arange(len(count)) + (position + 0.5) / len(rows)) / len(count)
        lower.bar(middles, count, width=0.8 / len(count) / len(rows), color=colour)
    upper.set(ylabel="share that is true", xlim=(0, 1), ylim=(0, 1.02))
    lower.set(xlabel="probability of the predicted class", ylabel="data", yscale="log")
    if len(rows) > 1:
        figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=min(3, len(rows)))
    return figure
