"""The generative half of M2, the semi-supervised VAE (Kingma, Mohamed, Rezende & Welling 2014, eq. 2).

p(y) = Categorical(1/C, …, 1/C)
p(z) = N(0, I_L)
p(x|y, z) = likelihood(decoder(z, y))
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

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.config import configurable
from ppl_vae.core.shapes import as_shape, check_last_dimension
from ppl_vae.nn import likelihoods
from ppl_vae.nn.conditioning import Condition
from ppl_vae.nn.labels import PartialLabels
from ppl_vae.nn.likelihoods import Likelihood
from ppl_vae.nn.mlp import MLP


@configurable
class M2(PyroModule):
    """Model of x by a class y and a style z that knows nothing of it; y is known for all data, for some, or for none.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    latent_dim : int
        L.
    num_classes : int
        C; labels are 0..C-1.
    hidden, activation
        Of the default decoder, an `MLP`.
    likelihood : Likelihood or str
        p(x|y, z), or its name in `likelihoods.NAMES`.
    decoder : Module, optional
        Maps z beside the one-hot y, (..., L + C), to (..., P*D), laid out (P, D), with P the likelihood's
        `parameters_per_dim`.
    one_hot : bool
        Whether the site y holds one-hot vectors (..., C), for a guide that relaxes them, rather than labels.

    Raises
    ------
    InputError
        If a size is below one or a name unknown; when called, if x is not (B, *x_shape), a label is out of range or no
        whole number, the mask no boolean of y's length, or the decoder's output has another size.
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dim: int,
        num_classes: int,
        *,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        likelihood: Likelihood | str = "bernoulli",
        decoder: nn.Module | None = None,
        one_hot: bool = False,
    ) -> None:
        super().__init__()
        self.x_shape = as_shape("x_shape", x_shape)
        self.latent_dim = integer_at_least("latent_dim", latent_dim, 1)
        self.labels = PartialLabels(num_classes)
        self.classes = Condition(c_shape=self.labels.size, name="y") if one_hot else self.labels
        self.one_hot = one_hot
        self.likelihood = likelihoods.of(likelihood)
        outputs = self.likelihood.parameters_per_dim * math.prod(self.x_shape)
        inputs = self.latent_dim + self.labels.size
        self.decoder = MLP(inputs, outputs, hidden, activation) if decoder is None else decoder
        self.register_buffer("class_logits", torch.zeros(self.labels.size))
        self.register_buffer("prior_loc", torch.zeros(self.latent_dim))
        self.register_buffer("prior_scale", torch.ones(self.latent_dim))

    def forward(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        labelled: Tensor | None = None,
        size: int | None = None,
    ) -> Tensor:
        """Sample y, z, then x; or observe x (B, *x_shape), and y (B,), all or those `labelled`. Returns x."""
        with pyro.plate("data", self.labels.rows(y, labelled, x, self.x_shape, size), dim=-1):
            y, z = self.sample_y(y, labelled), pyro.sample("z", self.prior())
            return pyro.sample("x", self.decode(z, y), obs=x)

    def sample_y(self, y: Tensor | None, labelled: Tensor | None) -> Tensor:
        """Sample the class, which is its label where that is known: (…, B), or (…, B, C) with `one_hot`."""
        logits = self.class_logits
        if labelled is None and not self.one_hot:
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)
        if y is not None:  # p(y, label) = p(label) p(y | label)
            pyro.factor("label", self.labels.log_prob(logits, y, labelled))
            logits = self.labels.known(logits, y, labelled)
        return pyro.sample("y", (dist.OneHotCategorical if self.one_hot else dist.Categorical)(logits=logits))

    def prior(self) -> Any:
        """Return p(z): batch shape (), event shape (L,)."""
        return dist.Normal(self.prior_loc, self.prior_scale).to_event(1)

    def decode(self, z: Tensor, y: Tensor) -> Any:
        """Return p(x|y, z) for z (..., B, L) and y (..., B): batch shape (..., B), event shape x_shape."""
        check_last_dimension("z", z, self.latent_dim)
        return self.likelihood.of_network(self.classes.through(self.decoder, z, y), self.x_shape)

    def check_values(self, y: Tensor | None = None, labelled: Tensor | None = None, **_: Tensor) -> None:
        """Raise `InputError` for a label out of range, whichever row of the data has it."""
        self.labels.check_partial(y, labelled)

    def quantity(self, y: Tensor | None = None, labelled: Tensor | None = None, **_: Tensor) -> str:
        """Return what the log likelihood of such data is of."""
        return self.labels.quantity(y, labelled)
