"""The latent space in the plane."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import InputError
from ppl_vae.plots import canvas
from ppl_vae.plots.canvas import PALETTE, WIDTH, Floats, Values, styled

METHODS = ("pca", "tsne")
MARKERS = ("o", "^", "s", "D", "v")
FEW = 15  # classes that have room for their names among the points, and for a legend beside them


def embed(z: Values, *, method: str = "pca", seed: int = 0) -> Floats:
    """Return points (N, 2) for latent means z (N, L): z itself for L = 2, else its PCA, or its t-SNE (``"tsne"``).

    Rows that are not finite come back as NaN, so that `embedding` counts them.
    """
    one_of("embedding method", method, METHODS)
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


@styled
def embeddings(
    panels: Mapping[str, Values], labels: Values | Sequence[str], *, columns: int = 2, label_name: str = "class"
) -> Figure:
    """Scatter several sets of points (N, 2) of the same data side by side, titled by their names and coloured alike.

    `labels` (N,) are classes, at most 50. Axes have no ticks: what compares is which classes lie apart.
    """
    if not panels or columns < 1:
        raise InputError("panels", expected="at least one, in at least one column", got=f"{len(panels)}, {columns}")
    points = {name: canvas.as_matrix(value, name) for name, value in panels.items()}
    given = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    across = min(columns, len(points))
    down = math.ceil(len(points) / across)
    figure = Figure((WIDTH * across * 0.75 + 0.8, 3.8 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for ax in grid.flat[len(points) :]:
        ax.set_axis_off()
    for ax, (name, xy) in zip(grid.flat, points.items(), strict=False):
        if xy.shape != (len(given), 2):
            raise InputError(name, expected=f"shape ({len(given)}, 2), a row per label", got=str(xy.shape))
        _scatter_classes(ax, xy, given, float(np.clip(6000 / len(xy), 3, 30)))
        ax.set(title=name, xticks=[], yticks=[])
        canvas.flag_not_finite(ax, "points", xy)
        ax.set_aspect("equal", adjustable="datalim")
    entries = grid.flat[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", title=label_name, markerscale=2, ncols=10, columnspacing=1)
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
