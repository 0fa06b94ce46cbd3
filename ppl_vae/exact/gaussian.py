"""Kullback-Leibler divergence between two Gaussians, in closed form.

KL(q || p) = 1/2 [tr(P^-1 Q) + (m_p - m_q)' P^-1 (m_p - m_q) - L + log det P - log det Q]
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError
from ppl_vae.exact.checks import check_finite, check_positive, cholesky


def gaussian_kl(mean_q: Tensor, covariance_q: Tensor, mean_p: Tensor, covariance_p: Tensor) -> Tensor:
    """Return KL(N(mean_q, covariance_q) || N(mean_p, covariance_p)) in nats; see the equation of this file.

    Parameters
    ----------
    mean_q, mean_p : Tensor
        Shape (..., L).
    covariance_q, covariance_p : Tensor
        Shape (..., L, L), symmetric positive definite. Leading dimensions of all four broadcast.

    Returns
    -------
    Tensor
        Shape (...), nats.

    Raises
    ------
    InputError
        If sizes differ, a value is not finite, or a covariance not symmetric and positive definite.
    """
    check_finite(mean_q=mean_q, mean_p=mean_p)
    root_q, root_p = cholesky("covariance_q", covariance_q), cholesky("covariance_p", covariance_p)
    _check_sizes(mean_q=mean_q, covariance_q=covariance_q, mean_p=mean_p, covariance_p=covariance_p)
    spread = torch.linalg.solve_triangular(root_p, root_q, upper=False).square().sum((-2, -1))
    shift = torch.linalg.solve_triangular(root_p, (mean_p - mean_q).unsqueeze(-1), upper=False).square().sum((-2, -1))
    log_ratio = 2 * (_log_diagonal(root_p) - _log_diagonal(root_q))
    return 0.5 * (spread + shift - mean_q.shape[-1] + log_ratio)


def diagonal_gaussian_kl(mean_q: Tensor, scale_q: Tensor, mean_p: Tensor, scale_p: Tensor) -> Tensor:
    """Return KL(N(mean_q, diag scale_q^2) || N(mean_p, diag scale_p^2)) in nats.

    sum_l [(scale_q^2 + (mean_q - mean_p)^2) / (2 scale_p^2) - 1/2 + log(scale_p / scale_q)]

    Parameters
    ----------
    mean_q, scale_q, mean_p, scale_p : Tensor
        Shape (..., L), scales are standard deviations; leading dimensions broadcast.

    Returns
    -------
    Tensor
        Shape (...), nats.

    Raises
    ------
    InputError
        If sizes differ, a value is not finite, or a scale not positive.
    """
    check_finite(mean_q=mean_q, scale_q=scale_q, mean_p=mean_p, scale_p=scale_p)
    check_positive(scale_q=scale_q, scale_p=scale_p)
    _check_sizes(mean_q=mean_q, scale_q=scale_q, mean_p=mean_p, scale_p=scale_p)
    ratio, shift = scale_q / scale_p, (mean_q - mean_p) / scale_p
    return (0.5 * (ratio.square() + shift.square() - 1) - ratio.log()).sum(-1)


def _check_sizes(**tensors: Tensor) -> None:
    """Broadcasting a last dimension of 1 would count L wrongly, so that all must agree."""
    sizes = {name: value.shape[-1] for name, value in tensors.items()}
    if len(set(sizes.values())) > 1:
        got = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError("Gaussians", expected="one size L of the last dimension", got=got)


def _log_diagonal(root: Tensor) -> Tensor:
    return root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
