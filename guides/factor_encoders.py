"""Posteriors of a disentangled pair, read off known factors or off the datum (Yang & Yao 2019, section 3.1).

q(z_i|y_i) = N(m_i(y_i), diag s_i(y_i)^2)      where factor i is given
q(z_i|x), q(z_rest|x)                          else, all from one network, where x is given
p(z_i)                                         else
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.guides.amortized_normal import AmortizedNormal
from ppl_vae.nn.modalities import Modalities, Shape, factor_latents


@configurable
class FactorEncoders(PyroModule):
    """q of the latents of known factors and of the rest, given whichever of x and the factors there are.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum.
    factors : mapping of str to int or tuple of int
        Shape of one value of each factor, by name.
    latent_dims : mapping of str to int
        L_i of each factor, and of the ``"rest"``, as in the model.
    hidden, activation
        Of the networks, each an `MLP`.

    Raises
    ------
    InputError
        If a size is below one, or a factor without a latent; when called, for an unknown argument, arguments of
        different length, or none.
    """

    def __init__(
        self,
        x_shape: Shape,
        factors: Mapping[str, Shape],
        latent_dims: Mapping[str, int],
        *,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        self.latents = factor_latents(factors, latent_dims)
        self.modalities = Modalities({"x": x_shape, **factors}, masked=False)
        networks: dict[str, Any] = {"hidden": hidden, "activation": activation}
        self.of_x = AmortizedNormal(self.modalities.shapes["x"], sum(self.latents.values()), **networks)
        self.of_factor = nn.ModuleDict(
            {name: AmortizedNormal(self.modalities.shapes[name], latent_dims[name], **networks) for name in factors}
        )
        self.register_buffer("zero", torch.zeros(()))

    @property
    def argument_names(self) -> frozenset[str]:
        """What the program takes from a batch."""
        return self.modalities.argument_names

    def forward(self, size: int | None = None, **values: Tensor) -> dict[str, Tensor]:
        """Sample the latents given x (B, *x_shape) or factors, or both, and return them by site."""
        given, _ = self.modalities.given(values)
        if not given:
            raise InputError("guide", expected="x or a factor", got="none", hint=", ".join(self.modalities.shapes))
        with pyro.plate("data", self.modalities.rows(given, size), dim=-1):
            return {site: pyro.sample(site, distribution) for site, distribution in self.posterior(given).items()}

    def posterior(self, given: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the distribution of each latent by site: event shape (L_i,), batch shape (B,), or () of the prior."""
        distributions = {}
        if "x" in given:
            base = self.of_x.posterior(given["x"]).base_dist
            sizes = list(self.latents.values())
            for site, loc, scale in zip(
                self.latents, base.loc.split(sizes, -1), base.scale.split(sizes, -1), strict=True
            ):
                distributions[site] = dist.Normal(loc, scale).to_event(1)
        else:
            for site, size in self.latents.items():
                distributions[site] = dist.Normal(self.zero.expand(size), (self.zero + 1).expand(size)).to_event(1)
        of_factor: Any = self.of_factor
        return distributions | {f"z_{name}": of_factor[name].posterior(y) for name, y in given.items() if name != "x"}
