"""A linear-Gaussian guide, whose family contains the exact posterior of PPCA and factor analysis.

q(z|x) = N(A x + a, T T'),   T lower triangular with a positive diagonal, shared by all data
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import check_last_dimension, check_shapes, copy_into
from ppl_vae.nn import data_plate, observed


@configurable
class LinearGaussian(PyroModule):
    """A Normal with mean affine in x and one full covariance.

    Parameters
    ----------
    x_dim, latent_dim : int
        D and L.

    Attributes
    ----------
    gain, offset, tril : Parameter
        A (L, D), its rows of about unit length at the start, drawn from torch's global generator; a (L,), zero; and
        (L, L), zero, whose lower triangle with the diagonal exponentiated is T (the upper triangle is not used). The
        names differ from all models': in a plain `pyro.infer.SVI` script equal names are one parameter.

    Raises
    ------
    InputError
        If a size is below one; when called, if x is not (..., D).
    """

    def __init__(self, x_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.x_dim = integer_at_least("x_dim", x_dim, 1)
        self.latent_dim = integer_at_least("latent_dim", latent_dim, 1)
        self.gain = nn.Parameter(torch.randn(self.latent_dim, self.x_dim) / self.x_dim**0.5)
        self.offset = nn.Parameter(torch.zeros(self.latent_dim))
        self.tril = nn.Parameter(torch.zeros(self.latent_dim, self.latent_dim))

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z given `x` (B, D), and return it, (..., B, L)."""
        x = observed(x)
        with data_plate(size, x=(x, (self.x_dim,))):
            return pyro.sample("z", self.posterior(x))

    def posterior(self, x: Tensor) -> Any:
        """Return q(z|x) for x (..., D): batch shape (...), event shape (L,)."""
        check_last_dimension("x", x, self.x_dim)
        tril = self.tril
        scale_tril = tril.tril(-1) + tril.diagonal().exp().diag_embed()
        return dist.MultivariateNormal(F.linear(x, self.gain, self.offset), scale_tril=scale_tril)

    def set_posterior(self, gain: Tensor, offset: Tensor, covariance: Tensor) -> None:
        """Copy A (L, D), a (L,) and S (L, L) into the parameters, as for a posterior known in closed form.

        Raises
        ------
        InputError
            If a shape differs or S is not positive definite.
        """
        check_shapes(gain=(gain, self.gain), offset=(offset, self.offset), covariance=(covariance, self.tril))
        root, info = torch.linalg.cholesky_ex(covariance)
        if int(info) != 0:
            raise InputError("covariance", expected="a positive definite matrix", got="one that is not")
        tril = root.tril(-1) + root.diagonal().log().diag_embed()
        copy_into(gain=(gain, self.gain), offset=(offset, self.offset), covariance=(tril, self.tril))
