"""The encoder half of a hierarchical variational autoencoder, in the order in which the model draws.

q(z_1, ..., z_L|x) = q(z_L|x) q(z_{L-1}|z_L, x) ... q(z_1|z_2, x)

q(z_k|z_{k+1}, x) = N(m_k(x, z_{k+1}), diag(s_k(x, z_{k+1}))^2)

The exact posterior factorises so, and every KL has a closed form, since guide and model condition on the same z_{k+1}.
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
class TopDown(PyroModule):
    """A Normal per layer, given the datum and a draw of the layer above.

    Parameters
    ----------
    x_shape, latent_dims : int or tuple of int, sequence of int
        Shape of one datum, of D numbers; sizes of z_1, ..., z_L.
    hidden, activation, batch_norm, init
        Of the default networks, each an `MLP`; hidden layers of all, or one such sequence for each, z_1's first.
    networks : sequence of Module, optional
        L networks, z_1's first, of x (..., D) and z_{k+1} (..., L_{k+1}), which broadcast, the last of x alone, to
        (..., 2 L_k): m_k, then a with s_k = softplus(a) + 1e-4.

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
        inputs = [math.prod(self.x_shape) + above for above in (*self.latent_dims[1:], 0)]
        self.networks = layer_heads("networks", networks, inputs, self.latent_dims, **mlp)

    def forward(self, x: Tensor | None = None, size: int | None = None) -> tuple[Tensor, ...]:
        """Sample z_L, ..., z_1 given `x` (B, *x_shape), and return z_1, ..., z_L, each (..., B, L_k)."""
        x, z = observed(x), list[Tensor]()
        with data_plate(size, x=(x, self.x_shape)):
            for k in range(len(self.latent_dims), 0, -1):
                z.append(pyro.sample(f"z{k}", self.posterior(k, x, *z[-1:])))
        return tuple(reversed(z))

    def posterior(self, k: int, x: Tensor, *above: Tensor) -> Any:
        """Return q(z_k|z_{k+1}, x), or q(z_L|x): batch shape (..., B), event shape (L_k,)."""
        return self.networks[k - 1](x.flatten(-len(self.x_shape)), *above)
