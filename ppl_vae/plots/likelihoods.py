"""log p(x): its values, its diagnostics, its bound as K grows, and estimates against exact answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.core.errors import InputError
from ppl_vae.plots import canvas
from ppl_vae.plots.canvas import SERIES, WIDTH, Values, styled


@styled
def log_likelihood(values: Values | Mapping[str, Values]) -> Figure:
    """Draw a histogram of log p(x) over data: values (N,), or several such under their names.

    Each mean is given with its standard error over data; a value that is not finite enters it as it is.
    """
    series = values if isinstance(values, Mapping) else {"log p(x)": values}
    figure = Figure((WIDTH, 3.2), layout="constrained")
    ax = figure.subplots()
    arrays = {}
    for index, (name, given) in enumerate(series.items()):
        array = canvas.as_array(given, name).ravel()
        mean, finite = array.mean(), np.isfinite(array).all()
        error = f" ± {array.std(ddof=1) / math.sqrt(len(array)):.2f}" if finite and len(array) > 1 else ""
        arrays[f"{name}: mean {mean:.2f}".replace("-", "−") + error] = array
        if np.isfinite(mean):
            ax.axvline(mean, color=SERIES[index % len(SERIES)], linewidth=1.2, linestyle="--")
        canvas.flag_not_finite(ax, f"values of {name}", array)
    canvas.histograms(ax, arrays)
    ax.set(xlabel="log p(x) (nats per datum)", ylabel="data per bin")
    figure.legend(loc="outside upper center")
    return figure


@styled
def pareto_k(k: Values) -> Figure:
    """Draw the Pareto k of each datum's importance weights, k (N,), with the thresholds 0.5 and 0.7.

    Up to 0.5 the weights have a finite variance; above 0.7 the estimate is not to be trusted (Vehtari et al. 2024).
    """
    shape = canvas.as_array(k, "k").ravel()
    index = np.arange(1.0, len(shape) + 1)
    figure = Figure((WIDTH, 3.4), layout="constrained")
    ax = figure.subplots()
    bands = (
        ("k ≤ 0.5, good", shape <= 0.5, canvas.BLUE, "o"),
        ("0.5 < k ≤ 0.7, usable", (shape > 0.5) & (shape <= 0.7), canvas.ORANGE, "^"),
        ("k > 0.7, not to be trusted", shape > 0.7, canvas.RED, "s"),
    )
    for label, inside, colour, marker in bands:
        inside = inside & np.isfinite(shape)
        ax.scatter(
            index[inside],
            shape[inside],
            s=14,
            color=colour,
            marker=marker,
            linewidths=0,
            label=f"{label}: {inside.sum()} of {len(shape)}",
        )
    for threshold in (0.5, 0.7):
        ax.axhline(threshold, color="black", linewidth=1, linestyle="--")
    canvas.flag_not_finite(ax, "values of k", shape, at=index)
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.0), max(high, 0.8))
    ax.set(xlabel="datum", ylabel="Pareto k (no unit)")
    figure.legend(loc="outside upper left")
    return figure


@styled
def estimate_comparison(exact: Values, estimate: Values) -> Figure:
    """Scatter estimates of log p(x) (N,) against the exact ones (N,), and their difference below."""
    x = canvas.as_array(exact, "exact")
    y = canvas.same_shape(x, estimate, "estimate")
    return canvas.against(x, y, ("exact log p(x) (nats per datum)", "estimate (nats per datum)"), "data", " nats")


@styled
def k_curve(
    num_particles: Sequence[int],
    bounds: Values | Mapping[str, Values],
    standard_errors: Values | Mapping[str, Values] | None = None,
    *,
    reference: float | None = None,
    reference_label: str = "exact log p(x)",
) -> Figure:
    """Draw the importance-weighted bound against the number of particles, which is on a logarithmic axis.

    Parameters
    ----------
    num_particles : sequence of int
        K, (P,).
    bounds : array (P,), or mapping of str to such
        The bound at each K, nats per datum; or several such under their names.
    standard_errors : array (P,), or mapping of str to such, optional
        Of the bounds: bars of two each side.
    reference : float, optional
        What the bound cannot pass, drawn as a horizontal line (nats per datum).

    Raises
    ------
    InputError
        If lengths differ, or a K is below one.
    """
    K = canvas.as_array(num_particles, "num_particles").ravel()
    if not (K >= 1).all():
        raise InputError("num_particles", expected="numbers of particles, 1 or more", got=f"{K.min():g}")
    series = bounds if isinstance(bounds, Mapping) else {"bound": bounds}
    errors = standard_errors if isinstance(standard_errors, Mapping) else dict.fromkeys(series, standard_errors)
    figure = Figure((WIDTH, 3.4), layout="constrained")
    ax = figure.subplots()
    ax.set_xscale("log")
    for index, (name, given) in enumerate(series.items()):
        values = canvas.same_shape(K, given, name)
        bars = errors.get(name)
        if bars is not None:
            bars = 2 * canvas.same_shape(K, bars, f"standard errors of {name}")
        ax.errorbar(K, values, bars, label=name, color=SERIES[index % len(SERIES)], marker="o", markersize=3, capsize=2)
        canvas.flag_not_finite(ax, f"values of {name}", values, at=K)
    if reference is not None:
        ax.axhline(reference, color="black", linewidth=1, linestyle="-.", label=reference_label)
    ax.set(xlabel="particles K", ylabel="nats per datum")
    ax.legend(loc="lower right")
    return figure


@styled
def posterior_comparison(exact: Values, guide: Values) -> Figure:
    """Scatter the guide's means of z (N, L) against the exact posterior means (N, L), and the difference below."""
    x = canvas.as_array(exact, "exact")
    y = canvas.same_shape(x, guide, "guide")
    return canvas.against(x, y, ("exact posterior mean of z (prior s.d.)", "guide's mean of z"), "means")
