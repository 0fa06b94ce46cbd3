"""Normals of a network's output: of a guide, of a layer in a hierarchy, and the product of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.core.checks import integer_at_least, one_of
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_shape, check_last_dimension
from ppl_vae.nn.conditioning import Condition
from ppl_vae.nn.heads import Head

COVARIANCES = ("diagonal", "full", "isotropic")

#: Floor of a layer's scale, well above the rounding error of a mean of order one.
MINIMUM_SCALE = 1e-4


def normal_outputs(latent_dim: int, covariance: str = "diagonal") -> int:
    """Return the output size of an encoder: the mean's numbers and the covariance's."""
    one_of("covariance", covariance, COVARIANCES)
    latent_dim = integer_at_least("latent_dim", latent_dim, 1)
    spread = {"diagonal": latent_dim, "isotropic": 1, "full": latent_dim * (latent_dim + 1) // 2}
    return latent_dim + spread[covariance]


class NormalHead(Head):
    """N(m(x), C(x)) or N(m(x, c), C(x, c)), mean and covariance a network's output.

    Diagonal: C = diag(exp(2 h)), h (L,) (Burda et al. 2016); isotropic: C = exp(2 h) I, h scalar; full: C = T T', T
    lower triangular, its diagonal an exponential (Kingma & Welling 2019, section 2.5.1).

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one input; D is its product.
    latent_dim : int
        L.
    covariance : {"diagonal", "isotropic", "full"}
        The kind of C.
    condition : Condition or Exposure, optional
        Of c.
    network : Module, optional
        Maps (..., D), or (..., D + C), to (..., `normal_outputs`).
    hidden, activation
        Of the default network, an `MLP`.
    name, role : str
        Names of the input and the network, for errors.
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dim: int,
        *,
        covariance: str = "diagonal",
        condition: Any = None,
        network: nn.Module | None = None,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        name: str = "x",
        role: str = "the encoder",
    ) -> None:
        super().__init__(as_shape("x_shape", x_shape), name, condition)
        self.latent_dim, self.covariance = integer_at_least("latent_dim", latent_dim, 1), covariance
        self.add_network(normal_outputs(self.latent_dim, covariance), role, network, hidden, activation)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Any:
        """Return N(m, C) for x (..., *x_shape): batch shape (...), event shape (L,)."""
        parameters = self.output(x, c)
        loc, spread = parameters[..., : self.latent_dim], parameters[..., self.latent_dim :]
        if self.covariance == "full":
            return dist.MultivariateNormal(loc, scale_tril=lower_triangle(spread, self.latent_dim))
        return dist.Normal(loc, spread.exp()).to_event(1)


class ConditionalPrior(NormalHead):
    """p(z|c) = N(m(c), diag(s(c))^2), (m, log s) a network's output for the condition c alone.

    Parameters
    ----------
    condition : Condition
        Of c, which the network gets as (..., C).
    latent_dim, network, hidden, activation
        As for `NormalHead`.
    """

    def __init__(
        self,
        condition: Condition,
        latent_dim: int,
        *,
        network: nn.Module | None = None,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
    ) -> None:
        role = "the prior network"
        super().__init__(
            condition.size, latent_dim, network=network, hidden=hidden, activation=activation, name="c", role=role
        )
        self.code = condition

    def forward(self, c: Tensor, _: Tensor | None = None) -> Any:  # type: ignore[override]
        """Return p(z|c) for c (..., *c_shape): batch shape (...), event shape (L,)."""
        return super().forward(self.code(c))


class LayerHead(nn.Module):
    """N(m, diag(s)^2) of a layer of a hierarchy, s = softplus(a) + 1e-4, for a network's output (..., 2 L): m, then a.

    Sønderby et al. (2016) use a softplus of the variance; with several layers an exponential overflows too easily. For
    a unit that copies the layer above the optimal s is 0, so that s would decrease without bound; below the rounding
    error of m, the KL between two such units is only rounding noise.

    Parameters
    ----------
    network : Module
        Of one tensor or of several, to (..., 2 L).
    latent_dim : int
        L.
    """

    def __init__(self, network: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.network, self.latent_dim = network, latent_dim

    def forward(self, *inputs: Tensor) -> Any:
        """Return the Normal: event shape (L,)."""
        return layer_normal(self.network(*inputs), self.latent_dim)


def layer_normal(parameters: Tensor, latent_dim: int) -> Any:
    """Return N(m, diag(s)^2) for `parameters` (..., 2 L), m and then a, where s = softplus(a) + 1e-4; see `LayerHead`.

    Raises
    ------
    InputError
        If there are not 2 L of them.
    """
    check_last_dimension("output of a layer's network", parameters, 2 * latent_dim)
    loc, a = parameters.chunk(2, -1)
    return dist.Normal(loc, softplus(a) + MINIMUM_SCALE).to_event(1)


def product(first: Any, second: Any) -> Any:
    """Return the Normal whose density is proportional to the product of those of two diagonal Normals.

    With w = t^2 / (s^2 + t^2) its mean is n + w (m - n) and its variance w s^2, for N(m, s^2) and N(n, t^2): no
    precision is formed, so that very small and very large scales stay accurate.

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


def split(fn: Any, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return the diagonal Normal `fn` of a vector as one of each of its parts, by name, which are independent."""
    parts = [values.split(list(sizes.values()), -1) for values in (fn.base_dist.loc, fn.base_dist.scale)]
    return {name: dist.Normal(loc, scale).to_event(1) for name, loc, scale in zip(sizes, *parts, strict=True)}


def lower_triangle(entries: Tensor, L: int) -> Tensor:
    """Return T (..., L, L), lower triangular with a positive diagonal, from L (L + 1) / 2 free `entries`.

    The entries after the first L, then all of them backwards, fill a square row by row; its lower half holds each entry
    once. So T needs copies only, and no gather, whose backward pass would be slow.
    """
    square = torch.cat((entries[..., L:], entries.flip(-1)), -1).unflatten(-1, (L, L))
    diagonal = square.diagonal(dim1=-2, dim2=-1)
    return square.tril(-1) + diagonal.exp().diag_embed()
