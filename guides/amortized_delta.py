"""The encoder half of an autoencoder: all of q(z|x) at one point.

q(z|x) = Delta(z - encoder(x))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_shape, batch_size, check_event, check_last_dimension
from ppl_vae.nn.mlp import MLP


@configurable
class AmortizedDelta(PyroModule):
    """A point that a network reads off the datum: `Autoencoder`'s z, or the most probable z under a model with a prior.

    A point has no density, so there are no importance weights; its log probability counts as 0.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    latent_dim : int
        L.
    hidden, activation
        Of the default encoder, an `MLP`.
    encoder : Module, optional
        Maps x, flattened to (..., D), to (..., L).

    Raises
    ------
    InputError
        If a size is below one or a name unknown; when called, if x is not (..., *x_shape) or the encoder's output has
        another size.
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dim: int,
        *,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.x_shape = as_shape("x_shape", x_shape)
        self.latent_dim = integer_at_least("latent_dim", latent_dim, 1)
        self.encoder = MLP(math.prod(self.x_shape), self.latent_dim, hidden, activation) if encoder is None else encoder

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Put z at the encoder's output for `x` (B, *x_shape), and return it, (..., B, L)."""
        if x is None:
            raise InputError("guide", expected="an observation x", got="None", hint="guide(x=x)")
        with pyro.plate("data", batch_size(x, self.x_shape, size), dim=-1):
            return pyro.sample("z", self.posterior(x))

    def posterior(self, x: Tensor) -> Any:
        """Return q(z|x) for x (..., *x_shape): batch shape (...), event shape (L,)."""
        check_event("x", x, self.x_shape)
        z = self.encoder(x.flatten(-len(self.x_shape)))
        check_last_dimension("output of the encoder", z, self.latent_dim)
        return dist.Delta(z, event_dim=1)
