"""The decoder half of a conditional variational autoencoder (Sohn et al. 2015, section 4.1; Kingma et al. 2014, eq. 2).

p(z|c) = N(0, I_L)  or  N(m(c), diag(s(c))^2),   (m, log s) = prior_network(c)
p(x|z, c) = likelihood(decoder(z, c))
"""

from collections.abc import Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.checks import one_of
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.nn import Condition, ConditionalPrior, Likelihood, LikelihoodHead, StandardNormal, data_plate


@configurable
class CVAE(PyroModule):
    """Deep latent Gaussian model of x given a condition c: a label, a vector of attributes, or an image.

    Parameters
    ----------
    x_shape, latent_dim : int or tuple of int, int
        Shape of one datum, of D numbers; L.
    c_shape, num_classes : int or tuple of int, int, optional
        Shape of one condition of C numbers, or C, for conditions that are labels 0..C-1: exactly one of the two.
    prior : {"standard", "conditional"}
        Whether z has the same prior for all c (Kingma et al. 2014), or one learned from c (Sohn et al. 2015).
    hidden, activation
        Of the default decoder and prior network, each an `MLP`; no hidden layer makes all maps affine.
    likelihood : Likelihood or str
        p(x|z, c), or its name in `likelihoods.NAMES`.
    decoder, prior_network : Module, optional
        From z and c, concatenated, (..., L + C), to (..., P*D), laid out (P, D), with P the likelihood's
        `parameters_per_dim`; and from c, (..., C), to (..., 2 L): m, then log s.

    Raises
    ------
    InputError
        For an invalid size or name; when called, for another shape of x or an output, or c missing or out of range.
    """

    def __init__(
        self, x_shape: int | Sequence[int], latent_dim: int, *, c_shape: int | Sequence[int] | None = None,
        num_classes: int | None = None, prior: str = "standard", hidden: Sequence[int] = (200, 200),
        activation: str = "tanh", likelihood: Likelihood | str = "bernoulli", decoder: nn.Module | None = None,
        prior_network: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        one_of("prior", prior, ("standard", "conditional"))
        if prior == "standard" and prior_network is not None:
            raise InputError("prior_network", expected="prior='conditional'", got=f"prior={prior!r}")
        self.condition = Condition(c_shape, num_classes)
        head = self.decode = LikelihoodHead(
            x_shape, latent_dim, likelihood,
            condition=self.condition, network=decoder, hidden=hidden, activation=activation,
        )  # fmt: skip
        self.prior: StandardNormal | ConditionalPrior = StandardNormal(latent_dim)
        if prior == "conditional":
            self.prior = ConditionalPrior(
                self.condition, latent_dim, network=prior_network, hidden=hidden, activation=activation
            )
        self.x_shape, self.latent_dim = head.event_shape, self.prior.latent_dim

    def forward(self, x: Tensor | None = None, c: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z, then x, given c (B, *c_shape) or labels c (B,); or observe `x` (B, *x_shape). Returns x."""
        with data_plate(size, x=(x, self.x_shape), c=(self.condition.given(c), self.condition.c_shape)):
            z = pyro.sample("z", self.prior(c))
            return pyro.sample("x", self.decode(z, c), obs=x)
