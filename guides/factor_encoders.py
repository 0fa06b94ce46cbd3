"""Posteriors of a disentangled pair, given known factors or the datum (Yang & Yao 2019, section 3.1).

q(z_i|y_i) = N(m_i(y_i), diag s_i(y_i)^2)      where factor i is given
q(z_i|x), q(z_rest|x)                          else, all from one network, where x is given
p(z_i)                                         else
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import Modalities, NormalHead, StandardNormal
from ppl_vae.nn.modalities import Shape, factor_latents
from ppl_vae.nn.normals import split


@configurable
class FactorEncoders(PyroModule):
    """q of the latents of known factors and of the rest, given x, some factors, or both.

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
        For an invalid size, or a factor without a latent; when called, for an unknown argument, other rows, or none.
    """

    def __init__(
        self, x_shape: Shape, factors: Mapping[str, Shape], latent_dims: Mapping[str, int], *,
        hidden: Sequence[int] = (200, 200), activation: str = "tanh",
    ) -> None:  # fmt: skip
        super().__init__()
        self.latents = factor_latents(factors, latent_dims)
        self.modalities = Modalities({"x": x_shape, **factors}, masked=False)
        shapes = self.modalities.shapes
        self.of_x = NormalHead(shapes["x"], sum(self.latents.values()), hidden=hidden, activation=activation)
        self.of_factor = nn.ModuleDict(
            {
                name: NormalHead(shapes[name], latent_dims[name], hidden=hidden, activation=activation)
                for name in factors
            }
        )
        self.prior = nn.ModuleDict({site: StandardNormal(size) for site, size in self.latents.items()})

    def forward(self, size: int | None = None, **values: Tensor) -> dict[str, Tensor]:
        """Sample the latents given x (B, *x_shape) or factors, or both, and return them by site."""
        given, _ = self.modalities.some(values)
        with self.modalities.plate(given, size):
            return {site: pyro.sample(site, distribution) for site, distribution in self.posterior(given).items()}

    def posterior(self, given: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the distribution of each latent by site: event shape (L_i,), batch shape (B,), or () of the prior."""
        if "x" in given:
            found = split(self.of_x(given["x"]), self.latents)
        else:
            found = {site: prior() for site, prior in self.prior.items()}
        return found | {f"z_{name}": self.of_factor[name](y) for name, y in given.items() if name != "x"}
