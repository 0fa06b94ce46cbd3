"""Bounds over a fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppl_vae.core.errors import InputError
from ppl_vae.plots import canvas
from ppl_vae.plots.canvas import SERIES, WIDTH, Floats, styled

#: What a rule for the weight of the KL moves, by its column: the label of its panel.
RULES = {"kl_weight": "KL weight", "kl_capacity": "KL (nats)"}


@styled
def history(
    columns: Mapping[str, Sequence[float | None]],
    *,
    reference: float | None = None,
    reference_label: str = "closed-form maximum",
) -> Figure:
    """Draw every column whose name ends in ``elbo`` or ``bound`` against ``epoch``, in nats per datum.

    A first stretch so low that it would flatten the rest is left below the axis, which then says so. A ``kl_weight``
    that is not 1 throughout gets a panel of its own, and so does a ``kl_capacity``, with the ``validation_rate`` that
    should follow it.

    Parameters
    ----------
    columns : mapping of str to sequence
        Columns of one length; ``epoch`` counts from 1 where missing, and None marks a value never measured.
    reference : float, optional
        A value to compare with, drawn as a horizontal line (nats per datum).

    Raises
    ------
    InputError
        If there is no bound among the columns, no epoch, or columns differ in length.
    """
    names = [name for name in columns if name.endswith(("elbo", "bound")) and any(v is not None for v in columns[name])]
    if not names:
        raise InputError(
            "history", expected="a column such as train_bound with at least one epoch", got=", ".join(columns) or "none"
        )
    length = len(columns[names[0]])
    given = {name: columns[name] for name in ("epoch", *RULES, "validation_rate", *names) if name in columns}
    for name, values in given.items():
        if len(values) != length:
            raise InputError(f"history column {name!r}", expected=f"{length} epochs", got=str(len(values)))
    arrays = {name: canvas.as_array(values, f"history column {name!r}") for name, values in given.items()}
    epochs = arrays.get("epoch", np.arange(1.0, length + 1))
    silent = {"kl_weight"} if np.all(arrays.get("kl_weight", 1.0) == 1) else set()
    rule = next((name for name in RULES if name in arrays.keys() - silent), None)

    figure = Figure((WIDTH, 3.4 if rule is None else 4.3), layout="constrained")
    panels = 1 if rule is None else 2
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False, height_ratios=[4, 1][:panels])[:, 0]
    for index, name in enumerate(names):
        measured = np.array([value is not None for value in columns[name]])
        label = name.replace("_elbo", " ELBO").replace("_", " ")
        axes[0].plot(
            epochs[measured],
            arrays[name][measured],
            label=label,
            color=SERIES[index % len(SERIES)],
            linestyle=("-", "--", ":")[index % 3],
            marker="o" if measured.sum() < 30 else None,
            markersize=3,
        )
        canvas.flag_not_finite(axes[0], f"values of {label}", arrays[name][measured], at=epochs[measured])
    if reference is not None:
        axes[0].axhline(reference, color="black", linewidth=1, linestyle="-.", label=reference_label)
    _leave_start_below(axes[0], np.stack([arrays[name] for name in names]), reference)
    axes[0].set_ylabel("nats per datum")
    axes[0].legend(loc="lower right")
    if rule is not None:
        axes[1].plot(epochs, arrays[rule], color=canvas.GREY, label="capacity")
        axes[1].set_ylabel(RULES[rule])
    if rule == "kl_capacity" and "validation_rate" in arrays:
        axes[1].plot(epochs, arrays["validation_rate"], color=SERIES[1], linestyle="--", label="validation KL")
        axes[1].legend(loc="lower right")
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _leave_start_below(ax: Axes, values: Floats, reference: float | None) -> None:
    """Cut the axis below what the last four fifths of the epochs reach, where the start takes most of it; say so."""
    values = np.where(np.isfinite(values), values, np.nan)
    later = values[:, values.shape[1] // 5 :]
    if values.shape[1] < 5 or np.isnan(later).all():
        return
    low, high = np.nanmin(later), max(np.nanmax(values), -math.inf if reference is None else reference)
    lowest = np.nanmin(values)
    if low - lowest <= 1.5 * (high - low):
        return
    bottom = low - 0.35 * (high - low)
    ax.set_ylim(bottom, high + 0.08 * (high - bottom))
    below = f"early epochs below the axis: {np.any(values < bottom, axis=0).sum()} (lowest {lowest:.0f})"
    flagged = ax.get_title(loc="left")
    above = "\n" * (flagged.count("\n") + bool(flagged))
    ax.set_title(below.replace("-", "−") + above, loc="right", fontsize=8, color=canvas.GREY)
