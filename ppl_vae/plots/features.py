"""Data other than images: marginals, pairs of coordinates, reconstructions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from ppl_vae.core.errors import InputError
from ppl_vae.plots import canvas
from ppl_vae.plots.canvas import WIDTH, Floats, Values, styled


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
