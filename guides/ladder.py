"""The encoder half of a ladder variational autoencoder (Sønderby et al. 2016, eqs. 10 to 19).

d_k = h_k(d_{k-1}), d_0 = x,   m^_k = affine(d_k),   s^_k = softplus(affine(d_k)) + 1e-4   bottom-up, deterministic

q(z_L|x) = N(m^_L, diag(s^_L)^2),   q(z_k|z_{k+1}, x) = N(m_k, diag(s_k)^2)        top-down

s_k^-2 = s^_k^-2 + t_k^-2,   m_k = s_k^2 (s^_k^-2 m^_k + t_k^-2 n_k),   where p(z_k|z_{k+1}) = N(n_k, diag(t_k)^2)

The evidence of x on z_k and the model's conditional are weighted by their precisions, as in a Gaussian posterior.
"""

from collections.abc import Sequence
from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.config import configurable
from ppl_vae.nn import data_plate, observed
from ppl_vae.nn.evidence import LadderEvidence, check_conditionals
from ppl_vae.nn.normals import product


@configurable
class Ladder(PyroModule):
    """A Normal per layer: the product of the model's conditional and the evidence of the datum on that layer.

    Parameters
    ----------
    model : Module
        The model of the pair, which gives p(z_k|z_{k+1}). It has ``x_shape``, ``latent_dims`` (sizes of
        z_1, ..., z_L) and ``conditional(k, above)``, which returns a Normal of event shape (L_k,), as
        `ppl_vae.models.Hierarchical` does. Its parameters are not in the guide's `state_dict`.
    hidden : sequence of int, or one such sequence per layer
        Hidden layers of h_1, ..., h_L; one sequence is for all of them.
    activation, batch_norm, init
        Of these layers.
    encoder : Module, optional
        Maps x, flattened to (..., D), to d_0 (..., `out_features`), instead of d_0 = x.

    Raises
    ------
    InputError
        For a `model` without conditionals, or an invalid size or name; when called, for another shape of x.

    Examples
    --------
    >>> model = Hierarchical(784, (64, 32, 16))                     # doctest: +SKIP
    >>> pair = ppl_vae.Pair(model, Ladder(model))                   # doctest: +SKIP
    """

    def __init__(
        self, model: Any, *, hidden: Sequence[int] | Sequence[Sequence[int]] = (200, 200), activation: str = "tanh",
        batch_norm: bool = False, init: str = "default", encoder: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        # A bound method: the model itself would be a submodule, with its parameters registered twice.
        self.conditional = check_conditionals(model)
        self.evidence = LadderEvidence(
            model.x_shape, model.latent_dims, encoder,
            hidden=hidden, activation=activation, batch_norm=batch_norm, init=init,
        )  # fmt: skip
        self.x_shape, self.latent_dims = self.evidence.x_shape, self.evidence.latent_dims

    def forward(self, x: Tensor | None = None, size: int | None = None) -> tuple[Tensor, ...]:
        """Sample z_L, ..., z_1 given `x` (B, *x_shape), and return z_1, ..., z_L, each (..., B, L_k)."""
        with data_plate(size, x=(observed(x), self.x_shape)):
            z: list[Tensor] = []
            for k, evidence in reversed(list(enumerate(self.evidence(x), start=1))):
                q = product(evidence, self.conditional(k, z[-1])) if z else evidence
                z.append(pyro.sample(f"z{k}", q))
        return tuple(reversed(z))
