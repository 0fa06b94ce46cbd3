"""A mixture with fixed weights, so that draws have a pathwise gradient through their component.

q(z) = sum_a w_a q_a(z),   z = z_a with probability w_a,   dE[f(z)] = sum_a w_a E[f'(z_a) dz_a]
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical


class FixedMixture(TorchDistribution):
    """Mixture of A distributions of vectors.

    Parameters
    ----------
    weights : Tensor
        Shape (..., A), each row adding up to one; treated as constant.
    components : distribution
        Batch shape (..., A), event shape (L,), with a reparameterised sampler.
    """

    has_rsample = True
    arg_constraints = {}  # noqa: RUF012

    def __init__(self, weights: Tensor, components: Any, validate_args: bool | None = None) -> None:
        self.weights, self.components = weights.detach(), components
        super().__init__(components.batch_shape[:-1], components.event_shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """That of the components."""
        return self.components.support

    @property
    def mean(self) -> Tensor:
        """The mean of the components' means."""
        return (self.weights.unsqueeze(-1) * self.components.mean).sum(-2)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FixedMixture:
        """Return the same distribution for a larger batch shape."""
        wide = (*batch_shape, self.weights.shape[-1])
        return FixedMixture(self.weights.expand(wide), self.components.expand(wide), validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, shape (*sample_shape, ..., L)."""
        draws = self.components.rsample(torch.Size(sample_shape))
        which = Categorical(self.weights, validate_args=False).sample(torch.Size(sample_shape))
        index = which[..., None, None].expand(*which.shape, 1, draws.shape[-1])
        return draws.gather(-2, index).squeeze(-2)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(z), shape (...)."""
        return torch.logsumexp(self.components.log_prob(value.unsqueeze(-2)) + self.weights.log(), -1)
