"""Mixtures, where a discrete latent y makes p(x) a sum: of Gaussians, or of linear-Gaussian models.

    p(y) = pi_y,   p(x|y) = N(mu_y, C_y)
    p(y) = pi_y,   p(z) = N(0, I),   p(x|y, z) = N(W_y z + b_y, S_y^2)

(Bishop 2006, section 9.2; mixtures of PPCA, Tipping & Bishop 1999, "Mixtures of probabilistic principal component
analysers"; of factor analysers, Ghahramani & Hinton 1996.)

Both are `Enumeration`s over y: log p(x), p(y|x), and the bound under any q(y|x).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError
from ppl_vae.exact import linear_gaussian
from ppl_vae.exact.checks import check_probabilities
from ppl_vae.exact.enumeration import Enumeration
from ppl_vae.exact.joint import JointGaussian


def gaussians(x: Tensor, probabilities: Tensor, means: Tensor, covariances: Tensor) -> Enumeration:
    """Return log p(x, y) of a mixture of C Gaussians, in float64.

    Parameters
    ----------
    x : Tensor
        Shape (B, D).
    probabilities : Tensor
        pi, shape (C,).
    means, covariances : Tensor
        Shapes (C, D) and (C, D, D).

    Raises
    ------
    InputError
        If shapes do not fit, a value is not finite, a covariance is not positive definite, or the probabilities are
        none.
    """
    C = check_probabilities(probabilities)
    if means.dim() != 2 or len(means) != C:
        raise InputError("means", expected=f"shape ({C}, D) for {C} probabilities", got=str(tuple(means.shape)))
    components = JointGaussian({"x": means.shape[-1]}, means, covariances)
    return Enumeration(components.log_prob(x=x.unsqueeze(-2)) + probabilities.double().log())


def linear_gaussians(x: Tensor, probabilities: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Enumeration:
    """Return log p(x, y) of a mixture of PPCAs or factor analysers, z integrated out.

    p(z|x, y) of every y is `exact.posterior` of the same arguments; `latent_moments` sums them up.

    Parameters
    ----------
    x : Tensor
        Shape (B, D).
    probabilities : Tensor
        pi, shape (C,).
    weight, bias, scale : Tensor
        W (C, D, L), b (C, D), and the noise's standard deviations, (C,) or (C, D).

    Raises
    ------
    InputError
        As for `exact.log_marginal`; if the number of components differs, or the probabilities are none.
    """
    C = check_probabilities(probabilities)
    if weight.dim() != 3 or len(weight) != C:
        raise InputError("weight", expected=f"shape ({C}, D, L) for {C} probabilities", got=str(tuple(weight.shape)))
    return Enumeration(linear_gaussian.log_marginal(x, weight, bias, scale).mT + probabilities.log())


def latent_moments(
    x: Tensor, probabilities: Tensor, weight: Tensor, bias: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean (B, L) and covariance (B, L, L) of p(z|x) = sum_y p(y|x) p(z|x, y), a mixture of Gaussians.

    E[z|x] = sum_y r_y m_y,   cov[z|x] = sum_y r_y [C_y + (m_y - E)(m_y - E)'],   r_y = p(y|x)
    """
    shares = linear_gaussians(x, probabilities, weight, bias, scale).posterior  # (B, C)
    means, covariances = linear_gaussian.posterior(x, weight, bias, scale)  # (C, B, L), (C, L, L)
    mean = torch.einsum("bc,cbl->bl", shares, means)
    apart = means - mean
    between = torch.einsum("bc,cbl,cbm->blm", shares, apart, apart)
    return mean, torch.einsum("bc,clm->blm", shares, covariances) + between
