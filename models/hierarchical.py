"""The decoder half of a hierarchical variational autoencoder (Rezende et al. 2014; Burda et al. 2016, section 2).

p(x, z_1, ..., z_L) = p(x|z_1) p(z_1|z_2) ... p(z_{L-1}|z_L) p(z_L)

p(z_L) = N(0, I),   p(z_k|z_{k+1}) = N(m_k(z_{k+1}), diag(s_k(z_{k+1}))^2),   p(x|z_1) = likelihood(decoder(z_1))
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import MLP, Likelihood, LikelihoodHead, StandardNormal, data_plate
from ppl_vae.nn.layers import as_latent_dims, check_layer, hidden_of_layers, layer_heads


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
        self.latent_dims = as_latent_dims(latent_dims)
        build = partial(MLP, activation=activation, batch_norm=batch_norm, init=init)
        first, *others = hidden_of_layers(hidden, len(self.latent_dims))
        head = self.decode = LikelihoodHead(
            x_shape, self.latent_dims[0], likelihood, network=decoder, name="z1",
            hidden=first, activation=activation, batch_norm=batch_norm, init=init,
        )  # fmt: skip
        *sizes, top = self.latent_dims
        above = self.latent_dims[1:]
        self.conditionals = layer_heads("conditionals", conditionals, above, sizes, others, build)
        self.prior = StandardNormal(top)
        self.x_shape = head.event_shape

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample z_L, ..., z_1, then x, or observe `x` (B, *x_shape); with `size` = B instead, generate. Returns x."""
        with data_plate(size, x=(x, self.x_shape)):
            z: Any = None
            for k in range(len(self.latent_dims), 0, -1):
                z = pyro.sample(f"z{k}", self.conditional(k, z))
            return pyro.sample("x", self.decode(z), obs=x)

    def conditional(self, k: int, above: Tensor | None = None) -> Any:
        """Return p(z_k|z_{k+1}) for z_{k+1} (..., L_{k+1}), or p(z_L): batch shape (...) or (), event shape (L_k,)."""
        check_layer(k, above, self.latent_dims)
        return self.prior() if above is None else self.conditionals[k - 1](above)
