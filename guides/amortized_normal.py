"""The encoder half of a variational autoencoder (Kingma & Welling 2014, eq. 9 and appendix F).

q(z|x) = N(m(x), C(x)),   (m, C) = encoder(x)
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
from ppl_vae.core.shapes import as_shape, batch_size, check_event, check_last_dimension
from ppl_vae.nn.mlp import MLP

COVARIANCES = ("diagonal", "full", "isotropic")


@configurable
class AmortizedNormal(PyroModule):
    """A Normal whose mean and covariance a network reads off the datum.

    Diagonal: C = diag(exp(2 h)), h (L,) (Burda et al. 2016); isotropic: C = exp(2 h) I, h scalar; full: C = T T', T
    lower triangular, its diagonal an exponential (Kingma & Welling 2019, section 2.5.1).

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    latent_dim : int
        L.
    hidden, activation
        Of the default encoder, an `MLP`.
    covariance : {"diagonal", "isotropic", "full"}
        The kind of C.
    encoder : Module, optional
        Maps x, flattened to (..., D), to (..., `outputs`).

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
        covariance: str = "diagonal",
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.x_shape = as_shape("x_shape", x_shape)
        self.latent_dim = integer_at_least("latent_dim", latent_dim, 1)
        outputs = self.outputs(self.latent_dim, covariance)
        self.covariance = covariance
        self.encoder = MLP(math.prod(self.x_shape), outputs, hidden, activation) if encoder is None else encoder

    @staticmethod
    def outputs(latent_dim: int, covariance: str = "diagonal") -> int:
        """Return how many numbers an encoder has to put out: the mean's and the covariance's."""
        one_of("covariance", covariance, COVARIANCES)
        latent_dim = integer_at_least("latent_dim", latent_dim, 1)
        spread = {"diagonal": latent_dim, "isotropic": 1, "full": latent_dim * (latent_dim + 1) // 2}
        return latent_dim + spread[covariance]

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z given `x` (B, *x_shape), and return it, (..., B, L)."""
        if x is None:
            raise InputError("guide", expected="an observation x", got="None", hint="guide(x=x)")
        with pyro.plate("data", batch_size(x, self.x_shape, size), dim=-1):
            return pyro.sample("z", self.posterior(x))

    def posterior(self, x: Tensor) -> Any:
        """Return q(z|x) for x (..., *x_shape): batch shape (...), event shape (L,)."""
        check_event("x", x, self.x_shape)
        return self.of_network(self.encoder(x.flatten(-len(self.x_shape))))

    def of_network(self, parameters: Tensor) -> Any:
        """Return N(m, C) for the output (..., `outputs`) of a network: batch shape (...), event shape (L,)."""
        check_last_dimension("output of the encoder", parameters, self.outputs(self.latent_dim, self.covariance))
        loc, spread = parameters[..., : self.latent_dim], parameters[..., self.latent_dim :]
        if self.covariance == "full":
            return dist.MultivariateNormal(loc, scale_tril=lower_triangle(spread, self.latent_dim))
        return dist.Normal(loc, spread.exp()).to_event(1)


def lower_triangle(entries: Tensor, L: int) -> Tensor:
    """Return T (..., L, L), lower triangular with a positive diagonal, from L (L + 1) / 2 free `entries`.

    The entries after the first L, then all of them backwards, fill a square row by row; its lower half holds each entry
    once. So T comes from copies alone, with no gather, whose backward pass would be slow.
    """
    square = torch.cat((entries[..., L:], entries.flip(-1)), -1).unflatten(-1, (L, L))
    diagonal = square.diagonal(dim1=-2, dim2=-1)
    return square.tril(-1) + diagonal.exp().diag_embed()
