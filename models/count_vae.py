"""The decoder half of a variational autoencoder of counts gathered over a known exposure (Lopez et al. 2018).

p(z) = N(0, I_L),   p(x|z, e) = likelihood(decoder(z) + log e)      of mean e exp(decoder(z)), for an exposure e > 0
"""

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import Likelihood, RateHead, StandardNormal, data_plate


@configurable
class CountVAE(PyroModule):
    """Deep latent Gaussian model of counts, given the exposure of each datum.

    Parameters
    ----------
    x_shape, latent_dim : int or tuple of int, int
        Shape of one datum, of D numbers; L.
    hidden, activation
        Of the default decoder, an `MLP`.
    likelihood : Likelihood or str
        p(x|z, e): a `Poisson` or `NegativeBinomial`, or the name of one.
    decoder : Module, optional
        Maps z (..., L) to (..., P*D), laid out (P, D), the first D of them logarithms of rates per unit of exposure.

    Raises
    ------
    InputError
        For an invalid size or name, or a likelihood of no counts; when called, for another shape of x, or an exposure
        that is missing, not (B,), or not above 0.
    """

    def __init__(
        self, x_shape: int | Sequence[int], latent_dim: int, *, hidden: Sequence[int] = (200, 200),
        activation: str = "tanh", likelihood: Likelihood | str = "negative-binomial",
        decoder: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        head = self.decode = RateHead(
            x_shape, latent_dim, likelihood, network=decoder, hidden=hidden, activation=activation
        )
        self.prior = StandardNormal(latent_dim)
        self.x_shape, self.latent_dim = head.event_shape, self.prior.latent_dim

    def forward(self, x: Tensor | None = None, exposure: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z, then x given z and `exposure` (B,), or observe `x` (B, *x_shape). Returns x."""
        with data_plate(size, x=(x, self.x_shape), exposure=(self.decode.exposure.given(exposure), ())):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decode(z, exposure), obs=x)
