"""Pairs whose exact posterior is known, with a guide that is not it."""

from __future__ import annotations

import torch

from ppl_vae import Pair
from ppl_vae.guides import LinearGaussian
from ppl_vae.models import PPCA

F64 = torch.float64


def linear_gaussian(seed, x_dim, latent_dim, num_rows, scale=1.0):
    """A random model, draws from it, and its exact posterior as a guide."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=F64)

    model, guide = PPCA(x_dim, latent_dim).to(F64), LinearGaussian(x_dim, latent_dim).to(F64)
    W, b, s = normal(x_dim, latent_dim) / latent_dim**0.5, normal(x_dim), torch.tensor(scale, dtype=F64)
    model.set_parameters(W, b, s)
    x = normal(num_rows, latent_dim) @ W.T + b + s * normal(num_rows, x_dim)
    covariance = torch.linalg.inv(torch.eye(latent_dim, dtype=F64) + W.T @ W / s**2)
    gain = covariance @ W.T / s**2
    return Pair(model, guide), x, (gain, -gain @ b, covariance), normal


def imperfect(seed):
    """A pair whose guide is wider than the posterior and beside it."""
    mine, x, (gain, offset, covariance), normal = linear_gaussian(seed, x_dim=6, latent_dim=3, num_rows=4)
    root = torch.linalg.cholesky(covariance)
    mine.guide.set_posterior(gain + 0.03 * normal(3, 6), offset + 0.3 * root @ normal(3), 1.5 * covariance)
    return mine, x
