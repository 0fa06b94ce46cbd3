"""Pareto k and inference data: the only module that touches ArviZ, whose interface changed between 0.23 and 1.x.

Pareto smoothed importance sampling (Vehtari, Simpson, Gelman, Yao & Gabry 2024, section 4) fits a generalised Pareto
distribution to the t = min(K / 5, 3 sqrt(K)) largest of K importance weights. Its shape k says how far an estimate
can be trusted: below 0.7 it can, above 1 the weights have no mean. Only those t weights and the one below them count,
so an estimator whose memory is bounded keeps the tail alone.

NumPy in, NumPy out; ArviZ is imported on first use, because that takes longer than a command's `--help` should.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import InputError

#: The groups of an inference data object, and how many leading dimensions (chain, draw) the variables of each have.
GROUPS = {
    "posterior": 2,
    "posterior_predictive": 2,
    "prior": 2,
    "prior_predictive": 2,
    "log_likelihood": 2,
    "observed_data": 0,
}

_SHORTEST_TAIL = 5  # ArviZ fits none shorter
_NUMBERS_AT_ONCE = 2**23  # handed to ArviZ in one call: 64 MiB


def tail_length(num_particles: int) -> int:
    """Return how many of K log weights form their tail: t = ceil(min(K / 5, 3 sqrt(K))).

    Raises
    ------
    InputError
        If K < 1.
    """
    if num_particles < 1:
        raise InputError("num_particles", expected="at least 1", got=str(num_particles))
    return math.ceil(_tail(num_particles))


def pareto_k(tails: ArrayLike, num_particles: int) -> NDArray[np.float64]:
    """Estimate the Pareto shape k of each datum's importance weights from its largest log weights.

    The result is what ArviZ's own ``psislw`` returns for all K log weights.

    Parameters
    ----------
    tails : array_like of shape (N, T)
        The T largest log weights of each datum, in any order and up to a constant per datum (nats). The tail and the
        cutoff below it must be there: T >= min(K, tail_length(K) + 1).
    num_particles : int
        K, the number of log weights of which these are the largest.

    Returns
    -------
    ndarray of shape (N,)
        k. ArviZ's word for "there is no tail to fit" is ``inf``: K < 21 (ArviZ 1.x: K < 25), fewer than five log
        weights above the cutoff (all of them equal, say, which is harmless), no finite log weight. ``nan`` stands
        where a log weight is NaN or +inf, and where ArviZ 1.x gives it: ties over a quarter of the tail, and in some
        of its releases K < 30.

    Raises
    ------
    InputError
        If K < 1, or `tails` is not a matrix, or T is too small.
    """
    weights = np.asarray(tails, dtype=np.float64)
    required = min(num_particles, tail_length(num_particles) + 1)
    if weights.ndim != 2 or weights.shape[1] < required:
        raise InputError("tails", expected=f"shape (N, T) with T >= {required}", got=f"shape {weights.shape}")

    k = np.full(len(weights), np.inf)
    length = _fitted_tail(num_particles)
    if length >= _SHORTEST_TAIL:
        largest = np.sort(weights, axis=1)[:, -length - 1 :]
        (rows,) = np.nonzero(np.isfinite(largest[:, -1]))
        for some in np.array_split(rows, math.ceil(rows.size * 5 * length / _NUMBERS_AT_ONCE) or 1):
            k[some] = _fit(largest[some])
    k[np.isnan(weights).any(axis=1) | np.isposinf(weights).any(axis=1)] = np.nan
    return k


def inference_data(
    groups: Mapping[str, Mapping[str, ArrayLike]],
    *,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, ArrayLike] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Gather arrays into the object that ArviZ's functions take.

    Parameters
    ----------
    groups : mapping of group name (see `GROUPS`) to mapping of variable name to array
        Arrays have shape (chain, draw, ...), those of ``observed_data`` have no sample dimensions.
    dims : mapping of variable name to dimension names, optional
        Names of the dimensions after (chain, draw), the same in all groups; in ``log_likelihood`` a variable may lack
        the last ones, its event dimensions.
    coords : mapping of dimension name to labels, optional
    attrs : mapping, optional
        Attributes of the whole, such as how the data were binarised.

    Returns
    -------
    arviz.InferenceData (ArviZ 0.23) or xarray.DataTree (ArviZ 1.x)

    Raises
    ------
    InputError
        If a group is unknown, or an array's shape does not fit its dimensions.
    """
    import arviz

    arrays: dict[str, Any] = {
        name: {key: np.asarray(value) for key, value in group.items()} for name, group in groups.items()
    }
    _check_dimensions(arrays, dims or {})
    labels: dict[str, Any] = {
        "dims": {name: list(names) for name, names in (dims or {}).items()},
        "coords": {name: np.asarray(values) for name, values in (coords or {}).items()},
    }
    if hasattr(arviz, "psislw"):  # 0.23
        return arviz.from_dict(**arrays, **labels, attrs=dict(attrs or {}))
    return arviz.from_dict(arrays, **labels, attrs={"/": dict(attrs or {})})


def _check_dimensions(arrays: Mapping[str, Mapping[str, np.ndarray]], dims: Mapping[str, Sequence[str]]) -> None:
    for group, variables in arrays.items():
        one_of("inference data group", group, GROUPS)
        sample = ["chain", "draw"][: GROUPS[group]]
        for name, values in variables.items():
            named = [*sample, *dims.get(name, [])]
            too_few = values.ndim < (len(sample) if group == "log_likelihood" else len(named))
            if too_few or (name in dims and values.ndim > len(named)):
                expected = f"dimensions ({', '.join(named) if name in dims else 'chain, draw, …'})"
                raise InputError(f"{group} {name!r}", expected=expected, got=f"shape {values.shape}")


def _tail(num_particles: int) -> float:
    return min(num_particles / 5, 3 * math.sqrt(num_particles))


def _fitted_tail(num_particles: int) -> int:
    """Return the length of the tail that the installed ArviZ would fit: 0.23 rounds it up, 1.x rounds it down."""
    import arviz

    return math.ceil(_tail(num_particles)) if hasattr(arviz, "psislw") else math.floor(_tail(num_particles))


def _fit(largest: NDArray[np.float64]) -> NDArray[np.float64]:
    """Let ArviZ fit all but the first column of `largest`, whose rows of t + 1 log weights ascend.

    ArviZ takes its tail length from the number of log weights M and their relative efficiency r, as
    min(M / 5, 3 sqrt(M / r)). Rows filled up to M = 5 t with copies of the cutoff, and r = 1 / M, make that t.
    """
    import arviz

    count, length = largest.shape[0], largest.shape[1] - 1
    size = 5 * length
    padded = np.concatenate([np.repeat(largest[:, :1], size - length - 1, axis=1), largest], axis=1)
    with np.errstate(all="ignore"):  # weights that underflow to 0 are expected, and so is log(0) of them
        if hasattr(arviz, "psislw"):  # 0.23
            return arviz.psislw(padded, reff=1 / size)[1]

        from arviz_stats.base import array_stats

        k = np.full(count, np.inf)
        # 1.x refuses a constant tail; and it takes log likelihoods, that is, negative log weights
        varied = largest[:, -1] - largest[:, 1] >= np.finfo(np.float64).tiny
        if varied.any():
            k[varied] = array_stats.psislw(-padded[varied], r_eff=1 / size)[1]
        return k
