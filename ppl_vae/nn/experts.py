"""Experts, one factor of the posterior for each modality, and how they are joined.

An expert is e_m(z) = exp(-1/2 z'A_m z + z'h_m). With the prior N(0, I), those of a set A of modalities have the product

q_A(z) = p(z) prod_A e_m(z) / const = N(u, P^-1),   P = I + sum_A A_m,   u = P^-1 sum_A h_m
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.core.checks import integer_at_least, one_of
from ppl_vae.nn.distributions.fixed_mixture import FixedMixture
from ppl_vae.nn.heads import Head
from ppl_vae.nn.modalities import Modalities
from ppl_vae.nn.normals import lower_triangle, normal_outputs

JOINS = ("product", "mixture", "mixture-of-products")
COVARIANCES = ("diagonal", "full")
LOCATIONS = ("shift", "mean")


class ExpertHead(Head):
    """(h_m, A_m) of one modality, an encoder's output: A_m = diag(exp(2 a)), or TT' with T lower triangular.

    Parameters
    ----------
    x_shape : tuple of int
        Shape of one datum of the modality.
    latent_dim : int
        L.
    covariance : {"diagonal", "full"}
        Of A_m.
    location : {"shift", "mean"}
        Whether the encoder gives h_m, or m_m with h_m = A_m m_m.
    name : str
        Of the modality.
    network, hidden, activation
        The encoder, or of the default one, an `MLP`.
    """

    def __init__(
        self,
        x_shape: tuple[int, ...],
        latent_dim: int,
        *,
        covariance: str,
        location: str,
        name: str,
        network: nn.Module | None = None,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
    ) -> None:
        super().__init__(x_shape, name)
        self.latent_dim, self.covariance, self.location = latent_dim, covariance, location
        self.add_network(normal_outputs(latent_dim, covariance), f"the encoder of {name}", network, hidden, activation)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return h_m (B, L) and A_m, (B, L) where diagonal, else (B, L, L), for x (B, *x_shape)."""
        output = self.output(x)
        location, spread = output[..., : self.latent_dim], output[..., self.latent_dim :]
        if self.covariance == "diagonal":
            A = (2 * spread).exp()
            return (A * location if self.location == "mean" else location), A
        T = lower_triangle(spread, self.latent_dim)
        A = T @ T.mT
        return ((A @ location.unsqueeze(-1)).squeeze(-1) if self.location == "mean" else location), A


class JoinedExperts(nn.Module):
    """q(z|x_S) for any subset S of modalities that a datum has: a product of experts, or a mixture of products.

    Parameters
    ----------
    modalities : Modalities
        Names and shapes.
    latent_dim : int
        L.
    join : {"product", "mixture", "mixture-of-products"}
        q_S; the mean of q_{m} over m in S; or the mean of q_A over all non-empty A in S.
    covariance, location
        Of `ExpertHead`.
    networks : mapping of str to Module, optional
        Encoders instead of the default ones, each an `MLP`.
    hidden, activation
        Of these.

    Raises
    ------
    InputError
        If a size is below one, or a name unknown.
    """

    def __init__(
        self,
        modalities: Modalities,
        latent_dim: int,
        *,
        join: str = "product",
        covariance: str = "diagonal",
        location: str = "shift",
        networks: Mapping[str, nn.Module] | None = None,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        one_of("join", join, JOINS)
        one_of("covariance", covariance, COVARIANCES)
        one_of("location", location, LOCATIONS)
        self.latent_dim, self.join, self.covariance = integer_at_least("latent_dim", latent_dim, 1), join, covariance
        own = modalities.of_each("encoders", networks)
        self.experts = nn.ModuleDict()
        for name, shape in modalities.shapes.items():
            self.experts[name] = ExpertHead(
                shape, self.latent_dim, covariance=covariance, location=location, name=name,
                network=own.get(name), hidden=hidden, activation=activation,
            )  # fmt: skip

    def forward(self, values: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Any:
        """Return q(z|x_S), p(z) where a datum has none: batch shape (B,), event shape (L,)."""
        shifts, precisions = zip(*(self.experts[name](x) for name, x in values.items()), strict=True)
        there = torch.stack([masks.get(name, x.new_ones(len(x), dtype=torch.bool)) for name, x in values.items()], -1)
        shift, precision = torch.stack(shifts, 1), torch.stack(precisions, 1)  # (B, M, ...)
        if self.join == "product":
            return self._product(there, shift, precision)
        subsets = self._subsets(len(values), there.device)
        valid = (there[:, None] | ~subsets).all(-1)  # (B, A): every member is there
        valid = torch.cat((valid[:, :-1], ~valid[:, :-1].any(-1, keepdim=True)), -1).to(shift.dtype)
        components = self._product(subsets, shift[:, None], precision[:, None])
        return FixedMixture(valid / valid.sum(-1, keepdim=True), components)

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
        """Return the set of modalities of each component, (A, M) boolean; the last one empty, for the prior."""
        bits = torch.arange(M, device=device)  # created on the device: a recorded program must not copy to it
        codes = 2**bits if self.join == "mixture" else torch.arange(1, 2**M, device=device)
        codes = torch.cat((codes, torch.zeros_like(codes[:1])))
        return (codes[:, None] >> bits) % 2 == 1
