"""The inference half of M2: a classifier, and a Normal for each class (Kingma et al. 2014, eq. 4, 5 and 9).

q(y|x) = Categorical(softmax(classifier(x)))
q(z|x, y) = N(m(x, y), C(x, y)),   (m, C) = encoder(x, y)
q(y, z|x) = 1[y = label] q(z|x, y)   where the label is known

A known label adds alpha log q(label|x) to the bound, which otherwise would not teach the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import CategoricalHead, InferredLabels, NormalHead, data_plate, observed


@configurable
class AmortizedMixture(PyroModule):
    """A mixture of Normals, one for each class, of which a classifier tells the weights.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    latent_dim : int
        L.
    num_classes : int
        C; labels are 0..C-1.
    alpha : float
        Weight of log q(y|x) of a known label in the objective, in nats per labelled datum. Kingma's alpha is a share of
        the data: with N_l labels among N data it is alpha = 0.1 N / N_l here. It has no part in log p(x).
    classes : {"enumerated", "sampled", "relaxed"}
        How a class that is not known enters the objective: summed out; drawn, with the score-function gradient; or
        drawn by the straight-through Gumbel-softmax (Jang et al. 2017), for a model with ``one_hot=True``.
    temperature : float
        Of the Gumbel-softmax.
    hidden, activation, covariance
        Of the default classifier and encoder, each an `MLP`, and as for `AmortizedNormal`.
    classifier : Module, optional
        Maps x, flattened to (..., D), to (..., C).
    encoder : Module, optional
        Maps x, flattened, beside the one-hot y, (..., D + C), to (..., `AmortizedNormal.outputs`).

    Raises
    ------
    InputError
        If a size is below one, `alpha` negative or a name unknown; when called, if x is not (..., *x_shape), a label is
        out of range or no whole number, the mask no boolean of y's length, or a network's output has another size.
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dim: int,
        num_classes: int,
        *,
        alpha: float = 1.0,
        classes: str = "enumerated",
        temperature: float = 0.5,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        covariance: str = "diagonal",
        classifier: nn.Module | None = None,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.label = InferredLabels(num_classes, alpha=alpha, how=classes, temperature=temperature)
        self.classifier = CategoricalHead(
            x_shape, self.label.size, network=classifier, hidden=hidden, activation=activation
        )
        head = self.posterior = NormalHead(
            x_shape, latent_dim, covariance=covariance,
            condition=self.label.condition(), network=encoder, hidden=hidden, activation=activation,
        )  # fmt: skip
        self.x_shape = head.input_shape

    def forward(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        labelled: Tensor | None = None,
        size: int | None = None,
    ) -> Tensor:
        """Sample y where it is not known, then z, given x (B, *x_shape), and return z, (..., B, L)."""
        x = observed(x)
        with data_plate(size, x=(x, self.x_shape), y=(self.label.observed(y, labelled), ())):
            y = self.label.sample(self.classify(x), y, labelled)
            return pyro.sample("z", self.posterior(x, y))

    def classify(self, x: Tensor) -> Tensor:
        """Return log q(y|x), up to a constant, for x (..., *x_shape): shape (..., C)."""
        return self.classifier.output(x)
