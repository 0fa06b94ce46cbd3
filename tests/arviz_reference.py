"""Pareto k of whole sets of log weights by ArviZ itself, whichever of its interfaces is installed."""

import arviz
import torch


def pareto_k(log_weights):
    """Return k of each column of `log_weights` (K, B)."""
    rows = log_weights.T.double().numpy()
    if hasattr(arviz, "psislw"):
        return torch.from_numpy(arviz.psislw(rows)[1])
    from arviz_stats.base import array_stats

    return torch.as_tensor(array_stats.psislw(-rows)[1])
