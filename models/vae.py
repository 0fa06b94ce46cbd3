"""The decoder half of a variational autoencoder (Kingma & Welling 2014, section 3).

p(z) = N(0, I_L),   p(x|z) = likelihood(decoder(z))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.config import configurable
from ppl_vae.core.shapes import as_shape, batch_size, check_last_dimension
from ppl_vae.nn import likelihoods
from ppl_vae.nn.likelihoods import Likelihood
from ppl_vae.nn.mlp import MLP


@configurable
class VAE(PyroModule):
    """Deep latent Gaussian model with one layer of latents.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    latent_dim : int
        L.
    hidden, activation
        Of the default decoder, an `MLP`.
    likelihood : Likelihood or str
        p(x|z), or its name in `likelihoods.NAMES`.
    decoder : Module, optional
        Maps z (..., L) to (..., P*D), laid out (P, D), with P the likelihood's `parameters_per_dim`.

    Raises
    ------
    InputError
        If a size is below one or a name unknown; when called, if x is not (B, *x_shape), or the decoder's output not
        (..., P*D).
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dim: int,
        *,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        likelihood: Likelihood | str = "bernoulli",
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.x_shape = as_shape("x_shape", x_shape)
        self.latent_dim = integer_at_least("latent_dim", latent_dim, 1)
        self.likelihood = likelihoods.of(likelihood)
        outputs = self.likelihood.parameters_per_dim * math.prod(self.x_shape)
        self.decoder = MLP(self.latent_dim, outputs, hidden, activation) if decoder is None else decoder
        self.register_buffer("prior_loc", torch.zeros(self.latent_dim))
        self.register_buffer("prior_scale", torch.ones(self.latent_dim))

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z, then x given z, or observe `x` (B, *x_shape); with `size` = B instead, generate. Returns x."""
        with pyro.plate("data", batch_size(x, self.x_shape, size), dim=-1):
            z = pyro.sample("z", dist.Normal(self.prior_loc, self.prior_scale).to_event(1))
            return pyro.sample("x", self.decode(z), obs=x)

    def decode(self, z: Tensor) -> Any:
        """Return p(x|z) for z (..., L): batch shape (...), event shape x_shape."""
        check_last_dimension("z", z, self.latent_dim)
        return self.likelihood.of_network(self.decoder(z), self.x_shape)
