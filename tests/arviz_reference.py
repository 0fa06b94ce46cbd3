"""Pareto k of log weights by ArviZ itself, whichever of its interfaces is installed."""

import math

import arviz
import numpy as np
import torch

LEGACY = hasattr(arviz, "psislw")  # ArviZ 0.2x; 1.x is split in parts


def k_of(log_weights):
    """Return ArviZ's k for all K log weights of one datum, a vector.

    ArviZ 1.x rounds the length of the tail down, not up, and counts ties with the cutoff to the tail. So it is given
    the tail as ArviZ 0.2x takes it, of n weights above the cutoff, and copies of the cutoff up to 5 n in all: of 5 n
    weights, of which r are independent, it fits a fifth where 5 n r <= 225. It gives NaN where a quarter of the tail is
    one value.
    """
    with np.errstate(all="ignore"):
        if LEGACY:
            return float(arviz.psislw(np.array(log_weights, dtype=np.float64))[1])
        from arviz_stats.base import array_stats

        ascending = np.sort(log_weights.astype(np.float64) - log_weights.max())
        length = math.ceil(min(len(ascending) / 5, 3 * math.sqrt(len(ascending))))
        if length < 5 or not np.isfinite(ascending[-1]):
            return math.inf
        cutoff = max(ascending[-length - 1], math.log(np.finfo(np.float64).tiny))
        tail = ascending[ascending > cutoff]
        if len(tail) < 5:
            return math.inf
        size = 5 * len(tail)
        padded = np.concatenate([np.full(size - len(tail), cutoff), tail])
        return float(array_stats.psislw(-padded, r_eff=1 / size)[1])


def pareto_k(log_weights):
    """Return k of each column of `log_weights` (K, B)."""
    return torch.tensor([k_of(column) for column in log_weights.T.double().numpy()], dtype=torch.float64)
