"""The encoder half of an autoencoder: q(z|x) is a delta distribution.

q(z|x) = Delta(z - encoder(x))
"""

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import DeltaHead, data_plate, observed


@configurable
class AmortizedDelta(PyroModule):
    """A delta distribution at a network's output: `Autoencoder`'s z, or an amortised MAP under a model with a prior.

    It has no density, so there are no importance weights; its log probability counts as 0.

    Parameters
    ----------
    x_shape, latent_dim : int or tuple of int, int
        Shape of one datum, of D numbers; L.
    hidden, activation
        Of the default encoder, an `MLP`.
    encoder : Module, optional
        Maps x, flattened to (..., D), to (..., L).

    Raises
    ------
    InputError
        For an invalid size or name; when called, for another shape of x or of the output.
    """

    def __init__(
        self, x_shape: int | Sequence[int], latent_dim: int, *, hidden: Sequence[int] = (200, 200),
        activation: str = "tanh", encoder: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        head = self.posterior = DeltaHead(x_shape, latent_dim, network=encoder, hidden=hidden, activation=activation)
        self.x_shape, self.latent_dim = head.input_shape, head.outputs

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Put z at the encoder's output for `x` (B, *x_shape), and return it, (..., B, L)."""
        with data_plate(size, x=(observed(x), self.x_shape)):
            return pyro.sample("z", self.posterior(x))
