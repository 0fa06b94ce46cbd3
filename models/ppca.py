"""Probabilistic PCA and factor analysis (Tipping & Bishop 1999, eqs. 1 to 3; Rubin & Thayer 1982).

p(z) = N(0, I_L),   p(x|z) = N(W z + b, S^2),   S = s I (PPCA) or diag(s_1, ..., s_D) (factor analysis)
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae import exact
from ppl_vae.core.checks import integer_at_least, one_of
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import check_last_dimension, copy_into
from ppl_vae.nn import StandardNormal, data_plate


@configurable
class PPCA(PyroModule):
    """Linear-Gaussian latent variable model, with log p(x) and p(z|x) in closed form.

    Parameters
    ----------
    x_dim, latent_dim, noise : int, int, {"isotropic", "diagonal"}
        D; L; one s for all coordinates (PPCA), or one each (factor analysis).

    Attributes
    ----------
    weight, bias, log_scale : Parameter
        W (D, L), drawn at the start, its columns of about unit length; b (D,) and log s, () or (D,), zero.

    Raises
    ------
    InputError
        For an invalid size or noise; when called, for an x of another shape.
    """

    def __init__(self, x_dim: int, latent_dim: int, noise: str = "isotropic") -> None:
        super().__init__()
        self.x_dim, self.latent_dim = integer_at_least("x_dim", x_dim, 1), integer_at_least("latent_dim", latent_dim, 1)
        self.noise = one_of("noise", noise, ("isotropic", "diagonal"))
        self.weight = nn.Parameter(torch.randn(self.x_dim, self.latent_dim) / self.x_dim**0.5)
        self.bias = nn.Parameter(torch.zeros(self.x_dim))
        self.log_scale = nn.Parameter(torch.zeros(() if noise == "isotropic" else (self.x_dim,)))
        self.prior = StandardNormal(latent_dim)

    @classmethod
    def maximum_likelihood(cls, x: Tensor, latent_dim: int) -> "PPCA":
        """Return the PPCA of isotropic noise that maximises the likelihood of `x` (N, D), in closed form."""
        W, b, s = exact.ppca_maximum_likelihood(x, latent_dim)
        return cls(x.shape[-1], latent_dim).to(W).set_parameters(W, b, s)

    def set_parameters(self, weight: Tensor, bias: Tensor, scale: Tensor) -> "PPCA":
        """Copy W (D, L), b (D,) and s (() or (D,)), which is above zero, into the parameters; return itself."""
        if not bool((scale > 0).all()):
            raise InputError("scale", expected="standard deviations > 0", got=f"{float(scale.min()):g}")
        copy_into(weight=(weight, self.weight), bias=(bias, self.bias), scale=(scale.log(), self.log_scale))
        return self

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z, then x given z, or observe `x` (B, D); with `size` = B instead, generate. Returns x (B, D)."""
        with data_plate(size, x=(x, (self.x_dim,))):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decode(z), obs=x)

    def decode(self, z: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for z (..., L): batch shape (...), event shape (D,)."""
        mean = nn.functional.linear(check_last_dimension("z", z, self.latent_dim), self.weight, self.bias)
        return dist.Normal(mean, self.log_scale.exp()).to_event(1)

    def log_marginal(self, x: Tensor) -> Tensor:
        """Return log p(x) = log N(x; b, WW' + S^2) of `x` (B, D): shape (B,), nats; computed in float64."""
        parameters = self.weight.double(), self.bias.double(), self.log_scale.double().exp()
        return exact.log_marginal(x.double(), *parameters).to(x.dtype)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (B, L) and covariance (L, L) of p(z|x) for `x` (B, D)."""
        return exact.posterior(x, self.weight, self.bias, self.log_scale.exp())
