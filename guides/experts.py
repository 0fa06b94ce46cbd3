"""Posteriors given any subset S of modalities, joined from an expert for each.

An expert is a factor e_m(z) = exp(-1/2 z'A_m z + z'h_m). Of a set A of modalities,

q_A(z) = p(z) prod_A e_m(z) / const = N(u, P^-1),   P = I + sum_A A_m,   u = P^-1 sum_A h_m

An encoder gives (h_m, A_m), or (m_m, A_m) with h_m = A_m m_m: then e_m is N(m_m, A_m^-1), and a high precision
needs no large outputs.

product               q = q_S                                             (Wu & Goodman 2018, eq. 3)
mixture               q = 1/|S| sum_{m in S} q_{m}                        (Shi et al. 2019, section 3.1)
mixture-of-products   q = 1/(2^|S| - 1) sum_{A in S, A not empty} q_A     (Sutter et al. 2021, eq. 6)
"""

from collections.abc import Mapping, Sequence

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import Modalities
from ppl_vae.nn.experts import JoinedExperts
from ppl_vae.nn.modalities import Shape


@configurable
class Experts(PyroModule):
    """q(z|x_S) for any subset S of modalities that a datum has.

    Parameters
    ----------
    modalities : mapping of str to int or tuple of int
        Shape of one datum of each modality, by name.
    latent_dim : int
        L.
    join : {"product", "mixture", "mixture-of-products"}
        How experts are joined; the last has 2^M - 1 components.
    covariance : {"diagonal", "full"}
        Of the precisions A_m: exp(2 a), or TT' with T lower triangular. Full ones with affine encoders include the
        exact posteriors of linear-Gaussian modalities.
    location : {"shift", "mean"}
        Whether encoders give h_m, which grows with the precision, or m_m. Where experts have a far higher precision
        than the prior, as with a small weight on the KL, networks learn means better.
    hidden, activation
        Of the default encoders, each an `MLP`.
    encoders : mapping of str to Module, optional
        Instead of the default ones: each maps x_m, flattened, to (..., L + L) or, full, (..., L + L (L + 1) / 2).

    Raises
    ------
    InputError
        For an invalid size or name; when called, for an unknown modality, other rows or another mask, or none at all.
    """

    def __init__(
        self, modalities: Mapping[str, Shape], latent_dim: int, *, join: str = "product",
        covariance: str = "diagonal", location: str = "shift", hidden: Sequence[int] = (200, 200),
        activation: str = "tanh", encoders: Mapping[str, nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.modalities = Modalities(modalities)
        self.posterior = JoinedExperts(
            self.modalities, latent_dim,
            join=join, covariance=covariance, location=location,
            networks=encoders, hidden=hidden, activation=activation,
        )  # fmt: skip

    def forward(self, size: int | None = None, **modalities: Tensor) -> Tensor:
        """Sample z given the modalities that are there, (B, *x_shape) each, and return it, (..., B, L)."""
        values, masks = self.modalities.some(modalities)
        with self.modalities.plate(values, size):
            return pyro.sample("z", self.posterior(values, masks))
