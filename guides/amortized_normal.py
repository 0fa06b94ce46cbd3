"""The encoder half of a variational autoencoder (Kingma & Welling 2014, eq. 9 and appendix F).

q(z|x) = N(m(x), C(x)),   (m, C) = encoder(x)
"""

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import NormalHead, data_plate, normal_outputs, observed


@configurable
class AmortizedNormal(PyroModule):
    """A Normal whose mean and covariance are a network's output for the datum.

    Diagonal: C = diag(exp(2 h)), h (L,) (Burda et al. 2016); isotropic: C = exp(2 h) I, h scalar; full: C = T T', T
    lower triangular, its diagonal an exponential (Kingma & Welling 2019, section 2.5.1).

    Parameters
    ----------
    x_shape, latent_dim : int or tuple of int, int
        Shape of one datum, of D numbers; L.
    hidden, activation
        Of the default encoder, an `MLP`.
    covariance : {"diagonal", "isotropic", "full"}
        The kind of C.
    encoder : Module, optional
        Maps x, flattened to (..., D), to (..., `outputs`).

    Raises
    ------
    InputError
        For an invalid size or name; when called, for another shape of x or of the output.
    """

    def __init__(
        self, x_shape: int | Sequence[int], latent_dim: int, *, hidden: Sequence[int] = (200, 200),
        activation: str = "tanh", covariance: str = "diagonal", encoder: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        head = self.posterior = NormalHead(
            x_shape, latent_dim, covariance=covariance, network=encoder, hidden=hidden, activation=activation
        )
        self.x_shape, self.latent_dim = head.input_shape, head.latent_dim

    outputs = staticmethod(normal_outputs)

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z given `x` (B, *x_shape), and return it, (..., B, L)."""
        with data_plate(size, x=(observed(x), self.x_shape)):
            return pyro.sample("z", self.posterior(x))
