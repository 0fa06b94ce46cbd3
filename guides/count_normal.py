"""The encoder half of a variational autoencoder of counts gathered over a known exposure (Lopez et al. 2018).

q(z|x, e) = N(m, C),   (m, C) = encoder(log(1 + x), log e)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_shape, check_event
from ppl_vae.guides.amortized_normal import AmortizedNormal
from ppl_vae.nn import exposure as exposures


@configurable
class CountNormal(PyroModule):
    """A Normal whose mean and covariance a network reads off logarithms of the counts, beside that of the exposure.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    latent_dim : int
        L.
    hidden, activation, covariance
        As for `AmortizedNormal`.
    encoder : Module, optional
        Maps (..., D + 1) to (..., `AmortizedNormal.outputs`).

    Raises
    ------
    InputError
        If a size is below one or a name unknown; when called, if x is not (..., *x_shape), or the exposure missing or
        not (B,), or the encoder's output has another size.
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dim: int,
        *,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        covariance: str = "diagonal",
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.x_shape = as_shape("x_shape", x_shape)
        self.normal = AmortizedNormal(
            math.prod(self.x_shape) + 1,
            latent_dim,
            hidden=hidden,
            activation=activation,
            covariance=covariance,
            encoder=encoder,
        )
        self.latent_dim = self.normal.latent_dim

    def forward(self, x: Tensor | None = None, exposure: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z given `x` (B, *x_shape) and `exposure` (B,), and return it, (..., B, L)."""
        if x is None:
            raise InputError("guide", expected="an observation x", got="None", hint="guide(x=x, exposure=exposure)")
        with pyro.plate("data", exposures.rows(exposure, x, self.x_shape, size), dim=-1):
            return pyro.sample("z", self.posterior(x, exposure))

    def posterior(self, x: Tensor, exposure: Tensor | None) -> Any:
        """Return q(z|x, e) for x (..., B, *x_shape) and e (B,): batch shape (..., B), event shape (L,)."""
        check_event("x", x, self.x_shape)
        flat = x.flatten(-len(self.x_shape)).log1p()
        size = exposures.given_for(exposure).log().unsqueeze(-1).expand(*flat.shape[:-1], 1)
        return self.normal.of_network(self.normal.encoder(torch.cat((flat, size), -1)))
