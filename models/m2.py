"""The generative half of M2, the semi-supervised VAE (Kingma, Mohamed, Rezende & Welling 2014, eq. 2).

p(y) = Categorical(1/C, …, 1/C)
p(z) = N(0, I_L)
p(x|y, z) = likelihood(decoder(z, y))
"""

from collections.abc import Sequence

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import Likelihood, LikelihoodHead, PartialLabels, StandardNormal, data_plate


@configurable
class M2(PyroModule):
    """Model of x given a class y and an independent style z; y is known for all data, for some, or for none.

    Parameters
    ----------
    x_shape, latent_dim, num_classes : int or tuple of int, int, int
        Shape of one datum, of D numbers; L; C, for labels 0..C-1.
    hidden, activation
        Of the default decoder, an `MLP`.
    likelihood : Likelihood or str
        p(x|y, z), or its name in `likelihoods.NAMES`.
    decoder : Module, optional
        Maps z and the one-hot y, concatenated, (..., L + C), to (..., P*D), laid out (P, D), with P the likelihood's
        `parameters_per_dim`.
    one_hot : bool
        Whether the site y holds one-hot vectors (..., C), for a guide that relaxes them, rather than labels.

    Raises
    ------
    InputError
        For an invalid size or name; when called, for another shape of x or an output, for a label out of range, or a
        mask that is not boolean of the shape of y.
    """

    def __init__(
        self, x_shape: int | Sequence[int], latent_dim: int, num_classes: int, *, hidden: Sequence[int] = (200, 200),
        activation: str = "tanh", likelihood: Likelihood | str = "bernoulli", decoder: nn.Module | None = None,
        one_hot: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.label = PartialLabels(num_classes, one_hot=one_hot)
        self.register_buffer("class_logits", torch.zeros(self.label.size))
        head = self.decode = LikelihoodHead(
            x_shape, latent_dim, likelihood,
            condition=self.label.condition(), network=decoder, hidden=hidden, activation=activation,
        )  # fmt: skip
        self.prior = StandardNormal(latent_dim)
        self.x_shape, self.latent_dim = head.event_shape, self.prior.latent_dim

    def forward(
        self, x: Tensor | None = None, y: Tensor | None = None, labelled: Tensor | None = None, size: int | None = None
    ) -> Tensor:
        """Sample y, z, then x; or observe x (B, *x_shape), and y (B,), all or those `labelled`. Returns x."""
        with data_plate(size, x=(x, self.x_shape), y=(self.label.observed(y, labelled), ())):
            y = self.label.sample(self.class_logits, y, labelled)
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decode(z, y), obs=x)
