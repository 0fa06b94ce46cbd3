"""The generative half of a disentangled pair (Yang & Yao 2019, section 3.1).

p(z_rest) prod_i p(z_i) = N(0, I)
p(y_i|z_i) = likelihood_i(decoder_i(z_i))                        for each known factor i, of its own latent alone
p(x|z) = likelihood(decoder(z_1, ..., z_F, z_rest))

A datum is x, and factors y_1, ..., y_F that are known of it, such as the pose of a hand and the viewpoint. With
weights w_x, w_1, w_2 on the right, the paper's two bounds are those of `CrossModalELBO` (ibid., eqs. 4 and 6):

    ELBO_dis   {"x+y1+y2": {"x": w_x, "y1": w_1, "y2": w_2}}     z_i read off y_i, z_rest off x
    ELBO_emb   {"x": {"x": w_x, "y1": w_1, "y2": w_2}}           all read off x, the decoders held as they are

each with ``kl_weight = beta / (w_x + w_1 + w_2)``, since a weight there is one of the KL too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.checks import one_of
from ppl_vae.core.config import configurable
from ppl_vae.core.shapes import check_last_dimension
from ppl_vae.nn import Likelihood, Modalities, StandardNormal
from ppl_vae.nn.modalities import Shape, factor_latents, likelihood_heads


@configurable
class Disentangled(PyroModule):
    """Deep latent Gaussian model of x and of known factors, each of which has a part of the latent to itself.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum.
    factors : mapping of str to int or tuple of int
        Shape of one value of each factor; the names are arguments and sites, and that of a factor's latent is
        ``z_<name>``.
    latent_dims : mapping of str to int
        L_i of each factor and, under ``"rest"``, of what no known factor says; without it there is no rest.
    likelihood : Likelihood or str
        p(x|z), or its name in `likelihoods.NAMES`.
    factor_likelihood : Likelihood or str, or mapping of these
        p(y_i|z_i): one of a kind for all factors, each with parameters of its own, or one for each by name.
    hidden, activation
        Of the networks, each an `MLP`; no hidden layer makes them affine.

    Raises
    ------
    InputError
        If a size is below one, a name unknown, or a factor without a latent; when called, for an unknown argument, or
        arguments of different length.
    """

    def __init__(
        self,
        x_shape: Shape,
        factors: Mapping[str, Shape],
        latent_dims: Mapping[str, int],
        *,
        likelihood: Likelihood | str = "normal-learned",
        factor_likelihood: Mapping[str, Likelihood | str] | Likelihood | str = "normal-learned",
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        self.latents = factor_latents(factors, latent_dims)
        self.modalities = Modalities({"x": x_shape, **factors}, masked=False)
        inputs = {name: self.latents[f"z_{name}"] for name in factors} | {"x": sum(self.latents.values())}
        own = factor_likelihood if isinstance(factor_likelihood, Mapping) else dict.fromkeys(factors, factor_likelihood)
        for name in own:
            one_of("factor", name, factors)
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
        for site in sites:
            check_last_dimension(site, z[site], self.latents[site])
        return self.decoders[name](torch.cat([z[site] for site in sites], -1))
