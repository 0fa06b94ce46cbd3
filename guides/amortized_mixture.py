"""The inference half of M2: a classifier, and a Normal for each class (Kingma et al. 2014, eq. 4, 5 and 9).

q(y|x) = Categorical(softmax(classifier(x)))
q(z|x, y) = N(m(x, y), C(x, y)),   (m, C) = encoder(x, y)
q(y, z|x) = 1[y = label] q(z|x, y)   where the label is known
"""

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import CategoricalHead, InferredLabels, NormalHead, data_plate, observed


@configurable
class AmortizedMixture(PyroModule):
    """A mixture of Normals, one for each class, whose weights are a classifier's.

    Parameters
    ----------
    x_shape, latent_dim, num_classes : int or tuple of int, int, int
        Shape of one datum, of D numbers; L; C, for labels 0..C-1.
    alpha : float
        Weight of log q(y|x) of a known label in the objective; without it labels would not train the classifier. With
        Kingma's convention, of N data with N_l labels, it is alpha = 0.1 N / N_l here. Not used in log p(x).
    classes : {"enumerated", "sampled", "relaxed"}
        How an unknown class enters the objective: summed out; drawn, with the score-function gradient; or
        drawn by the straight-through Gumbel-softmax (Jang et al. 2017) of a `temperature`, for a model with `one_hot`.
    hidden, activation, covariance
        Of the default networks, each an `MLP`, and as for `NormalHead`.
    classifier, encoder : Module, optional
        From x, (..., D), to (..., C); from x and the one-hot y, concatenated, (..., D + C), to (..., `normal_outputs`).

    Raises
    ------
    InputError
        For an invalid size, name or `alpha`; when called, for another shape of x or an output, for a label out
        of range, or a mask that is not boolean of the shape of y.
    """

    def __init__(
        self, x_shape: int | Sequence[int], latent_dim: int, num_classes: int, *, alpha: float = 1.0,
        classes: str = "enumerated", temperature: float = 0.5, hidden: Sequence[int] = (200, 200),
        activation: str = "tanh", covariance: str = "diagonal", classifier: nn.Module | None = None,
        encoder: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.label = InferredLabels(num_classes, alpha=alpha, how=classes, temperature=temperature)
        C = self.label.size
        self.classifier = CategoricalHead(x_shape, C, network=classifier, hidden=hidden, activation=activation)
        self.posterior = NormalHead(
            x_shape, latent_dim, covariance=covariance,
            condition=self.label.condition(), network=encoder, hidden=hidden, activation=activation,
        )  # fmt: skip
        self.x_shape = self.classifier.input_shape

    def forward(
        self, x: Tensor | None = None, y: Tensor | None = None, labelled: Tensor | None = None, size: int | None = None
    ) -> Tensor:
        """Sample y where it is not known, then z, given x (B, *x_shape), and return z, (..., B, L)."""
        x = observed(x)
        with data_plate(size, x=(x, self.x_shape), y=(self.label.observed(y, labelled), ())):
            y = self.label.sample(self.classify(x), y, labelled)
            return pyro.sample("z", self.posterior(x, y))

    def classify(self, x: Tensor) -> Tensor:
        """Return log q(y|x), up to a constant, for x (..., *x_shape): shape (..., C)."""
        return self.classifier.output(x)
