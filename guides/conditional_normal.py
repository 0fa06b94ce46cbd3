"""The encoder half of a conditional variational autoencoder (Sohn et al. 2015, section 4.1; Kingma et al. 2014, eq. 4).

q(z|x, c) = N(m(x, c), C(x, c)),   (m, C) = encoder(x, c)
"""

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import Condition, NormalHead, data_plate, observed


@configurable
class ConditionalNormal(PyroModule):
    """A Normal whose mean and covariance are a network's output for the datum and its condition.

    Parameters
    ----------
    x_shape, latent_dim : int or tuple of int, int
        Shape of one datum, of D numbers; L.
    c_shape : int or tuple of int, optional
        Shape of one condition made of numbers.
    num_classes : int, optional
        C, for conditions that are labels 0..C-1. Exactly one of `c_shape` and `num_classes` is given.
    hidden, activation, covariance
        As for `AmortizedNormal`, with x and c concatenated as its input.
    encoder : Module, optional
        Maps x, flattened, and c, concatenated, (..., D + C), to (..., `AmortizedNormal.outputs`). C is here the number
        of classes, or of numbers in `c_shape`.

    Raises
    ------
    InputError
        For an invalid size or name; when called, for another shape of x or the output, or c missing or out of range.
    """

    def __init__(
        self, x_shape: int | Sequence[int], latent_dim: int, *, c_shape: int | Sequence[int] | None = None,
        num_classes: int | None = None, hidden: Sequence[int] = (200, 200), activation: str = "tanh",
        covariance: str = "diagonal", encoder: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.condition = Condition(c_shape, num_classes)
        head = self.posterior = NormalHead(
            x_shape, latent_dim,
            covariance=covariance, condition=self.condition, network=encoder, hidden=hidden, activation=activation,
        )  # fmt: skip
        self.x_shape, self.latent_dim = head.input_shape, head.latent_dim

    def forward(self, x: Tensor | None = None, c: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z given `x` (B, *x_shape) and c (B, *c_shape) or labels c (B,), and return it, (..., B, L)."""
        x, c = observed(x, "guide(x=x, c=c)"), self.condition.given(c)
        with data_plate(size, x=(x, self.x_shape), c=(c, self.condition.c_shape)):
            return pyro.sample("z", self.posterior(x, c))
