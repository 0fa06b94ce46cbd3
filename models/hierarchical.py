"""The decoder half of a hierarchical variational autoencoder (Rezende et al. 2014; Burda et al. 2016, section 2).

p(x, z_1, ..., z_L) = p(x|z_1) p(z_1|z_2) ... p(z_{L-1}|z_L) p(z_L)

p(z_L) = N(0, I),   p(z_k|z_{k+1}) = N(m_k(z_{k+1}), diag(s_k(z_{k+1}))^2),   p(x|z_1) = likelihood(decoder(z_1))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_shape, batch_size, check_last_dimension
from ppl_vae.nn import likelihoods
from ppl_vae.nn.layers import as_latent_dims, as_normal, hidden_of_layers, normal_networks
from ppl_vae.nn.likelihoods import Likelihood
from ppl_vae.nn.mlp import MLP


@configurable
class Hierarchical(PyroModule):
    """Deep latent Gaussian model with L layers of latents, ``z1`` nearest the data to ``zL``.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    latent_dims : sequence of int
        Sizes of z_1, ..., z_L.
    hidden : sequence of int, or one such sequence per layer
        Hidden layers of the network below each z_k, the decoder's first; one sequence is for all of them.
    activation, batch_norm, init
        Of the default networks, each an `MLP`.
    likelihood : Likelihood or str
        p(x|z_1), or its name in `likelihoods.NAMES`.
    decoder : Module, optional
        Maps z_1 (..., L_1) to (..., P*D), laid out (P, D), with P the likelihood's `parameters_per_dim`.
    conditionals : sequence of Module, optional
        L - 1 networks; that of p(z_k|z_{k+1}) maps (..., L_{k+1}) to (..., 2 L_k): m_k, then a with
        s_k = softplus(a) + 1e-4.

    Raises
    ------
    InputError
        If there is no layer, a size is below one, a name unknown, or the networks are of another number; when called,
        if x is not (B, *x_shape), or a network's output has another size.
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dims: Sequence[int] = (100, 50),
        *,
        hidden: Sequence[int] | Sequence[Sequence[int]] = (200, 200),
        activation: str = "tanh",
        batch_norm: bool = False,
        init: str = "default",
        likelihood: Likelihood | str = "bernoulli",
        decoder: nn.Module | None = None,
        conditionals: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.x_shape = as_shape("x_shape", x_shape)
        self.latent_dims = as_latent_dims(latent_dims)
        self.likelihood = likelihoods.of(likelihood)
        first, *others = hidden_of_layers(hidden, len(self.latent_dims))
        build = partial(MLP, activation=activation, batch_norm=batch_norm, init=init)
        outputs = self.likelihood.parameters_per_dim * math.prod(self.x_shape)
        self.decoder = build(self.latent_dims[0], outputs, first) if decoder is None else decoder
        *sizes, _ = self.latent_dims
        above = self.latent_dims[1:]
        self.conditionals = normal_networks("conditionals", conditionals, above, sizes, others, build)
        self.register_buffer("prior_loc", torch.zeros(self.latent_dims[-1]))
        self.register_buffer("prior_scale", torch.ones(self.latent_dims[-1]))

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z_L, ..., z_1, then x, or observe `x` (B, *x_shape); with `size` = B instead, generate. Returns x."""
        with pyro.plate("data", batch_size(x, self.x_shape, size), dim=-1):
            z: Any = None
            for k in range(len(self.latent_dims), 0, -1):
                z = pyro.sample(f"z{k}", self.conditional(k, z))
            return pyro.sample("x", self.decode(z), obs=x)

    def conditional(self, k: int, above: Tensor | None = None) -> Any:
        """Return p(z_k|z_{k+1}) for z_{k+1} (..., L_{k+1}), or p(z_L): batch shape (...) or (), event shape (L_k,)."""
        top = len(self.latent_dims)
        if not 1 <= k <= top or (above is None) != (k == top):
            given = "none" if above is None else "one above it"
            raise InputError(
                f"layer {k}",
                expected=f"a layer from 1 to {top}, given the one above it, or the layer {top} alone",
                got=f"layer {k} given {given}",
                hint="a guide for as many layers as the model has",
            )
        if above is None:
            return dist.Normal(self.prior_loc, self.prior_scale).to_event(1)
        check_last_dimension(f"z{k + 1}", above, self.latent_dims[k])
        return as_normal(self.conditionals[k - 1](above), self.latent_dims[k - 1])

    def decode(self, z: Tensor) -> Any:
        """Return p(x|z_1) for z_1 (..., L_1): batch shape (...), event shape x_shape."""
        check_last_dimension("z1", z, self.latent_dims[0])
        return self.likelihood.of_network(self.decoder(z), self.x_shape)
