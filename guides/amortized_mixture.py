"""The inference half of M2: a classifier, and a Normal for each class (Kingma et al. 2014, eq. 4, 5 and 9).

q(y|x) = Categorical(softmax(classifier(x)))
q(z|x, y) = N(m(x, y), C(x, y)),   (m, C) = encoder(x, y)
q(y, z|x) = 1[y = label] q(z|x, y)   where the label is known

A known label adds alpha log q(label|x) to the bound, which otherwise would not teach the classifier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.checks import not_negative, one_of, positive
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_shape, check_event, check_last_dimension
from ppl_vae.guides.amortized_normal import AmortizedNormal
from ppl_vae.nn.conditioning import Condition
from ppl_vae.nn.distributions.gumbel_softmax import GumbelSoftmax
from ppl_vae.nn.labels import PartialLabels
from ppl_vae.nn.mlp import MLP

CLASSES = ("enumerated", "sampled", "relaxed")


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
        one_of("classes", classes, CLASSES)
        self.x_shape = as_shape("x_shape", x_shape)
        self.alpha, self.temperature = not_negative("alpha", alpha), positive("temperature", temperature)
        self.labels = PartialLabels(num_classes)
        self.how = classes
        self.classes = Condition(c_shape=self.labels.size, name="y") if classes == "relaxed" else self.labels
        D, C = math.prod(self.x_shape), self.labels.size
        self.classifier = MLP(D, C, hidden, activation) if classifier is None else classifier
        self.normal = AmortizedNormal(
            D + C, latent_dim, hidden=hidden, activation=activation, covariance=covariance, encoder=encoder
        )

    def forward(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        labelled: Tensor | None = None,
        size: int | None = None,
    ) -> Tensor:
        """Sample y where it is not known, then z, given x (B, *x_shape), and return z, (..., B, L)."""
        if x is None:
            raise InputError("guide", expected="an observation x", got="None", hint="guide(x=x)")
        with pyro.plate("data", self.labels.rows(y, labelled, x, self.x_shape, size), dim=-1):
            return pyro.sample("z", self.posterior(x, self.sample_y(x, y, labelled)))

    def sample_y(self, x: Tensor, y: Tensor | None, labelled: Tensor | None) -> Tensor:
        """Sample the class given x, at its label where that is known, and add its log probability to the objective."""
        logits = self.classify(x)
        if y is not None:  # a factor of a guide counts against the bound
            pyro.factor("classification", -self.alpha * self.labels.log_prob(logits, y, labelled), has_rsample=True)
            if labelled is None and self.how != "relaxed":
                return y
            logits = self.labels.known(logits, y, labelled)
        if self.how == "relaxed":
            return pyro.sample("y", GumbelSoftmax(self.temperature, logits))
        infer: Any = {"enumerate": "parallel"} if self.how == "enumerated" else {}
        return pyro.sample("y", dist.Categorical(logits=logits), infer=infer)

    def classify(self, x: Tensor) -> Tensor:
        """Return log q(y|x), up to a constant, for x (..., *x_shape): shape (..., C)."""
        check_event("x", x, self.x_shape)
        logits = self.classifier(x.flatten(-len(self.x_shape)))
        check_last_dimension("output of the classifier", logits, self.labels.size)
        return logits

    def posterior(self, x: Tensor, y: Tensor) -> Any:
        """Return q(z|x, y) for x (..., B, *x_shape) and y (..., B): batch shape (..., B), event shape (L,)."""
        flat = x.flatten(-len(self.x_shape))
        return self.normal.of_network(self.classes.through(self.normal.encoder, flat, y))

    def check_values(self, y: Tensor | None = None, labelled: Tensor | None = None, **_: Tensor) -> None:
        """Raise `InputError` for a label out of range, whichever row of the data has it."""
        self.labels.check_partial(y, labelled)

    def check_training(self, y: Tensor | None = None, labelled: Tensor | None = None, **_: Tensor) -> None:
        """Warn of classes that no label shows, of data without labels, and of a mask that hides none."""
        self.labels.warn_of_missing(y, labelled)
