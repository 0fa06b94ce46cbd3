"""The linear-Gaussian latent variable model: marginal, posterior and bound, without a D x D matrix.

    p(z) = N(0, I_L),   p(x|z) = N(W z + b, S^2),   S = s I (PPCA) or diag(s_1, ..., s_D) (factor analysis)

With r = S^-1 (x - b) and V = S^-1 W, everything follows from the L x L matrix  P = I + V'V  (for PPCA, P = M / s^2 with
M = W'W + s^2 I of Tipping & Bishop 1999, eq. 6):

    p(z|x) = N(m, P^-1),   m = P^-1 V' r;           for PPCA, m = M^-1 W'(x - b) and P^-1 = s^2 M^-1
    -2 log p(x) = D log 2 pi + 2 log det S + log det P + |r - V m|^2 + |m|^2

The last two terms are r'(I + VV')^-1 r (Woodbury) written as a sum of squares: the usual form, r'r - r'V P^-1 V'r,
loses its digits where the noise is small.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError
from ppl_vae.exact.checks import check_finite, check_positive
from ppl_vae.exact.gaussian import gaussian_kl


def log_marginal(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    """Return log p(x) = log N(x; b, WW' + S^2) of each datum, in nats; see the equations of this file.

    Parameters
    ----------
    x : Tensor
        Shape (..., B, D).
    weight : Tensor
        W, shape (..., D, L).
    bias : Tensor
        b, shape (..., D).
    scale : Tensor
        Standard deviations of the noise: shape (...) for PPCA, (..., D) for factor analysis. Leading dimensions, those
        of a batch of models, are the same for all parameters; one scalar scale may serve all.

    Returns
    -------
    Tensor
        Shape (..., B), nats.

    Raises
    ------
    InputError
        If shapes do not fit, a value is not finite, or a scale not positive.
    """
    parts = _solve(x, weight, bias, scale)
    log_det = 2 * (parts.log_scale + parts.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)).unsqueeze(-1)
    squares = parts.misfit(parts.mean) + parts.mean.square().sum(-1)
    return -0.5 * (x.shape[-1] * math.log(2 * math.pi) + log_det + squares)


def posterior(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of p(z|x) = N(M^-1 W'(x - b), s^2 M^-1), M = W'W + s^2 I (PPCA; in general above).

    The covariance is s^2 M^-1 (Tipping & Bishop 1999, eq. 7 and the text below it); s^-2 M, which is sometimes seen
    printed, is its inverse, the precision.

    Parameters
    ----------
    x, weight, bias, scale : Tensor
        As for `log_marginal`.

    Returns
    -------
    mean : Tensor
        Shape (..., B, L).
    covariance : Tensor
        Shape (..., L, L), shared by all data.

    Raises
    ------
    InputError
        As for `log_marginal`.
    """
    parts = _solve(x, weight, bias, scale)
    return parts.mean, torch.cholesky_inverse(parts.root)


def elbo(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, mean_q: Tensor, covariance_q: Tensor) -> Tensor:
    """Return the evidence lower bound of each datum under q(z|x) = N(mean_q, covariance_q), in nats.

    E_q[log p(x|z)] - KL(q || p), where for q = N(m, C)

    -2 E_q[log p(x|z)] = D log 2 pi + 2 log det S + |r - V m|^2 + tr(V C V')

    Parameters
    ----------
    x, weight, bias, scale : Tensor
        As for `log_marginal`.
    mean_q : Tensor
        Shape (..., B, L).
    covariance_q : Tensor
        Shape (..., B, L, L), or (L, L) where all data share it.

    Returns
    -------
    Tensor
        Shape (..., B), nats; `log_marginal` minus the KL from q to the posterior.

    Raises
    ------
    InputError
        As for `log_marginal` and `gaussian_kl`.
    """
    parts = _solve(x, weight, bias, scale)
    gram = parts.weight.mT @ parts.weight  # V'V, (..., L, L)
    spread = (gram.unsqueeze(-3) * covariance_q).sum((-2, -1))
    constant = x.shape[-1] * math.log(2 * math.pi) + 2 * parts.log_scale.unsqueeze(-1)
    expected_log_likelihood = -0.5 * (constant + parts.misfit(mean_q) + spread)
    identity = torch.eye(mean_q.shape[-1], dtype=mean_q.dtype, device=mean_q.device)
    return expected_log_likelihood - gaussian_kl(mean_q, covariance_q, torch.zeros_like(mean_q), identity)


class _Solution(NamedTuple):
    residual: Tensor  # r, (..., B, D)
    weight: Tensor  # V, (..., D, L)
    root: Tensor  # Cholesky factor of P, (..., L, L)
    mean: Tensor  # m, (..., B, L)
    log_scale: Tensor  # log det S, (...)

    def misfit(self, z: Tensor) -> Tensor:
        """Return |r - V z|^2, shape (..., B)."""
        return (self.residual - z @ self.weight.mT).square().sum(-1)


def _solve(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> _Solution:
    scale = _check(x, weight, bias, scale)
    residual = (x - bias.unsqueeze(-2)) / scale.unsqueeze(-2)
    whitened = weight / scale.unsqueeze(-1)
    L = weight.shape[-1]
    # P >= I, so that its factorisation cannot fail.
    root = torch.linalg.cholesky(torch.eye(L, dtype=weight.dtype, device=weight.device) + whitened.mT @ whitened)
    mean = torch.cholesky_solve((residual @ whitened).mT, root).mT
    return _Solution(residual, whitened, root, mean, scale.log().expand(weight.shape[:-1]).sum(-1))


def _check(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    """Return `scale` with a last dimension of D or 1, after checking all four."""
    if weight.dim() < 2:
        raise InputError("weight", expected="shape (..., D, L)", got=str(tuple(weight.shape)))
    D = weight.shape[-2]
    if x.dim() < 2 or x.shape[-1] != D:
        raise InputError("x", expected=f"shape (..., B, {D}) for this weight", got=str(tuple(x.shape)))
    if bias.shape[-1:] != (D,):
        raise InputError("bias", expected=f"shape (..., {D}) for this weight", got=str(tuple(bias.shape)))
    if scale.dim() in (0, weight.dim() - 2):
        scale = scale.unsqueeze(-1)
    elif scale.dim() != weight.dim() - 1 or scale.shape[-1] not in (1, D):
        raise InputError("scale", expected=f"a scalar or shape (..., {D})", got=str(tuple(scale.shape)))
    check_finite(x=x, weight=weight, bias=bias, scale=scale)
    check_positive(scale=scale)
    return scale
