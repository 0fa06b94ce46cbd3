"""Pairs for annealing: many models at once, poor guides, positive latents."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule

from ppl_vae import Pair, exact
from ppl_vae.guides import LinearGaussian
from ppl_vae.models import PPCA

F64 = torch.float64


class ManyLinear(PyroModule):
    """A linear Gaussian model of its own for every datum: p(z) = N(0, I), p(x|z) = N(W_n z + b_n, s_n^2)."""

    def forward(self, W, b, s, x=None):
        with pyro.plate("data", len(W), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(W.shape[-1]).to(W), 1.0).to_event(1))
            loc = (W * z.unsqueeze(-2)).sum(-1) + b
            return pyro.sample("x", dist.Normal(loc, s.unsqueeze(-1)).to_event(1), obs=x)


class ManyPoor(PyroModule):
    """A guide that is wider than the posterior and beside it."""

    def forward(self, W, b, s, x=None):
        mean, covariance = exact.posterior(x.unsqueeze(-2), W, b, s)
        with pyro.plate("data", len(W), dim=-1):
            loc = mean.squeeze(-2) + 0.5 * covariance.diagonal(dim1=-2, dim2=-1).sqrt()
            pyro.sample("z", dist.MultivariateNormal(loc, covariance_matrix=2.0 * covariance))


def many_linear(models, each, D=3, L=2, seed=0):
    """`models` random models and `each` data of every one of them, and log p(x)."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(models, 1, *shape, generator=random, dtype=F64).expand(-1, each, *shape).flatten(0, 1)

    W, b, s = normal(D, L), normal(D), (0.3 * normal()).exp()
    z = torch.randn(models * each, L, 1, generator=random, dtype=F64)
    noise = torch.randn(models * each, D, generator=random, dtype=F64)
    x = (W @ z).squeeze(-1) + b + s.unsqueeze(-1) * noise
    return {"W": W, "b": b, "s": s, "x": x}, exact.log_marginal(x.unsqueeze(-2), W, b, s).squeeze(-1)


def linear_pair(seed=0, D=6, L=3, N=30, scale=0.3):
    """A PPCA, its exact posterior in the guide, and draws from it."""
    random = torch.Generator().manual_seed(seed)
    W = torch.randn(D, L, generator=random, dtype=F64)
    model, guide = PPCA(D, L).to(F64), LinearGaussian(D, L).to(F64)
    model.set_parameters(W, torch.ones(D, dtype=F64), torch.tensor(scale, dtype=F64))
    x = torch.randn(N, L, generator=random, dtype=F64) @ W.T + 1 + scale * torch.randn(N, D, generator=random).to(F64)
    covariance = torch.linalg.inv(torch.eye(L, dtype=F64) + W.T @ W / scale**2)
    gain = covariance @ W.T / scale**2
    guide.set_posterior(gain, -gain.sum(1), covariance)
    return Pair(model, guide), {"x": x}, (gain, -gain.sum(1), covariance)


class Rates(PyroModule):
    """r ~ Gamma(3, 2), s ~ LogNormal(0, 1/2), x ~ N(r, s^2): two positive latents, one without an event."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            r = pyro.sample("r", dist.Gamma(torch.tensor([3.0]), torch.tensor([2.0])).to_event(1))
            s = pyro.sample("s", dist.LogNormal(torch.tensor(0.0), 0.5))
            return pyro.sample("x", dist.Normal(r, s.unsqueeze(-1)).to_event(1), obs=x)


class RatesGuide(PyroModule):
    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("s", dist.LogNormal(torch.tensor(0.2), 0.6))
            pyro.sample("r", dist.LogNormal(x.clamp_min(0.3).log(), 0.5).to_event(1))
