"""The error of an estimate from a long tail of importance weights whose largest values were not drawn.

Where weights have a long tail, K draws seldom include the largest ones. Then the estimate is too low, and so is its
variance by the delta method, the more so the smaller K. Above the t-th largest weight u,

    w - u ~ GPD(sigma, k),   E[w] = E[min(w, u)] + t/K sigma / (1 - k),   k < 1

so uncertainty about sigma and k is uncertainty about log E[w]. Their posterior is evaluated on a grid: the grid of
Zhang and Stephens (2009) over theta = k / sigma, and one over k at each theta

    log l(theta, k) = t log (theta / k) - (1 + 1/k) sum_i log (1 + theta y_i),   y_i = w_i - u

with a prior of k that weighs as much as ten draws at 1/2, as in Vehtari et al. (2024), truncated at k = 1, above which
the mean does not exist. The hidden squared error is, by quantiles of the posterior of d = log E[w] - log p^(x),

    (median of d, where positive)^2 + (84 % quantile of d - median of d)^2

because posteriors with mass near k = 1 have no useful moments.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_vae.evaluation.importance.pareto import SHORTEST_TAIL, grid_size, theta_grid

#: The prior of k, normal: a maximum-likelihood estimate has standard deviation (1 + k) / sqrt(draws), here of ten.
PRIOR_MEAN = 0.5
PRIOR_SCALE = (1 + PRIOR_MEAN) / math.sqrt(10)

#: Values of k at each theta, between 0 and 1 where theta is positive, between -1 and 0 where it is negative.
SHAPES = 20

#: The share of a normal distribution that lies below its mean plus one standard deviation.
ONE_SIGMA = 0.8413

#: Numbers that are processed at once: 4 MiB.
NUMBERS_AT_ONCE = 2**19


def widened(tails: Tensor, num_particles: int, values: Tensor, variances: Tensor) -> Tensor:
    """Return the squared Monte Carlo error of each of N estimates, its variance increased by what its tail hides.

    Parameters
    ----------
    tails : Tensor (N, T)
        The largest log weights of each datum, in nats, in any order: a tail and the weight below it.
    num_particles : int
        K, the number of log weights of which these are the largest.
    values, variances : Tensor (N,)
        log (1/K) sum_k w_k and its variance by the delta method.

    Returns
    -------
    Tensor (N,)
        Squared nats, nowhere below `variances`; these where no tail can be fitted.
    """
    t = tails.shape[1] - 1
    if t < SHORTEST_TAIL or t >= num_particles:
        return variances
    grid = grid_size(t)
    rows = max(1, NUMBERS_AT_ONCE // (grid * max(t, SHAPES)))
    pieces = zip(tails.split(rows), values.split(rows), variances.split(rows), strict=True)
    return torch.cat([_widened(*piece, num_particles, grid) for piece in pieces])


def _widened(tails: Tensor, values: Tensor, variances: Tensor, num_particles: int, grid: int) -> Tensor:
    # Weights are relative to the estimate: the mean of the K draws is then 1.
    weights = (tails - values.unsqueeze(1)).exp().sort(1).values
    cutoff, excess = weights[:, :1], weights[:, 1:] - weights[:, :1]
    t = excess.shape[1]
    share = t / num_particles
    quartile = excess[:, int(t / 4 + 0.5) - 1, None]
    theta = theta_grid(quartile, excess[:, -1:], grid, grid)
    spread = torch.log1p(theta.unsqueeze(2) * excess.unsqueeze(1)).sum(2, keepdim=True)
    shape = (torch.arange(SHAPES, dtype=weights.dtype, device=weights.device) + 0.5) / SHAPES
    k = torch.where(theta.unsqueeze(2) > 0, shape, -shape)
    log_posterior = t * (theta.unsqueeze(2) / k).log() - (1 + 1 / k) * spread
    log_posterior -= ((k - PRIOR_MEAN) / PRIOR_SCALE) ** 2 / 2
    mean_excess = k / (theta.unsqueeze(2) * (1 - k))
    body = 1 - share * excess.mean(1)
    error = (body[:, None, None] + share * mean_excess).log()
    median, upper = _quantiles(error.flatten(1), log_posterior.flatten(1).softmax(1), (0.5, ONE_SIGMA))
    hidden = median.clamp_min(0) ** 2 + (upper - median) ** 2
    # The rest of the variance: of weights truncated at u, and of the number above it.
    rest = (variances - share * excess.var(1, correction=0) / num_particles).clamp_min(0)
    found = torch.maximum(rest + hidden, variances)
    return torch.where(torch.isfinite(found) & (cutoff[:, 0] > 0), found, variances)


def _quantiles(values: Tensor, weights: Tensor, shares: tuple[float, ...]) -> list[Tensor]:
    """Return quantiles of weighted `values` (N, M), one (N,) for each share."""
    ordered, order = values.sort(1)
    below = weights.gather(1, order).cumsum(1)
    last = values.shape[1] - 1
    return [ordered.gather(1, (below < share).sum(1, keepdim=True).clamp_max(last))[:, 0] for share in shares]
