"""The generative half of a disentangled pair (Yang & Yao 2019, section 3.1).

p(z_rest) prod_i p(z_i) = N(0, I)
p(y_i|z_i) = likelihood_i(decoder_i(z_i))                        for each known factor i, of its own latent alone
p(x|z) = likelihood(decoder(z_1, ..., z_F, z_rest))

The paper's two bounds (ibid., eqs. 4 and 6) are those of `CrossModalELBO` with the weights {"x+y1+y2": w} and {"x": w},
w = {"x": w_x, "y1": w_1, "y2": w_2}, the decoders held in the second, and ``kl_weight = beta / (w_x + w_1 + w_2)``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.core.shapes import check_last_dimension
from ppl_vae.nn import Likelihood, Modalities, StandardNormal
from ppl_vae.nn.modalities import Shape, factor_latents, likelihood_heads, of_each


@configurable
class Disentangled(PyroModule):
    """Deep latent Gaussian model of x and of known factors, each with a latent of its own.

    Parameters
    ----------
    x_shape, factors : int or tuple of int, mapping of str to these
        Shape of x, and of each factor by name: its argument and site; that of its latent is ``z_<name>``.
    latent_dims : mapping of str to int
        L_i of each factor and, under ``"rest"``, of the latent of all else; without it there is no rest.
    likelihood, factor_likelihood : Likelihood or str, or mapping of these
        p(x|z) and p(y_i|z_i), or their names in `likelihoods.NAMES`; the second for all factors, or each by name.
    hidden, activation
        Of the networks, each an `MLP`; no hidden layer makes them affine.

    Raises
    ------
    InputError
        For an invalid size or name, or a factor without a latent; when called, for an unknown argument or other rows.
    """

    def __init__(
        self, x_shape: Shape, factors: Mapping[str, Shape], latent_dims: Mapping[str, int], *,
        likelihood: Likelihood | str = "normal-learned",
        factor_likelihood: Mapping[str, Likelihood | str] | Likelihood | str = "normal-learned",
        hidden: Sequence[int] = (200, 200), activation: str = "tanh",
    ) -> None:  # fmt: skip
        super().__init__()
        self.latents = factor_latents(factors, latent_dims)
        self.modalities = Modalities({"x": x_shape, **factors}, masked=False)
        inputs = {name: self.latents[f"z_{name}"] for name in factors} | {"x": sum(self.latents.values())}
        own = of_each("factor", factor_likelihood, factors)
        self.decoders = likelihood_heads(
            self.modalities, inputs, {"x": likelihood, **own}, hidden=hidden, activation=activation
        )
        self.prior = nn.ModuleDict({site: StandardNormal(size) for site, size in self.latents.items()})

    def forward(self, size: int | None = None, **values: Tensor) -> dict[str, Tensor]:
        """Sample the latents and observe x (B, *x_shape) and the factors given; with `size`, generate all."""
        given, _ = self.modalities.given(values)
        with self.modalities.plate(given, size):
            z = {site: pyro.sample(site, prior()) for site, prior in self.prior.items()}
            for name in given or self.modalities.shapes:
                pyro.sample(name, self.decode(z, name), obs=given.get(name))
            return z

    def decode(self, z: Mapping[str, Tensor], name: str = "x") -> Any:
        """Return p(x|z), or p(y_i|z_i) of the factor called `name`, for latents (..., L_i) by site."""
        sites = self.latents if name == "x" else [f"z_{name}"]
        parts = [check_last_dimension(site, z[site], self.latents[site]) for site in sites]
        return self.decoders[name](torch.cat(parts, -1))
