"""The encoder half of a conditional variational autoencoder (Sohn et al. 2015, section 4.1; Kingma et al. 2014, eq. 4).

q(z|x, c) = N(m(x, c), C(x, c)),   (m, C) = encoder(x, c)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_shape, check_event
from ppl_vae.guides.amortized_normal import AmortizedNormal
from ppl_vae.nn.conditioning import Condition


@configurable
class ConditionalNormal(PyroModule):
    """A Normal whose mean and covariance a network reads off the datum and its condition.

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
    hidden, activation, covariance
        As for `AmortizedNormal`, whose datum is here x beside c.
    encoder : Module, optional
        Maps x, flattened, beside c, (..., D + C), to (..., `AmortizedNormal.outputs`). C is here the number of classes,
        or of numbers in `c_shape`.

    Raises
    ------
    InputError
        If a size is below one or a name unknown; when called, if x is not (..., *x_shape), c is missing, of another
        kind or length, or a label out of range, or the encoder's output has another size.
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dim: int,
        *,
        c_shape: int | Sequence[int] | None = None,
        num_classes: int | None = None,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        covariance: str = "diagonal",
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.x_shape = as_shape("x_shape", x_shape)
        self.condition = Condition(c_shape, num_classes)
        inputs = math.prod(self.x_shape) + self.condition.size
        self.normal = AmortizedNormal(
            inputs, latent_dim, hidden=hidden, activation=activation, covariance=covariance, encoder=encoder
        )
        self.latent_dim = self.normal.latent_dim

    def forward(self, x: Tensor | None = None, c: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z given `x` (B, *x_shape) and c (B, *c_shape) or labels c (B,), and return it, (..., B, L)."""
        if x is None:
            raise InputError("guide", expected="an observation x", got="None", hint="guide(x=x, c=c)")
        with pyro.plate("data", self.condition.batch_size(c, x, self.x_shape, size), dim=-1):
            return pyro.sample("z", self.posterior(x, c))

    def posterior(self, x: Tensor, c: Tensor | None) -> Any:
        """Return q(z|x, c) for x (..., B, *x_shape) and c (B, *c_shape): batch shape (..., B), event shape (L,)."""
        check_event("x", x, self.x_shape)
        flat = x.flatten(-len(self.x_shape))
        return self.normal.of_network(self.condition.through(self.normal.encoder, flat, c))

    def check_values(self, c: Tensor | None = None, **_: Tensor) -> None:
        """Raise `InputError` for a label out of range, whichever row of the data has it."""
        self.condition.check_values(c)
