"""The decoder half of an autoencoder (Hinton & Salakhutdinov 2006), as the limit of a VAE without noise and without KL.

p(x|z) = N(decoder(z), I/2), no p(z):   -log p(x|z) = |x - decoder(z)|^2 + (D/2) log pi
"""

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import LikelihoodHead, StandardNormal, data_plate, likelihoods


@configurable
class Autoencoder(PyroModule):
    """Decoder to be trained by squared error, with the guide `AmortizedDelta`.

    It is not a probabilistic model of x: the density of z is masked, so that there is no p(x, z) and no log p(x), and
    `log_likelihood` raises. Minus the ELBO is the squared error, summed over x, plus (D/2) log pi. Called with `size`,
    it decodes z ~ N(0, I), which the encoder's z was never fitted to: such x need not look like data.

    Parameters
    ----------
    x_shape, latent_dim : int or tuple of int, int
        Shape of one datum, of D numbers; L.
    hidden, activation
        Of the default decoder, an `MLP`.
    decoder : Module, optional
        Maps z (..., L) to (..., D).

    Raises
    ------
    InputError
        For an invalid size or name; when called, for an x or an output of the decoder of another shape.
    """

    def __init__(
        self, x_shape: int | Sequence[int], latent_dim: int, *, hidden: Sequence[int] = (200, 200),
        activation: str = "tanh", decoder: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        noise = likelihoods.Normal(0.5**0.5)
        head = self.decode = LikelihoodHead(
            x_shape, latent_dim, noise, network=decoder, hidden=hidden, activation=activation
        )
        self.start = StandardNormal(latent_dim)
        self.x_shape, self.latent_dim = head.event_shape, self.start.latent_dim

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Decode z and observe `x` (B, *x_shape); with `size` = B instead, decode N(0, I) and add noise. Returns x."""
        with data_plate(size, x=(x, self.x_shape)):
            z = pyro.sample("z", self.start().mask(False))
            return pyro.sample("x", self.decode(z), obs=x)
