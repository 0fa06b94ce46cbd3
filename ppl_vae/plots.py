"""Figures: pure functions from arrays or tensors to a `matplotlib.figure.Figure`.

Nothing here touches pyplot, a backend or the caller's rcParams. Bounds and likelihoods are in nats per datum. Values
that are not finite are counted on the figure in red, and marked where they have a place; none is dropped in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae import canvas
from ppl_vae.canvas import PALETTE, SERIES, WIDTH, Floats, Values, styled
from ppl_vae.errors import InputError, unknown_name
from ppl_vae.images import image_grid, latent_walk, reconstructions, weights_as_images

__all__ = [
    "embed",
    "embedding",
    "estimate_comparison",
    "feature_reconstructions",
    "feature_scatter",
    "history",
    "image_grid",
    "latent_walk",
    "log_likelihood",
    "marginals",
    "pareto_k",
    "posterior_comparison",
    "reconstructions",
    "weights_as_images",
]

MARKERS = ("o", "^", "s", "D", "v")
FEW = 15  # classes that have room for their names among the points, and for a legend beside them


# ------------------------------------------------------------------------------------------------ training


@styled
def history(
    columns: Mapping[str, Sequence[float | None]],
    *,
    reference: float | None = None,
    reference_label: str = "closed-form maximum",
) -> Figure:
    """Draw every column whose name ends in ``elbo`` or ``bound`` against ``epoch``, in nats per datum.

    A first stretch so low that it would flatten the rest is left below the axis, which then says so. A ``kl_weight``
    that is not 1 throughout gets a panel of its own.

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
    given = {name: columns[name] for name in ("epoch", "kl_weight", *names) if name in columns}
    for name, values in given.items():
        if len(values) != length:
            raise InputError(f"history column {name!r}", expected=f"{length} epochs", got=str(len(values)))
    arrays = {name: canvas.as_array(values, f"history column {name!r}") for name, values in given.items()}
    epochs = arrays.get("epoch", np.arange(1.0, length + 1))
    weight = arrays.get("kl_weight", np.ones(length))

    warm_up = bool(np.any(weight != 1))
    figure = Figure((WIDTH, 4.3 if warm_up else 3.4), layout="constrained")
    axes = figure.subplots(1 + warm_up, 1, sharex=True, squeeze=False, height_ratios=[4, 1][: 1 + warm_up])[:, 0]
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
    if warm_up:
        axes[1].plot(epochs, weight, color=canvas.GREY)
        axes[1].set_ylabel("KL weight")
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


# ------------------------------------------------------------------------------------------------ latent space


def embed(z: Values, *, method: str = "pca", seed: int = 0) -> Floats:
    """Return points (N, 2) for latent means z (N, L): z itself for L = 2, else its PCA, or its t-SNE (``"tsne"``).

    Rows that are not finite come back as NaN, so that `embedding` counts them.
    """
    if method not in ("pca", "tsne"):
        raise unknown_name("embedding method", method, ["pca", "tsne"])
    points = canvas.as_matrix(z, "z")
    if points.shape[1] < 2:
        raise InputError("z", expected="at least 2 latent dimensions", got="1", hint="plots.marginals")
    good = np.isfinite(points).all(axis=1)
    if points.shape[1] == 2:
        return points
    if good.sum() < 4:
        raise InputError("z", expected="at least 4 finite rows to embed", got=str(good.sum()))
    from sklearn.decomposition import PCA  # slow to import, and needed here only
    from sklearn.manifold import TSNE

    if method == "pca":
        estimator = PCA(2, svd_solver="full")
    else:
        estimator = TSNE(2, perplexity=min(30.0, (good.sum() - 1) / 3), init="pca", random_state=seed)
    out = np.full((len(points), 2), np.nan)
    out[good] = estimator.fit_transform(points[good])
    return out


@styled
def embedding(
    points: Values,
    labels: Values | Sequence[str] | None = None,
    *,
    axis_names: tuple[str, str] = ("z[0]", "z[1]"),
    label_name: str = "class",
) -> Figure:
    """Scatter points (N, 2) coloured by `labels` (N,).

    Whole numbers and words are classes (a colour and a marker each, up to 50; up to 15 are also named at their median);
    other numbers get a colour bar.
    """
    xy = canvas.as_matrix(points, "points")
    if xy.shape[1] != 2:
        raise InputError("points", expected="shape (N, 2)", got=str(xy.shape), hint="plots.embed")
    figure = Figure((WIDTH, 4.4), layout="constrained")
    ax = figure.subplots()
    size = float(np.clip(6000 / len(xy), 6, 30))
    if labels is None:
        ax.scatter(xy[:, 0], xy[:, 1], s=size, color=canvas.BLUE, alpha=0.7, linewidths=0)
    else:
        given = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
        if given.shape != (len(xy),):
            raise InputError("labels", expected=f"shape ({len(xy)},)", got=str(given.shape))
        if given.dtype.kind == "f" or len(np.unique(given)) > len(PALETTE) * len(MARKERS):
            numbers = canvas.as_array(given, "labels")
            dots = ax.scatter(xy[:, 0], xy[:, 1], s=size, c=numbers, cmap="viridis", linewidths=0, plotnonfinite=True)
            figure.colorbar(dots, ax=ax, label=label_name)
            canvas.flag_not_finite(ax, "labels", numbers)
        else:
            _scatter_classes(ax, xy, given, size)
            if len(ax.collections) <= FEW:
                figure.legend(loc="outside right upper", title=label_name, markerscale=1.5)
            else:
                figure.set_figheight(5.6)
                figure.legend(loc="outside lower center", title=label_name, ncols=9, fontsize=7, columnspacing=1)
    canvas.flag_not_finite(ax, "points", xy)
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1])
    ax.set_aspect("equal", adjustable="datalim")
    return figure


