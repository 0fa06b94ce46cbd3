"""The encoder half of a ladder variational autoencoder (Sønderby et al. 2016, eqs. 10 to 19).

d_k = h_k(d_{k-1}), d_0 = x,   m^_k = affine(d_k),   s^_k = softplus(affine(d_k)) + 1e-4   bottom-up, deterministic

q(z_L|x) = N(m^_L, diag(s^_L)^2),   q(z_k|z_{k+1}, x) = N(m_k, diag(s_k)^2)        top-down

s_k^-2 = s^_k^-2 + t_k^-2,   m_k = s_k^2 (s^_k^-2 m^_k + t_k^-2 n_k),   where p(z_k|z_{k+1}) = N(n_k, diag(t_k)^2)

What x says of z_k and what the model says of it are weighed by their precisions, as in the posterior of a Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.checks import check_like
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_shape, batch_size
from ppl_vae.nn.layers import as_latent_dims, as_normal, hidden_of_layers, last_width
from ppl_vae.nn.mlp import MLP


@configurable
class Ladder(PyroModule):
    """A Normal per layer: the model's own conditional, corrected by what the datum says of that layer.

    Parameters
    ----------
    model : Module
        The model of the pair, which this guide asks for p(z_k|z_{k+1}). It has ``x_shape``, ``latent_dims`` (sizes of
        z_1, ..., z_L) and ``conditional(k, above)``, which returns a Normal of event shape (L_k,), as
        `ppl_vae.models.Hierarchical` does. Its parameters stay its own: the guide has none of them in its `state_dict`.
    hidden : sequence of int, or one such sequence per layer
        Hidden layers of h_1, ..., h_L; one sequence is for all of them.
    activation, batch_norm, init
        Of these layers.
    encoder : Module, optional
        Maps x, flattened to (..., D), to what the ladder starts from in the place of x, d_0 (..., `out_features`).

    Raises
    ------
    InputError
        If `model` has no conditionals, a size is below one, a name unknown, or the widths are of another number; when
        called, if x is not (..., *x_shape), or a conditional is no Normal.

    Examples
    --------
    >>> model = Hierarchical(784, (64, 32, 16))                     # doctest: +SKIP
    >>> pair = ppl_vae.Pair(model, Ladder(model))                   # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        *,
        hidden: Sequence[int] | Sequence[Sequence[int]] = (200, 200),
        activation: str = "tanh",
        batch_norm: bool = False,
        init: str = "default",
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not callable(getattr(model, "conditional", None)):
            raise InputError(
                "model",
                expected="the pair's model, with x_shape, latent_dims and conditional(k, above)",
                got=type(model).__name__,
                hint="Pair(model, Ladder(model))",
            )
        self.x_shape = as_shape("x_shape", model.x_shape)
        self.latent_dims = as_latent_dims(model.latent_dims)
        # A method, where the model itself would be a submodule: its parameters would be registered twice.
        self.conditional = model.conditional
        self.encoder = encoder
        if encoder is not None:
            check_like("encoder", encoder, ("out_features",), "a module with out_features")
        inputs: int = math.prod(self.x_shape) if encoder is None else encoder.out_features  # type: ignore[assignment]
        networks = []
        for size, widths in zip(self.latent_dims, hidden_of_layers(hidden, len(self.latent_dims)), strict=True):
            networks.append(MLP(inputs, 2 * size, widths, activation, batch_norm, init))
            inputs = last_width(widths, inputs)
        self.evidence_networks = nn.ModuleList(networks)

    def forward(self, x: Tensor | None = None, size: int | None = None) -> tuple[Tensor, ...]:
        """Sample z_L, ..., z_1 given `x` (B, *x_shape), and return z_1, ..., z_L, each (..., B, L_k)."""
        if x is None:
            raise InputError("guide", expected="an observation x", got="None", hint="guide(x=x)")
        with pyro.plate("data", batch_size(x, self.x_shape, size), dim=-1):
            drawn: list[Tensor] = []
            for k, evidence in reversed(list(enumerate(self.evidence(x), start=1))):
                q = merge(evidence, self.conditional(k, drawn[-1])) if drawn else evidence
                drawn.append(pyro.sample(f"z{k}", q))
        return tuple(reversed(drawn))

    def evidence(self, x: Tensor) -> list[Any]:
        """Return N(m^_k, diag(s^_k)^2) for k = 1, ..., L and x (..., *x_shape): batch shape (...)."""
        flat = x.flatten(-len(self.x_shape))
        d = flat if self.encoder is None else self.encoder(flat)
        batch, d = d.shape[:-1], d.reshape(-1, d.shape[-1])  # batch norm takes one leading dimension
        found = []
        for network, size in zip(self.evidence_networks, self.latent_dims, strict=True):
            *inner, affine = network.get_submodule("layers").children()
            for layer in inner:
                d = layer(d)
            found.append(as_normal(affine(d).reshape(*batch, 2 * size), size))
        return found


def merge(first: Any, second: Any) -> Any:
    """Return the Normal whose precision is the sum of the two's, and whose mean weighs theirs by their precisions.

    With w = t^2 / (s^2 + t^2) its mean is n + w (m - n) and its variance w s^2, for N(m, s^2) and N(n, t^2): no
    precision is formed, so that a very small or a very large scale keeps its digits.

    Raises
    ------
    InputError
        If one is not a diagonal Normal.
    """
    for fn in (first, second):
        if not (isinstance(fn, dist.Independent) and isinstance(fn.base_dist, dist.Normal)):
            raise InputError("conditional", expected="a diagonal Normal", got=type(fn).__name__)
    m, s, n, t = first.base_dist.loc, first.base_dist.scale, second.base_dist.loc, second.base_dist.scale
    share = t.square() / (s.square() + t.square())
    return dist.Normal(n + share * (m - n), share.sqrt() * s).to_event(1)
