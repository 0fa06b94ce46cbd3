"""The evidence of a datum on each layer of a ladder, computed bottom-up (Sønderby et al. 2016, eqs. 10 to 12)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ppl_vae.core.checks import check_like
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_shape
from ppl_vae.nn.layers import as_latent_dims, hidden_of_layers, last_width
from ppl_vae.nn.mlp import MLP
from ppl_vae.nn.normals import layer_normal


class LadderEvidence(nn.Module):
    """d_k = h_k(d_{k-1}), d_0 = x, m^_k = affine(d_k), s^_k = softplus(affine(d_k)) + 1e-4, all deterministic.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    latent_dims : sequence of int
        Sizes of z_1, ..., z_L.
    encoder : Module, optional
        Maps x, flattened to (..., D), to d_0 (..., `out_features`).
    hidden : sequence of int, or one such sequence per layer
        Hidden layers of h_1, ..., h_L.
    activation, batch_norm, init
        Of these layers.
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dims: Sequence[int],
        encoder: nn.Module | None = None,
        *,
        hidden: Sequence[int] | Sequence[Sequence[int]] = (200, 200),
        activation: str = "tanh",
        batch_norm: bool = False,
        init: str = "default",
    ) -> None:
        super().__init__()
        self.x_shape, self.latent_dims = as_shape("x_shape", x_shape), as_latent_dims(latent_dims)
        self.encoder = encoder
        if encoder is not None:
            check_like("encoder", encoder, ("out_features",), "a module with out_features")
        inputs: int = math.prod(self.x_shape) if encoder is None else encoder.out_features  # type: ignore[assignment]
        networks = []
        for size, widths in zip(self.latent_dims, hidden_of_layers(hidden, len(self.latent_dims)), strict=True):
            networks.append(MLP(inputs, 2 * size, widths, activation, batch_norm, init))
            inputs = last_width(widths, inputs)
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> list[Any]:
        """Return N(m^_k, diag(s^_k)^2) for k = 1, ..., L and x (..., *x_shape): batch shape (...)."""
        flat = x.flatten(-len(self.x_shape))
        d = flat if self.encoder is None else self.encoder(flat)
        batch, d = d.shape[:-1], d.reshape(-1, d.shape[-1])  # batch norm takes one leading dimension
        found = []
        for network, size in zip(self.networks, self.latent_dims, strict=True):
            *inner, affine = network.get_submodule("layers").children()
            for layer in inner:
                d = layer(d)
            found.append(layer_normal(affine(d).reshape(*batch, 2 * size), size))
        return found


def check_conditionals(model: Any) -> Callable[..., Any]:
    """Return ``model.conditional``, which gives p(z_k|z_{k+1}), or raise `InputError` where a model has none."""
    if not callable(getattr(model, "conditional", None)):
        raise InputError(
            "model",
            expected="the pair's model, with x_shape, latent_dims and conditional(k, above)",
            got=type(model).__name__,
            hint="Pair(model, Ladder(model))",
        )
    return model.conditional
