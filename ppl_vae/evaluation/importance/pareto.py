"""The shape k of a generalised Pareto distribution, fitted to the largest of K importance weights.

Of weights w, the t = min(K / 5, 3 sqrt(K)) largest lie above the cutoff u, and n of them strictly (Vehtari, Simpson,
Gelman, Yao & Gabry 2024, section 4):

    y_i = w_i - u ~ GPD(sigma, k),   theta = k / sigma,   k(theta) = 1/n sum_i log (1 + theta y_i)

Zhang and Stephens (2009) take the mean of theta under its posterior, on a grid of m = 30 + floor(sqrt(n)) values,

    theta_j = (sqrt(m / (j - 1/2)) - 1) / (3 y_(n/4)) - 1 / y_(n),   j = 1 … m
    log l(theta) = n (log (theta / k(theta)) - k(theta) - 1)

and k is k(theta) there, shrunk towards 1/2 with the weight of ten draws: (n k + 10 / 2) / (n + 10). Below 0.7 an
estimate can be trusted; above 1 the weights have no mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError

#: The fewest weights that are fitted.
SHORTEST_TAIL = 5

#: Numbers that are processed at once: 4 MiB.
NUMBERS_AT_ONCE = 2**19

_FLOAT64 = torch.finfo(torch.float64)


def tail_length(num_particles: int) -> int:
    """Return how many of K log weights form their tail: t = ceil(min(K / 5, 3 sqrt(K))).

    Raises
    ------
    InputError
        If K < 1.
    """
    if num_particles < 1:
        raise InputError("num_particles", expected="at least 1", got=str(num_particles))
    return math.ceil(min(num_particles / 5, 3 * math.sqrt(num_particles)))


def pareto_k(tails: Tensor, num_particles: int) -> Tensor:
    """Estimate the Pareto shape k of each datum's importance weights from its largest log weights.

    Parameters
    ----------
    tails : Tensor (N, T)
        The T largest log weights of each datum, in any order and up to a constant per datum (nats). The tail and the
        cutoff below it must be there: T >= min(K, tail_length(K) + 1).
    num_particles : int
        K, the number of log weights of which these are the largest.

    Returns
    -------
    Tensor (N,)
        k, float64. ``inf`` where there is no tail to fit: K < 21, fewer than five log weights above the cutoff (all of
        them equal, say, which is harmless), no finite log weight. ``nan`` where a log weight is NaN or +inf.

    Raises
    ------
    InputError
        If K < 1, or `tails` is not a matrix, or T is too small.
    """
    length = tail_length(num_particles)
    required = min(num_particles, length + 1)
    if tails.dim() != 2 or tails.shape[1] < required:
        raise InputError("tails", expected=f"shape (N, T) with T >= {required}", got=f"shape {tuple(tails.shape)}")
    rows = max(1, NUMBERS_AT_ONCE // ((length + 1) * grid_size(length)))
    return torch.cat([_fit(some, length) for some in tails.split(rows)])


def _fit(tails: Tensor, length: int) -> Tensor:
    ascending = tails.double().sort(1).values[:, -length - 1 :]
    peak = ascending[:, -1:]  # NaN if any log weight is
    relative = ascending - peak
    cutoff = relative[:, :1].clamp_min(math.log(_FLOAT64.tiny))
    above = relative > cutoff
    y = torch.where(above, relative.exp() - cutoff.exp(), 0.0)
    n = above.sum(1, keepdim=True)

    quartile = y.gather(1, y.shape[1] - n + (n + 2) // 4 - 1)
    m = 30 + n.double().sqrt().floor()
    theta = theta_grid(quartile, y[:, -1:], m, grid_size(length))
    k = torch.log1p(theta.unsqueeze(2) * y.unsqueeze(1)).sum(2) / n
    beyond = torch.arange(theta.shape[1], device=tails.device) >= m
    posterior = (n * ((theta / k).log() - k - 1)).masked_fill(beyond, -torch.inf).softmax(1)
    kept = (
        posterior >= 10 * _FLOAT64.eps
    )  # the largest theta are huge: posterior mass that is only rounding must not count
    posterior, theta = torch.where(kept, posterior, 0.0), torch.where(kept, theta, 0.0)
    mean = (posterior * theta).sum(1, keepdim=True) / posterior.sum(1, keepdim=True).clamp_min(_FLOAT64.tiny)
    k = (torch.log1p(mean * y).sum(1, keepdim=True) + 10 / 2) / (n + 10)
    return torch.where(peak < torch.inf, torch.where(n >= SHORTEST_TAIL, k, torch.inf), torch.nan)[:, 0]


def grid_size(length: int) -> int:
    """Return m, the number of values of theta for a tail of that length."""
    return 30 + math.isqrt(length)


def theta_grid(quartile: Tensor, largest: Tensor, m: Tensor | int, size: int) -> Tensor:
    """Return the grid of theta of Zhang and Stephens (2009), (N, `size`), descending.

    Parameters
    ----------
    quartile, largest : Tensor (N, 1)
        y_(n/4) and y_(n) of each datum.
    m : int or Tensor (N, 1)
        The number of values that the grid of each datum is spread for.
    size : int
        How many of them are returned, the first ones.
    """
    index = torch.arange(size, dtype=largest.dtype, device=largest.device)
    return (torch.sqrt(m / (index + 0.5)) - 1) / (3 * quartile) - 1 / largest
