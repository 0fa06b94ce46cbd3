"""Posteriors given any subset S of modalities, joined from an expert for each.

An expert is a factor e_m(z) = exp(-1/2 z'A_m z + z'h_m). Of a set A of modalities,

q_A(z) = p(z) prod_A e_m(z) / const = N(u, P^-1),   P = I + sum_A A_m,   u = P^-1 sum_A h_m

An encoder gives (h_m, A_m), or (m_m, A_m) with h_m = A_m m_m: then e_m is N(m_m, A_m^-1), and the more certain expert
needs no larger outputs.

product               q = q_S                                             (Wu & Goodman 2018, eq. 3)
mixture               q = 1/|S| sum_{m in S} q_{m}                        (Shi et al. 2019, section 3.1)
mixture-of-products   q = 1/(2^|S| - 1) sum_{A in S, A not empty} q_A     (Sutter et al. 2021, eq. 6)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.core.checks import integer_at_least, one_of
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import check_last_dimension
from ppl_vae.guides.amortized_normal import lower_triangle
from ppl_vae.nn.distributions.fixed_mixture import FixedMixture
from ppl_vae.nn.mlp import MLP
from ppl_vae.nn.modalities import Modalities, Shape

JOINS = ("product", "mixture", "mixture-of-products")
COVARIANCES = ("diagonal", "full")
LOCATIONS = ("shift", "mean")


@configurable
class Experts(PyroModule):
    """q(z|x_S) for whichever modalities of a datum are there.

    Parameters
    ----------
    modalities : mapping of str to int or tuple of int
        Shape of one datum of each modality, by name.
    latent_dim : int
        L.
    join : {"product", "mixture", "mixture-of-products"}
        How experts are joined; the last has 2^M - 1 components.
    covariance : {"diagonal", "full"}
        Of the precisions A_m: exp(2 a), or TT' with T lower triangular. Full ones with affine encoders hold the exact
        posteriors of linear-Gaussian modalities.
    location : {"shift", "mean"}
        Whether encoders give h_m, which grows with the precision, or m_m. Where experts are far more certain than the
        prior, as at a small weight of the KL, networks learn means better.
    hidden, activation
        Of the default encoders, each an `MLP`.
    encoders : mapping of str to Module, optional
        Instead of the default ones: each maps x_m, flattened, to (..., L + L) or, full, (..., L + L (L + 1) / 2).

    Raises
    ------
    InputError
        If a size is below one, or a name unknown; when called, for an unknown modality, modalities of different
        length, a mask of another shape, or a datum with none.
    """

    def __init__(
        self,
        modalities: Mapping[str, Shape],
        latent_dim: int,
        *,
        join: str = "product",
        covariance: str = "diagonal",
        location: str = "shift",
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        encoders: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        one_of("join", join, JOINS)
        one_of("covariance", covariance, COVARIANCES)
        one_of("location", location, LOCATIONS)
        self.modalities = Modalities(modalities)
        self.latent_dim = integer_at_least("latent_dim", latent_dim, 1)
        self.join, self.covariance, self.location = join, covariance, location
        spread = latent_dim if covariance == "diagonal" else latent_dim * (latent_dim + 1) // 2
        self.outputs = latent_dim + spread
        self.encoders = nn.ModuleDict()
        encoders = self.modalities.of_each("encoders", encoders)
        for name, shape in self.modalities.shapes.items():
            own = encoders.get(name)
            self.encoders[name] = MLP(math.prod(shape), self.outputs, hidden, activation) if own is None else own

    @property
    def argument_names(self) -> frozenset[str]:
        """What the program takes from a batch."""
        return self.modalities.argument_names

    def forward(self, size: int | None = None, **modalities: Tensor) -> Tensor:
        """Sample z given the modalities that are there, (B, *x_shape) each, and return it, (..., B, L)."""
        values, masks = self.modalities.given(modalities)
        if not values:
            hint = ", ".join(self.modalities.shapes)
            raise InputError("guide", expected="at least one modality", got="none", hint=hint)
        with pyro.plate("data", self.modalities.rows(values, size), dim=-1):
            return pyro.sample("z", self.posterior(values, masks))

    def posterior(self, values: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Any:
        """Return q(z|x_S), p(z) where a datum has none: batch shape (B,), event shape (L,)."""
        shifts, precisions = zip(*(self.expert(name, x) for name, x in values.items()), strict=True)
        there = torch.stack([masks.get(name, x.new_ones(len(x), dtype=torch.bool)) for name, x in values.items()], -1)
        shift, precision = torch.stack(shifts, 1), torch.stack(precisions, 1)  # (B, M, ...)
        if self.join == "product":
            return self._product(there, shift, precision)
        subsets = self._subsets(len(values), there.device)
        valid = (there[:, None] | ~subsets).all(-1)  # (B, A): every member is there
        valid = torch.cat((valid[:, :-1], ~valid[:, :-1].any(-1, keepdim=True)), -1).to(shift.dtype)
        components = self._product(subsets, shift[:, None], precision[:, None])
        return FixedMixture(valid / valid.sum(-1, keepdim=True), components)

    def expert(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return h_m (B, L) and A_m, (B, L) where diagonal, else (B, L, L), of one modality."""
        output = self.encoders[name](x.flatten(-len(self.modalities.shapes[name])))
        check_last_dimension(f"output of the encoder of {name}", output, self.outputs)
        location, spread = output[..., : self.latent_dim], output[..., self.latent_dim :]
        if self.covariance == "diagonal":
            A = (2 * spread).exp()
            return (A * location if self.location == "mean" else location), A
        T = lower_triangle(spread, self.latent_dim)
        A = T @ T.mT
        return ((A @ location.unsqueeze(-1)).squeeze(-1) if self.location == "mean" else location), A

    def _product(self, members: Tensor, shift: Tensor, precision: Tensor) -> Any:
        """Return N(u, P^-1) of the experts that are `members` (..., M)."""
        chosen = members.unsqueeze(-1).to(shift.dtype)
        h = (chosen * shift).sum(-2)
        if self.covariance == "diagonal":
            P = 1 + (chosen * precision).sum(-2)
            return dist.Normal(h / P, P.rsqrt()).to_event(1)
        eye = torch.eye(self.latent_dim, dtype=shift.dtype, device=shift.device)
        P = eye + (chosen.unsqueeze(-1) * precision).sum(-3)
        u = torch.cholesky_solve(h.unsqueeze(-1), torch.linalg.cholesky(P)).squeeze(-1)
        return dist.MultivariateNormal(u, precision_matrix=P)

    def _subsets(self, M: int, device: torch.device) -> Tensor:
        """Return the sets of modalities that have a component each, (A, M) boolean; last that of none, the prior."""
        bits = torch.arange(M, device=device)  # made on the device: a recorded program copies nothing to it
        codes = 2**bits if self.join == "mixture" else torch.arange(1, 2**M, device=device)
        codes = torch.cat((codes, torch.zeros_like(codes[:1])))
        return (codes[:, None] >> bits) % 2 == 1

    def check_values(self, **modalities: Tensor) -> None:
        """Raise `InputError` for a datum of which every modality is missing."""
        self.modalities.check_values(modalities)
