"""Several modalities of one latent (Spurr et al. 2018, section 3; Wu & Goodman 2018, section 2.1).

p(z) = N(0, I_L)
p(x_m|z) = likelihood_m(decoder_m(z))      for each modality m, independent given z

A modality that is missing is left out of the product: log p(x_S) is of those that are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.checks import integer_at_least, one_of
from ppl_vae.core.config import configurable
from ppl_vae.core.shapes import check_last_dimension
from ppl_vae.nn import likelihoods
from ppl_vae.nn.likelihoods import Likelihood
from ppl_vae.nn.mlp import MLP
from ppl_vae.nn.modalities import Modalities, Shape


@configurable
class CrossModal(PyroModule):
    """Deep latent Gaussian model of several named modalities.

    Parameters
    ----------
    modalities : mapping of str to int or tuple of int
        Shape of one datum of each modality, by name; the names are the arguments and sites of the program.
    latent_dim : int
        L.
    likelihood : Likelihood or str, or mapping of these
        p(x_m|z), or its name in `likelihoods.NAMES`: one of a kind for all modalities, each with parameters of its own,
        or one for each by name.
    hidden, activation
        Of the default decoders, each an `MLP`; no hidden layer makes them affine.
    decoders : mapping of str to Module, optional
        Instead of the default ones: each maps (..., L) to (..., P_m*D_m).

    Raises
    ------
    InputError
        If a size is below one, or a name unknown; when called, for an unknown modality, modalities of different
        length, a mask of another shape, or a datum with none.
    """

    def __init__(
        self,
        modalities: Mapping[str, Shape],
        latent_dim: int,
        *,
        likelihood: Mapping[str, Likelihood | str] | Likelihood | str = "normal-learned",
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        decoders: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.modalities = Modalities(modalities)
        self.latent_dim = integer_at_least("latent_dim", latent_dim, 1)
        chosen = likelihood if isinstance(likelihood, Mapping) else dict.fromkeys(self.modalities.shapes, likelihood)
        self.modalities.of_each("likelihood", chosen)
        decoders = self.modalities.of_each("decoders", decoders)
        self.likelihoods = likelihoods.for_each(self.modalities.shapes, chosen)
        self.decoders = nn.ModuleDict()
        for name, shape in self.modalities.shapes.items():
            family: Any = self.likelihoods[name]
            outputs = family.parameters_per_dim * math.prod(shape)
            own = decoders.get(name)
            self.decoders[name] = MLP(self.latent_dim, outputs, hidden, activation) if own is None else own
        self.register_buffer("prior_loc", torch.zeros(self.latent_dim))
        self.register_buffer("prior_scale", torch.ones(self.latent_dim))

    @property
    def argument_names(self) -> frozenset[str]:
        """What the program takes from a batch."""
        return self.modalities.argument_names

    def forward(self, size: int | None = None, **modalities: Tensor) -> Tensor:
        """Sample z and observe the modalities given, (B, *x_shape) each; with `size`, draw all others. Returns z."""
        values, masks = self.modalities.given(modalities)
        names = values if size is None else self.modalities.shapes
        with pyro.plate("data", self.modalities.rows(values, size), dim=-1):
            z = pyro.sample("z", dist.Normal(self.prior_loc, self.prior_scale).to_event(1))
            for name in names:
                distribution = self.decode(z, name)
                pyro.sample(
                    name, distribution.mask(masks[name]) if name in masks else distribution, obs=values.get(name)
                )
            return z

    def decode(self, z: Tensor, name: str) -> Any:
        """Return p(x_m|z) of the modality called `name`, for z (..., L): batch shape (...), event shape x_shape."""
        check_last_dimension("z", z, self.latent_dim)
        one_of("modality", name, self.modalities.shapes)
        chosen: Any = self.likelihoods[name]
        return chosen.of_network(self.decoders[name](z), self.modalities.shapes[name])

    def quantity(self, **modalities: Tensor) -> str:
        """Return what the log likelihood of a batch is of, in words."""
        values, masks = self.modalities.given(modalities)
        return f"log p({', '.join(values)}{', those that are there' * bool(masks)})"

    def check_values(self, **modalities: Tensor) -> None:
        """Raise `InputError` for a datum of which every modality is missing."""
        self.modalities.check_values(modalities)