def _scatter_classes(ax: Axes, xy: Floats, labels: NDArray, size: float) -> None:
    outline = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    classes = np.unique(labels)
    for index, value in enumerate(classes):
        own = xy[labels == value]
        marker = MARKERS[(index + index // len(PALETTE)) % len(MARKERS)]  # no two classes share colour and marker
        colour = PALETTE[index % len(PALETTE)]
        ax.scatter(
            own[:, 0], own[:, 1], s=size, color=colour, marker=marker, alpha=0.75, linewidths=0, label=str(value)
        )
        finite = own[np.isfinite(own).all(axis=1)]
        if len(finite) and len(classes) <= FEW:
            centre = np.median(finite, axis=0)
            ax.annotate(str(value), centre, ha="center", va="center", weight="bold", path_effects=outline)


# ------------------------------------------------------------------------------------------------ likelihoods


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
def posterior_comparison(exact: Values, guide: Values) -> Figure:
    """Scatter the guide's means of z (N, L) against the exact posterior means (N, L), and the difference below."""
    x = canvas.as_array(exact, "exact")
    y = canvas.same_shape(x, guide, "guide")
    return canvas.against(x, y, ("exact posterior mean of z (prior s.d.)", "guide's mean of z"), "means")


# ---------------------------------------------------------------------------------------- data other than images


@styled
def marginals(
    data: Values,
    samples: Values,
    *,
    names: Sequence[str] = (),
    labels: tuple[str, str] = ("data", "model"),
    most: int = 9,
) -> Figure:
    """Compare the densities of each feature in data (N, D) and samples (M, D), for the `most` first features."""
    x, generated = _features(data, samples)
    canvas.expect_count("names", names, x.shape[1])
    shown = min(most, x.shape[1])
    across = min(3, shown)
    down = math.ceil(shown / across)
    figure = Figure((WIDTH, 0.6 + (2.6 if down == 1 else 1.6 * down)), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for feature, ax in enumerate(grid.ravel()):
        if feature >= shown:
            ax.set_axis_off()
            continue
        pair = {labels[0]: x[:, feature], labels[1]: generated[:, feature]}
        canvas.histograms(ax, pair, density=True)
        ax.set_xlabel(names[feature] if names else f"x[{feature}]")
        for label, values in pair.items():
            canvas.flag_not_finite(ax, label, values)
    for ax in grid[:, 0]:
        ax.set_ylabel("density")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@styled
def feature_scatter(
    data: Values, samples: Values, *, dims: tuple[int, int] = (0, 1), names: tuple[str, str] | None = None
) -> Figure:
    """Scatter two features of data (N, D) and of samples (M, D) drawn from the model."""
    x, generated = _features(data, samples)
    if not all(0 <= dim < x.shape[1] for dim in dims):
        raise InputError("dims", expected=f"two numbers from 0 to {x.shape[1] - 1}", got=str(dims))
    figure = Figure((WIDTH, 4.2), layout="constrained")
    ax = figure.subplots()
    for array, label, colour, marker in ((x, "data", canvas.BLUE, "o"), (generated, "model", canvas.ORANGE, "x")):
        chosen = array[:, list(dims)]
        ax.scatter(
            chosen[:, 0], chosen[:, 1], s=14, color=colour, marker=marker, alpha=0.6, linewidths=0.8, label=label
        )
        canvas.flag_not_finite(ax, f"points of {label}", chosen)
    ax.set(xlabel=names[0] if names else f"x[{dims[0]}]", ylabel=names[1] if names else f"x[{dims[1]}]")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@styled
def feature_reconstructions(x: Values, x_hat: Values) -> Figure:
    """Scatter reconstructions x_hat (N, D) against data x (N, D), all features together, and the difference below."""
    original = canvas.as_array(x, "x")
    rebuilt = canvas.same_shape(original, x_hat, "x_hat")
    return canvas.against(original, rebuilt, ("x (units of the data)", "reconstruction"), "values")


def _features(data: Values, samples: Values) -> tuple[Floats, Floats]:
    x, generated = canvas.as_matrix(data, "data"), canvas.as_matrix(samples, "samples")
    if x.shape[1] != generated.shape[1]:
        raise InputError("samples", expected=f"{x.shape[1]} features, as in data", got=str(generated.shape[1]))
    return x, generated
