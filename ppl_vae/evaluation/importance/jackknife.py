"""The jackknife of log p^(x) = log (1/K) sum_k w_k, which removes the first order of the logarithm's bias.

    L_J = K L_K - (K - 1) (1/K) sum_i L_{-i},   L_{-i} = log (1/(K - 1)) sum_{k != i} w_k

(Nowozin 2018, eq. 14, order m = 1.) Its bias is O(1/K^2) where that of L_K is O(1/K); it is not a bound.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def jackknife(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return L_J and its jackknife variance (K - 1)/K sum_i (L_{-i} - mean L_{-i})^2, (B,) each.

    Parameters
    ----------
    log_weights : Tensor (K, B)
        All log weights of B data, nats, in float64; K >= 2.
    """
    K = len(log_weights)
    total = log_weights.logsumexp(0)
    # log(1 - w_i / sum w) of each, from which L_{-i} = L_K + log(K / (K - 1)) + it. The largest weight may be nearly
    # all of the sum, where the difference would cancel: there the others are summed directly.
    peak, at = log_weights.max(0)
    rest = log_weights.scatter(0, at[None], -torch.inf).logsumexp(0)
    left_out = torch.log1p(-(log_weights - total).exp()).scatter(0, at[None], (rest - total)[None])
    value = total - math.log(K) - (K - 1) * (math.log(K / (K - 1)) + left_out.mean(0))
    value = torch.where(torch.isneginf(peak), peak, value)  # no weight above zero
    return value, (K - 1) * left_out.var(0, correction=0)
