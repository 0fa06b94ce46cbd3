"""The decoder half of an autoencoder (Hinton & Salakhutdinov 2006), as the limit of a VAE without noise and without KL.

p(x|z) = N(decoder(z), I/2), no p(z):   -log p(x|z) = |x - decoder(z)|^2 + (D/2) log pi
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
from ppl_vae.nn.mlp import MLP


@configurable
class Autoencoder(PyroModule):
    """Decoder to be trained by squared error, with the guide `AmortizedDelta`.

    It is no probabilistic model of x: the density of z is masked, so p(x, z) is none, log p(x) does not exist, and
    `log_likelihood` refuses it. Minus the ELBO is the squared error, summed over x, plus (D/2) log pi. Called with
    `size`, it decodes z ~ N(0, I), which nothing has fitted to the encoder's z: such x need not look like data.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    latent_dim : int
        L.
    hidden, activation
        Of the default decoder, an `MLP`.
    decoder : Module, optional
        Maps z (..., L) to (..., D).

    Raises
    ------
    InputError
        If a size is below one or a name unknown; when called, if x is not (B, *x_shape), or the decoder's output not
        (..., D).
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dim: int,
        *,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.x_shape = as_shape("x_shape", x_shape)
        self.latent_dim = integer_at_least("latent_dim", latent_dim, 1)
        self.likelihood = likelihoods.Normal(0.5**0.5)
        self.decoder = MLP(self.latent_dim, math.prod(self.x_shape), hidden, activation) if decoder is None else decoder
        self.register_buffer("start_loc", torch.zeros(self.latent_dim))
        self.register_buffer("start_scale", torch.ones(self.latent_dim))

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Decode z and observe `x` (B, *x_shape); with `size` = B instead, decode N(0, I) and add noise. Returns x."""
        with pyro.plate("data", batch_size(x, self.x_shape, size), dim=-1):
            z = pyro.sample("z", dist.Normal(self.start_loc, self.start_scale).to_event(1).mask(False))
            return pyro.sample("x", self.decode(z), obs=x)

    def decode(self, z: Tensor) -> Any:
        """Return N(decoder(z), I/2) for z (..., L): batch shape (...), event shape x_shape."""
        check_last_dimension("z", z, self.latent_dim)
        return self.likelihood.of_network(self.decoder(z), self.x_shape)
