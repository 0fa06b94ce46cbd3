"""The encoder half of a hierarchical variational autoencoder, stacked (Burda et al. 2016, section 2).

q(z_1, ..., z_L|x) = q(z_1|x) q(z_2|z_1) ... q(z_L|z_{L-1})
q(z_k|z_{k-1}) = N(m_k(z_{k-1}), diag(s_k(z_{k-1}))^2),   z_0 = x

The model draws z_k given z_{k+1}, which comes later here. So only the top layer's KL has a closed form.
"""

import math
from collections.abc import Sequence
from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.core.shapes import as_shape
from ppl_vae.nn import data_plate, observed
from ppl_vae.nn.layers import as_latent_dims, layer_heads


@configurable
class BottomUp(PyroModule):
    """A Normal per layer, given a draw of the layer below it.

    Parameters
    ----------
    x_shape, latent_dims : int or tuple of int, sequence of int
        Shape of one datum, of D numbers; sizes of z_1, ..., z_L.
    hidden, activation, batch_norm, init
        Of the default networks, each an `MLP`; hidden layers of all, or one such sequence for each, z_1's first.
    networks : sequence of Module, optional
        L networks, from x (..., D), then z_{k-1}, to (..., 2 L_k): m_k, then a with s_k = softplus(a) + 1e-4.

    Raises
    ------
    InputError
        For an invalid size or name, or networks of another number; when called, for another shape of x or an output.
    """

    def __init__(
        self, x_shape: int | Sequence[int], latent_dims: Sequence[int] = (100, 50), *,
        hidden: Sequence[int] | Sequence[Sequence[int]] = (200, 200), activation: str = "tanh",
        batch_norm: bool = False, init: str = "default", networks: Sequence[nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.x_shape, self.latent_dims = as_shape("x_shape", x_shape), as_latent_dims(latent_dims)
        mlp: Any = {"hidden": hidden, "activation": activation, "batch_norm": batch_norm, "init": init}
        below = [math.prod(self.x_shape), *self.latent_dims]
        self.networks = layer_heads("networks", networks, below[:-1], self.latent_dims, **mlp)

    def forward(self, x: Tensor | None = None, size: int | None = None) -> tuple[Tensor, ...]:
        """Sample z_1, ..., z_L given `x` (B, *x_shape), and return them, each (..., B, L_k)."""
        z = [observed(x).flatten(-len(self.x_shape))]
        with data_plate(size, x=(x, self.x_shape)):
            for k, posterior in enumerate(self.networks, start=1):
                z.append(pyro.sample(f"z{k}", posterior(z[-1])))
        return tuple(z[1:])
