"""Real data in units of their own: each coordinate less its mean over the training data, by its standard deviation.

    x' = (x - m) / s,   log p(x) = log p(x') - sum_d log s_d

Networks, priors and learned noise scales start out for numbers of order one.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

from torch import Tensor

from ppl_vae.core.errors import InputError
from ppl_vae.data.spec import Spec

LARGE = 10.0  # root mean square of a coordinate, from which on its units are said to matter


def fitted(spec: Spec, train: Tensor) -> Spec:
    """Return `spec` with the means and standard deviations of the training data (N, *x_shape).

    A coordinate that never varies keeps a scale of 1.
    """
    rows = train.double().flatten(1)
    mean, deviation = rows.mean(0), rows.std(0, unbiased=False)
    constant = deviation <= 1e-12 * mean.abs()
    deviation = deviation.masked_fill(constant, 1.0)
    return as_fitted(spec, replace(spec, shift=tuple(mean.tolist()), scale=tuple(deviation.tolist())))


def as_fitted(spec: Spec, other: Spec) -> Spec:
    """Return `spec` of standardised data, by the means and deviations of `other`, a run's, say.

    Raises
    ------
    InputError
        If `other` is not of standardised data, or of another shape or other columns.
    """
    if other.shift is None or other.scale is None:
        raise InputError(
            "standardise", expected="a Spec of standardised data", got=f"that of {other.name!r}, which is not"
        )
    same_columns(spec, other)
    if other.x_shape != spec.x_shape:
        raise InputError(
            "x", expected=f"shape (N, {', '.join(map(str, other.x_shape))}), as standardised", got=f"{spec.x_shape}"
        )
    same_columns(spec, other)
    name = spec.name if spec.name.endswith(" standardised") else f"{spec.name} standardised"
    return replace(spec, name=name, support="real", levels=None, shift=other.shift, scale=other.scale)


def same_columns(spec: Spec, other: Spec) -> None:
    """Raise unless the columns have the names and the order of those of `other`, as far as both have names."""
    if spec.columns is None or other.columns is None or spec.columns == other.columns:
        return
    place = next((i for i, (a, b) in enumerate(zip(spec.columns, other.columns, strict=False)) if a != b), None)
    if place is None:
        expected, got = f"{len(other.columns)}, as at the fit", str(len(spec.columns))
    else:
        expected = f"{other.columns[place]!r} in place {place + 1}, as at the fit"
        got = repr(spec.columns[place])
    raise InputError("columns", expected=expected, got=got, hint="the columns of the fit, in their order")


def warn_of_scale(spec: Spec, train: Tensor) -> None:
    """Warn, in one line, of real data with a coordinate whose root mean square is above `LARGE`."""
    rows = train.double().flatten(1)
    size = rows.square().mean(0).sqrt()
    if spec.support != "real" or not bool((size > LARGE).any()):
        return
    place = int(size.argmax())
    name = spec.columns[place] if spec.columns else f"x[{place}]"
    mean, deviation = rows[:, place].mean(), rows[:, place].std(unbiased=False)
    large = f"{int((size > LARGE).sum())} of {len(size)} coordinates are large"
    warnings.warn(
        f"x: expected coordinates of order one, which networks and noise scales start out for; got {name} with mean "
        f"{mean:.3g} and standard deviation {deviation:.3g} ({large}); try standardise=True",
        stacklevel=3,
    )
