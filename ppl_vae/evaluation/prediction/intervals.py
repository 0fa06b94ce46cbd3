"""Coverage of central intervals: whether draws are as dispersed as the true values.

An interval reaches from the m-th smallest of K draws to the m-th largest, m = (K + 1)(1 - a)/2. Where truth and draws
have one distribution, the truth's rank among the draws, 0, ..., K, with ties broken at random, is uniform: it is from m
to K - m with probability

    (K + 1 - 2m)/(K + 1) = a,     exactly, however few the draws, whatever the distribution

With b draws below and t draws equal to the true value, its rank is one of b, ..., b + t; the share of these from m to
K - m is counted, which is the expectation over random tie-breaking. Without ties it is 1 inside the interval and 0
outside. Where an end of the interval is tied it is in between: intervals of counts contain more than a of them.
"""

from __future__ import annotations

from torch import Tensor

from ppl_vae.core.errors import InputError, shown


def interval_coverage(draws: Tensor, true: Tensor, level: float = 0.9) -> Tensor:
    """Return the share of data whose true value lies in the central interval of its draws, by coordinate, (*shape).

    Its expectation is `level` where truth and draws have one distribution, counts and others with ties included; a true
    value that equals draws at an end of the interval counts in part. See the equations of this file.

    Parameters
    ----------
    draws : Tensor (K, N, *shape)
        K draws for each datum, so many that m is a whole number: 19, 39, 59, … for a level of 0.9.
    true : Tensor (N, *shape)
        The true values.
    level : float
        a, between 0 and 1.

    Raises
    ------
    InputError
        If the shapes do not fit, a value is NaN, `level` is not between 0 and 1, or m is no whole number.
    """
    if draws.shape[1:] != true.shape or true.dim() < 1:
        got = f"{tuple(draws.shape)} and {tuple(true.shape)}"
        raise InputError("draws and true", expected="shapes (K, N, …) and (N, …)", got=got)
    if not 0 < level < 1:
        raise InputError("level", expected="a number between 0 and 1", got=shown(level))
    for name, values in (("draws", draws), ("true", true)):
        if (bad := int(values.isnan().sum())) > 0:
            raise InputError(name, expected="values that can be ranked", got=f"{bad} of {values.numel()} NaN")
    K = len(draws)
    m = round((K + 1) * (1 - level) / 2)
    if m < 1 or abs(m - (K + 1) * (1 - level) / 2) > 1e-6:
        raise InputError("draws", expected="as many that (K + 1)(1 - level)/2 is a whole number", got=f"K = {K}")
    below, ties = (draws < true).sum(0), (draws == true).sum(0)
    inside = ((below + ties).clamp_max(K - m) - below.clamp_min(m) + 1).clamp_min(0)
    return (inside / (ties + 1).double()).mean(0)
