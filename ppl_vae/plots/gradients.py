"""How noisy the estimators of a gradient are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ppl_vae.core.errors import InputError
from ppl_vae.plots import canvas
from ppl_vae.plots.canvas import WIDTH, styled

if TYPE_CHECKING:
    from ppl_vae.objectives.gradient_noise import GradientReport

#: Of each program: its colour, its marker, and where it stands in the row of an estimator.
_PARTS = {"model": (canvas.BLUE, "o", -0.14), "guide": (canvas.ORANGE, "D", 0.14)}
_PANELS = {"mean_norm": "|mean|", "variance": "variance", "signal_to_noise": "signal / noise"}


@styled
def gradient_noise(report: GradientReport) -> Figure:
    """Draw length of the mean, variance and signal-to-noise ratio of each estimator's gradient, model and guide apart.

    Parameters
    ----------
    report : GradientReport
        From `ppl_vae.objectives.gradient_noise`.

    Raises
    ------
    InputError
        If the report has no rows.
    """
    if not report.rows:
        raise InputError("report", expected="at least one estimator", got="none")
    names = list(dict.fromkeys(row.objective for row in report.rows))
    figure = Figure((WIDTH, 1.3 + 0.34 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(_PANELS), sharey=True)
    for ax, (quantity, label) in zip(axes, _PANELS.items(), strict=True):
        ax.set_xscale("log")
        for part, (colour, marker, shift) in _PARTS.items():
            for row in report.rows:
                x, y = getattr(row, quantity), names.index(row.objective) + shift
                still = row.noiseless == row.num_parameters and quantity != "mean_norm"
                if row.part != part:
                    continue
                if 0 < x < math.inf and not still:
                    ax.plot(x, y, marker, color=colour, markersize=4.5)
                else:  # no place on a logarithmic axis
                    text = "no noise" if still else f"{x:g}"
                    where = {"xycoords": ("axes fraction", "data"), "fontsize": 8, "va": "center"}
                    ax.annotate(text, (0.03, y), color=colour, **where)
        ax.set_xlabel(label)
        ax.grid(axis="y", visible=False)
        for between in range(1, len(names)):
            ax.axhline(between - 0.5, color="#e6e6e6", linewidth=0.8)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    for part, (colour, marker, _) in _PARTS.items():
        axes[-1].plot([], [], marker, color=colour, markersize=4.5, label=part)
    axes[-1].axvline(
        report.draws**-0.5, color="black", linewidth=1, linestyle=":", label="least distinguishable from 0"
    )
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
