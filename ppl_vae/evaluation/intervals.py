"""Whether what is drawn spreads as widely as the truth: coverage of central intervals.

    coverage(a) = 1/(N D) sum_nd 1[Q_nd((1 - a)/2) <= y_nd <= Q_nd((1 + a)/2)]

Q_nd are quantiles of K draws of coordinate d given what is known of datum n. Where truth and draws have one law, it
is a.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.errors import InputError


def interval_coverage(draws: Tensor, true: Tensor, level: float = 0.9) -> Tensor:
    """Return the share of data whose true value lies in the central interval of its draws, by coordinate, (*shape).

    Parameters
    ----------
    draws : Tensor (K, N, *shape)
        K draws for each datum.
    true : Tensor (N, *shape)
        What they are draws of.
    level : float
        Share a of the draws that an interval holds, between 0 and 1.

    Raises
    ------
    InputError
        If the shapes do not fit, there is one draw only, or `level` is not between 0 and 1.
    """
    if draws.shape[1:] != true.shape or len(draws) < 2 or true.dim() < 1:
        got = f"{tuple(draws.shape)} and {tuple(true.shape)}"
        raise InputError("draws and true", expected="shapes (K, N, …) and (N, …), K >= 2", got=got)
    if not 0 < level < 1:
        raise InputError("level", expected="a number between 0 and 1", got=repr(level))
    ends = draws.new_tensor([(1 - level) / 2, (1 + level) / 2])
    low, high = torch.quantile(draws, ends, dim=0)
    return ((low <= true) & (true <= high)).double().mean(0)
