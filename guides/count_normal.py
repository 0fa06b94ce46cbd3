"""The encoder half of a variational autoencoder of counts gathered over a known exposure (Lopez et al. 2018).

q(z|x, e) = N(m, C),   (m, C) = encoder(log(1 + x), log e)
"""

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import LogCountHead, data_plate, observed


@configurable
class CountNormal(PyroModule):
    """A Normal whose mean and covariance are a network's output for the logarithms of counts and exposure.

    Parameters
    ----------
    x_shape, latent_dim : int or tuple of int, int
        Shape of one datum, of D numbers; L.
    hidden, activation, covariance
        As for `AmortizedNormal`.
    encoder : Module, optional
        Maps (..., D + 1) to (..., `AmortizedNormal.outputs`).

    Raises
    ------
    InputError
        For an invalid size or name; when called, for another shape of x or the output, or an exposure missing.
    """

    def __init__(
        self, x_shape: int | Sequence[int], latent_dim: int, *, hidden: Sequence[int] = (200, 200),
        activation: str = "tanh", covariance: str = "diagonal", encoder: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        head = self.posterior = LogCountHead(
            x_shape, latent_dim, covariance=covariance, network=encoder, hidden=hidden, activation=activation
        )
        self.x_shape, self.latent_dim = head.input_shape, head.latent_dim

    def forward(self, x: Tensor | None = None, exposure: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z given `x` (B, *x_shape) and `exposure` (B,), and return it, (..., B, L)."""
        x = observed(x, "guide(x=x, exposure=exposure)")
        with data_plate(size, x=(x, self.x_shape), exposure=(self.posterior.condition.given(exposure), ())):
            return pyro.sample("z", self.posterior(x, exposure))
