"""Whether what is drawn spreads as widely as the truth: coverage of central intervals.

An interval reaches from the m-th smallest of K draws to the m-th largest, m = (K + 1)(1 - a)/2. Where truth and draws
have one law, all K + 1 ranks of the truth among the draws are equally likely, and it holds the truth with probability

    (K + 1 - 2m)/(K + 1) = a,     exactly, however few the draws
"""

from __future__ import annotations

from torch import Tensor

from ppl_vae.errors import InputError


def interval_coverage(draws: Tensor, true: Tensor, level: float = 0.9) -> Tensor:
    """Return the share of data whose true value lies in the central interval of its draws, by coordinate, (*shape).

    Parameters
    ----------
    draws : Tensor (K, N, *shape)
        K draws for each datum, so many that m is a whole number: 19, 39, 59, … for a level of 0.9.
    true : Tensor (N, *shape)
        What they are draws of.
    level : float
        a, between 0 and 1.

    Raises
    ------
    InputError
        If the shapes do not fit, `level` is not between 0 and 1, or m is no whole number.
    """
    if draws.shape[1:] != true.shape or true.dim() < 1:
        got = f"{tuple(draws.shape)} and {tuple(true.shape)}"
        raise InputError("draws and true", expected="shapes (K, N, …) and (N, …)", got=got)
    if not 0 < level < 1:
        raise InputError("level", expected="a number between 0 and 1", got=repr(level))
    K = len(draws)
    m = round((K + 1) * (1 - level) / 2)
    if m < 1 or abs(m - (K + 1) * (1 - level) / 2) > 1e-6:
        raise InputError("draws", expected="as many that (K + 1)(1 - level)/2 is a whole number", got=f"K = {K}")
    below = (draws < true).sum(0)
    return ((below >= m) & (below <= K - m)).double().mean(0)
