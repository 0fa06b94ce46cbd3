"""The decoder half of a conditional variational autoencoder (Sohn et al. 2015, section 4.1; Kingma et al. 2014, eq. 2).

p(z|c) = N(0, I_L)  or  N(m(c), diag(s(c))^2),   (m, log s) = prior_network(c)
p(x|z, c) = likelihood(decoder(z, c))
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

from ppl_vae.core.checks import integer_at_least, one_of
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_shape, check_last_dimension
from ppl_vae.nn import likelihoods
from ppl_vae.nn.conditioning import Condition
from ppl_vae.nn.likelihoods import Likelihood
from ppl_vae.nn.mlp import MLP

PRIORS = ("standard", "conditional")


@configurable
class CVAE(PyroModule):
    """Deep latent Gaussian model of x given a condition c: a label, a vector of attributes, or an image.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    latent_dim : int
        L.
    c_shape : int or tuple of int, optional
        Shape of one condition made of numbers.
    num_classes : int, optional
        C, for conditions that are labels 0..C-1. Exactly one of `c_shape` and `num_classes` is given.
    prior : {"standard", "conditional"}
        Whether z has the same prior for all c (Kingma et al. 2014), or one learned from c (Sohn et al. 2015).
    hidden, activation
        Of the default decoder and prior network, each an `MLP`; no hidden layer makes all maps affine.
    likelihood : Likelihood or str
        p(x|z, c), or its name in `likelihoods.NAMES`.
    decoder : Module, optional
        Maps z beside c, (..., L + C), to (..., P*D), laid out (P, D), with P the likelihood's `parameters_per_dim`.
    prior_network : Module, optional
        Maps c, (..., C), to (..., 2 L): m, then log s. C is here the number of classes, or of numbers in `c_shape`.

    Raises
    ------
    InputError
        If a size is below one or a name unknown; when called, if x is not (B, *x_shape), c is missing, of another kind
        or length, or a label out of range, or a network's output has another size.
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dim: int,
        *,
        c_shape: int | Sequence[int] | None = None,
        num_classes: int | None = None,
        prior: str = "standard",
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        likelihood: Likelihood | str = "bernoulli",
        decoder: nn.Module | None = None,
        prior_network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.x_shape = as_shape("x_shape", x_shape)
        self.latent_dim = integer_at_least("latent_dim", latent_dim, 1)
        self.condition = Condition(c_shape, num_classes)
        one_of("prior", prior, PRIORS)
        self.prior_kind = prior
        self.likelihood = likelihoods.of(likelihood)
        outputs = self.likelihood.parameters_per_dim * math.prod(self.x_shape)
        inputs = self.latent_dim + self.condition.size
        self.decoder = MLP(inputs, outputs, hidden, activation) if decoder is None else decoder
        if prior == "conditional":
            if prior_network is None:
                prior_network = MLP(self.condition.size, 2 * self.latent_dim, hidden, activation)
            self.prior_network = prior_network
        elif prior_network is not None:
            raise InputError("prior_network", expected="prior='conditional'", got=f"prior={prior!r}")
        else:
            self.register_buffer("prior_loc", torch.zeros(self.latent_dim))
            self.register_buffer("prior_scale", torch.ones(self.latent_dim))

    def forward(self, x: Tensor | None = None, c: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z, then x, given c (B, *c_shape) or labels c (B,); or observe `x` (B, *x_shape). Returns x."""
        with pyro.plate("data", self.condition.batch_size(c, x, self.x_shape, size), dim=-1):
            z = pyro.sample("z", self.prior(c))
            return pyro.sample("x", self.decode(z, c), obs=x)

    def prior(self, c: Tensor | None) -> Any:
        """Return p(z|c) for c (..., *c_shape): event shape (L,), batch shape (...), or () where it is standard."""
        if self.prior_kind == "standard":
            return dist.Normal(self.prior_loc, self.prior_scale).to_event(1)
        parameters = self.prior_network(self.condition(c))
        check_last_dimension("output of the prior network", parameters, 2 * self.latent_dim)
        loc, log_scale = parameters.chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def decode(self, z: Tensor, c: Tensor | None) -> Any:
        """Return p(x|z, c) for z (..., B, L) and c (B, *c_shape): batch shape (..., B), event shape x_shape."""
        check_last_dimension("z", z, self.latent_dim)
        return self.likelihood.of_network(self.condition.through(self.decoder, z, c), self.x_shape)

    def check_values(self, c: Tensor | None = None, **_: Tensor) -> None:
        """Raise `InputError` for a label out of range, whichever row of the data has it."""
        self.condition.check_values(c)
