"""What every figure shares: the style, the checks on what it is given, and the pieces that several are made of.

A value that is not finite is never dropped in silence: `flag_not_finite` marks it where it has a place and says in
red how many there are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ppl_vae.core.errors import InputError

Values = ArrayLike | Tensor
Floats = NDArray[np.float64]
_Drawing = TypeVar("_Drawing", bound=Callable[..., Any])

#: Ten colours that stay apart under the common colour-vision deficiencies (Petroff 2021, arXiv:2107.02270).
PALETTE = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
BLUE, ORANGE, RED, GREY = "#3f90da", "#e76300", "#bd1f01", "#717581"
#: For a few lines or histograms that are compared with each other.
SERIES = (BLUE, ORANGE, "#832db6", GREY, "#a96b59", RED)
WIDTH = 5.4  # inches; small, so that text stays legible when a phone scales the picture down

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "#e6e6e6",
    "image.interpolation": "nearest",
    "legend.fontsize": 9,
    "legend.frameon": False,
}


def styled(drawing: _Drawing) -> _Drawing:
    """Run `drawing` under the house style and leave the caller's rcParams as they were."""

    @functools.wraps(drawing)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with style.context(["default", STYLE]):
            return drawing(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------ checks


def as_array(values: Values | Sequence[Any], name: str) -> Floats:
    """Return `values` as a non-empty float64 array, None becoming NaN.

    Raises
    ------
    InputError
        If they are no numbers, or there are none.
    """
    try:
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(name, expected="an array or tensor of numbers", got=str(error)) from error
    if array.size == 0:
        raise InputError(name, expected="at least one value", got=f"an empty array of shape {array.shape}")
    return array


def as_matrix(values: Values, name: str) -> Floats:
    """Return `values` as a float64 matrix (rows, columns); later dimensions are flattened into columns."""
    array = as_array(values, name)
    if array.ndim < 2:
        raise InputError(name, expected="a matrix with a row per datum", got=f"shape {array.shape}")
    return array.reshape(len(array), -1)


def same_shape(first: Floats, second: Values, name: str) -> Floats:
    """Return `second` as an array after checking that its shape is that of `first`."""
    array = as_array(second, name)
    if array.shape != first.shape:
        raise InputError(name, expected=f"shape {first.shape}", got=str(array.shape))
    return array


def expect_count(name: str, given: Sequence[Any] | NDArray[Any], count: int) -> None:
    """Raise `InputError` unless `given` is empty or has `count` entries."""
    if len(given) not in (0, count):
        raise InputError(name, expected=f"{count} of them", got=str(len(given)))


# ------------------------------------------------------------------------------------------------ pieces


def flag(ax: Axes, text: str) -> None:
    """Add a line in red above `ax`."""
    before = ax.get_title(loc="left")
    ax.set_title(f"{before}\n{text}".strip(), loc="left", color=RED, fontsize=8)


def flag_not_finite(ax: Axes, what: str, values: Floats, *, at: Floats | None = None) -> None:
    """Say above `ax` how many rows of `values` are not finite, with a red cross below each place in `at`."""
    bad = np.any(~np.isfinite(values.reshape(len(values), -1)), axis=1)
    if not bad.any():
        return
    flag(ax, f"{bad.sum()} of {len(bad)} {what} not finite")
    if at is not None:
        ax.plot(
            at[bad], np.full(bad.sum(), 0.02), "x", color=RED, markersize=5,
            transform=ax.get_xaxis_transform(), label="not finite", clip_on=False,
        )  # fmt: skip


def histograms(ax: Axes, series: Mapping[str, Floats], *, density: bool = False) -> None:
    """Draw the histograms of several arrays over common bins; the keys are the labels."""
    finite = {label: values[np.isfinite(values)] for label, values in series.items()}
    together = np.concatenate(list(finite.values()))
    bins = int(np.clip(2 * math.sqrt(min(map(len, finite.values()))), 8, 40))
    edges = np.histogram_bin_edges(together, bins)
    if len(together) and np.ptp(together) >= 2 and (together == together.round()).all():
        width = math.ceil((np.ptp(together) + 1) / bins)  # as many whole numbers in each, or bars differ by that alone
        edges = np.arange(together.min() - 0.5, together.max() + width + 0.5, width)
    for colour, (label, values) in zip(SERIES, finite.items(), strict=False):
        heights = np.histogram(values, edges, density=density and len(values) > 0)[0]
        ax.stairs(heights, edges, fill=True, color=colour, alpha=0.25)
        ax.stairs(heights, edges, color=colour, linewidth=1.4, label=label)


def against(x: Floats, y: Floats, names: tuple[str, str], what: str, unit: str = "") -> Figure:
    """Scatter y against x with the identity, and y - x below, where a difference too small for the first shows."""
    x, y = x.ravel(), y.ravel()
    figure = Figure((WIDTH, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    dots = {"s": float(np.clip(3000 / len(x), 3, 20)), "color": BLUE, "alpha": 0.6, "linewidths": 0}
    top.scatter(x, y, **dots)
    difference = y - x
    bottom.scatter(x, difference, **dots)
    finite = np.concatenate([x[np.isfinite(x)], y[np.isfinite(y)]])
    if len(finite):
        ends = [finite.min(), finite.max()]
        top.plot(ends, ends, color="black", linewidth=1, linestyle="--", label="equal")
        top.legend(loc="upper left")
    bottom.axhline(0, color="black", linewidth=1, linestyle="--")
    flag_not_finite(top, what, np.stack([x, y], axis=1), at=np.where(np.isfinite(x), x, y))
    mean, largest = difference.mean(), np.abs(difference).max()
    bottom.set_title(f"difference: mean {signed(mean)}{unit}, largest {largest:.3g}{unit}", loc="right", fontsize=9)
    top.set_ylabel(names[1])
    bottom.set(xlabel=names[0], ylabel="difference")
    return figure


def signed(value: float) -> str:
    """Return `value` with its sign, three digits and a true minus."""
    return f"{value:+.3g}".replace("-", "−")
