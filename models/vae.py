"""The decoder half of a variational autoencoder (Kingma & Welling 2014, section 3).

p(z) = N(0, I_L),   p(x|z) = likelihood(decoder(z))
"""

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import Likelihood, LikelihoodHead, StandardNormal, data_plate


@configurable
class VAE(PyroModule):
    """Deep latent Gaussian model with one layer of latents.

    Parameters
    ----------
    x_shape, latent_dim : int or tuple of int, int
        Shape of one datum, of D numbers; L.
    hidden, activation
        Of the default decoder, an `MLP`.
    likelihood : Likelihood or str
        p(x|z), or its name in `likelihoods.NAMES`.
    decoder : Module, optional
        Maps z (..., L) to (..., P*D), laid out (P, D), with P the likelihood's `parameters_per_dim`.

    Raises
    ------
    InputError
        For an invalid size or name; when called, for an x or an output of the decoder of another shape.
    """

    def __init__(
        self, x_shape: int | Sequence[int], latent_dim: int, *, hidden: Sequence[int] = (200, 200),
        activation: str = "tanh", likelihood: Likelihood | str = "bernoulli", decoder: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        head = self.decode = LikelihoodHead(
            x_shape, latent_dim, likelihood, network=decoder, hidden=hidden, activation=activation
        )
        self.prior = StandardNormal(latent_dim)
        self.x_shape, self.latent_dim = head.event_shape, self.prior.latent_dim

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z, then x given z, or observe `x` (B, *x_shape); with `size` = B instead, generate. Returns x."""
        with data_plate(size, x=(x, self.x_shape)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decode(z), obs=x)
