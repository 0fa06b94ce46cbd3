"""The decoder half of a hierarchical variational autoencoder (Rezende et al. 2014; Burda et al. 2016, section 2).

p(x, z_1, ..., z_L) = p(x|z_1) p(z_1|z_2) ... p(z_{L-1}|z_L) p(z_L)

p(z_L) = N(0, I),   p(z_k|z_{k+1}) = N(m_k(z_{k+1}), diag(s_k(z_{k+1}))^2),   p(x|z_1) = likelihood(decoder(z_1))
"""

from collections.abc import Sequence
from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import Likelihood, LikelihoodHead, StandardNormal, data_plate
from ppl_vae.nn.layers import as_latent_dims, check_layer, hidden_of_layers, layer_heads


@configurable
class Hierarchical(PyroModule):
    """Deep latent Gaussian model with L layers of latents, ``z1`` nearest the data to ``zL``.

    Parameters
    ----------
    x_shape, latent_dims : int or tuple of int, sequence of int
        Shape of one datum, of D numbers; sizes of z_1, ..., z_L.
    hidden, activation, batch_norm, init
        Of the default networks, each an `MLP`; hidden layers of all, or of each below z_1, z_2, ..., the decoder first.
    likelihood : Likelihood or str
        p(x|z_1), or its name in `likelihoods.NAMES`.
    decoder, conditionals : Module, sequence of Module, optional
        From z_1 to (..., P*D), laid out (P, D), with P the likelihood's `parameters_per_dim`; and L - 1 networks, from
        z_{k+1} to (..., 2 L_k): m_k, then a with s_k = softplus(a) + 1e-4.

    Raises
    ------
    InputError
        For an invalid size or name, or networks of another number; when called, for another shape of x or an output.
    """

    def __init__(
        self, x_shape: int | Sequence[int], latent_dims: Sequence[int] = (100, 50), *,
        hidden: Sequence[int] | Sequence[Sequence[int]] = (200, 200), activation: str = "tanh",
        batch_norm: bool = False, init: str = "default", likelihood: Likelihood | str = "bernoulli",
        decoder: nn.Module | None = None, conditionals: Sequence[nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.latent_dims = as_latent_dims(latent_dims)
        first, *others = hidden_of_layers(hidden, len(self.latent_dims))
        head = self.decode = LikelihoodHead(
            x_shape, self.latent_dims[0], likelihood, network=decoder, name="z1",
            hidden=first, activation=activation, batch_norm=batch_norm, init=init,
        )  # fmt: skip
        above, below = self.latent_dims[1:], self.latent_dims[:-1]
        self.conditionals = layer_heads(
            "conditionals", conditionals, above, below, others, activation=activation, batch_norm=batch_norm, init=init
        )
        self.prior = StandardNormal(self.latent_dims[-1])
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
