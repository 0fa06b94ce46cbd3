"""The decoder half of a variational autoencoder of counts gathered over a known exposure (Lopez et al. 2018).

p(z) = N(0, I_L),   p(x|z, e) = likelihood(decoder(z) + log e)      of mean e exp(decoder(z)), for an exposure e > 0
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
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_shape, check_last_dimension
from ppl_vae.nn import exposure as exposures
from ppl_vae.nn import likelihoods
from ppl_vae.nn.likelihoods import Likelihood, NegativeBinomial, Poisson
from ppl_vae.nn.mlp import MLP


@configurable
class CountVAE(PyroModule):
    """Deep latent Gaussian model of counts, given the exposure of each datum.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    latent_dim : int
        L.
    hidden, activation
        Of the default decoder, an `MLP`.
    likelihood : Likelihood or str
        p(x|z, e): a `Poisson` or `NegativeBinomial`, or the name of one.
    decoder : Module, optional
        Maps z (..., L) to (..., P*D), laid out (P, D), the first D of them logarithms of rates per unit of exposure.

    Raises
    ------
    InputError
        If a size is below one, or the likelihood is none of counts; when called, if x is not (B, *x_shape), or the
        exposure missing or not (B,), or not above 0.
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dim: int,
        *,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        likelihood: Likelihood | str = "negative-binomial",
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.x_shape = as_shape("x_shape", x_shape)
        self.latent_dim = integer_at_least("latent_dim", latent_dim, 1)
        self.likelihood = likelihoods.of(likelihood)
        if not isinstance(self.likelihood, NegativeBinomial | Poisson):
            got, names = type(self.likelihood).__name__, ", ".join(likelihoods.COUNTS)
            raise InputError("likelihood", expected=f"one of counts: {names}", got=got, hint="a VAE for other data")
        outputs = self.likelihood.parameters_per_dim * math.prod(self.x_shape)
        self.decoder = MLP(self.latent_dim, outputs, hidden, activation) if decoder is None else decoder
        self.register_buffer("prior_loc", torch.zeros(self.latent_dim))
        self.register_buffer("prior_scale", torch.ones(self.latent_dim))

    def forward(self, x: Tensor | None = None, exposure: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z, then x given z and `exposure` (B,), or observe `x` (B, *x_shape). Returns x."""
        with pyro.plate("data", exposures.rows(exposure, x, self.x_shape, size), dim=-1):
            z = pyro.sample("z", dist.Normal(self.prior_loc, self.prior_scale).to_event(1))
            return pyro.sample("x", self.decode(z, exposure), obs=x)

    def decode(self, z: Tensor, exposure: Tensor | None) -> Any:
        """Return p(x|z, e) for z (..., B, L) and e (B,): batch shape (..., B), event shape x_shape."""
        check_last_dimension("z", z, self.latent_dim)
        output = exposures.times(exposure, self.decoder(z), math.prod(self.x_shape))
        return self.likelihood.of_network(output, self.x_shape)

    def check_values(self, exposure: Tensor | None = None, **_: Tensor) -> None:
        """Raise `InputError` for an exposure that is not above 0, whichever row of the data has it."""
        exposures.check_values(exposure)
