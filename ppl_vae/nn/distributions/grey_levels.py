"""Distributions over grey levels: probability masses on the grid {0, 1/(n-1), ..., 1} of n levels.

Values are grey levels in [0, 1], as the data hold them, so that one data set serves every likelihood. The n bins have
width w = 1/(n-1) and are centred on the levels.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, constraints
from torch.nn import functional as F

from ppl_vae.core.checks import integer_at_least


class Grid(constraints.Constraint):
    """The values k / (levels - 1), k = 0, ..., levels - 1, up to a thousandth of a bin."""

    is_discrete = True
    tolerance = 1e-3

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def check(self, value: Tensor) -> Tensor:
        """Return, by element, whether `value` is a level."""
        index = value * (self.levels - 1)
        nearest = index.round().clamp(0, self.levels - 1)
        return (index - nearest).abs() <= self.tolerance

    def __repr__(self) -> str:
        return f"{self.levels} levels 0, 1/{self.levels - 1}, ..., 1"


class GridDistribution(TorchDistribution):
    """Base of the distributions over grey levels: their support, and no reparameterised sampler."""

    has_rsample = False
    levels: int

    @property
    def support(self) -> Grid:  # type: ignore[override]
        """The grid of levels."""
        return Grid(self.levels)


class GridCategorical(GridDistribution):
    """One probability per grey level, p(x = k/(n-1)) = softmax(logits)_k.

    Parameters
    ----------
    logits : Tensor
        Unnormalised log probabilities, shape (..., n).
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.levels = integer_at_least("levels", logits.shape[-1], 2)
        self.logits = logits
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: GridCategorical | None = None) -> GridCategorical:
        """Return this distribution with another batch shape; nothing is copied."""
        new = self._get_checked_instance(GridCategorical, _instance)
        batch_shape = torch.Size(batch_shape)
        new.levels = self.levels
        new.logits = self.logits.expand((*batch_shape, self.levels))
        super(GridCategorical, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value), shape that of `value` and the batch shape broadcast."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        index = (value * (self.levels - 1)).round().long().expand(shape).unsqueeze(-1)
        chosen = self.logits.expand((*shape, self.levels)).gather(-1, index).squeeze(-1)
        return chosen - self.logits.logsumexp(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw grey levels, shape (*sample_shape, *batch_shape)."""
        with torch.no_grad():
            index = Categorical(logits=self.logits, validate_args=False).sample(torch.Size(sample_shape))
            return index.to(self.logits.dtype) / (self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """Expected grey level, the batch shape."""
        grid = torch.linspace(0, 1, self.levels, dtype=self.logits.dtype, device=self.logits.device)
        return self.logits.softmax(-1) @ grid


class DiscretizedLogistic(GridDistribution):
    """A logistic binned to grey levels, the outer bins with the tails (Salimans et al. 2017, eq. 2, one component).

    With a = (x - w/2 - loc)/s and b = (x + w/2 - loc)/s,
    P(x) = sig(b) - sig(a) = sig(b) sig(-a) (1 - exp(-w/s)) inside, sig(b) at x = 0 and sig(-a) at x = 1.
    The product, unlike the difference, is accurate in log space.

    Parameters
    ----------
    loc, log_scale : Tensor
        Location and log s in units of the [0, 1] scale, shapes that broadcast. log s is held within +-60, where float32
        neither overflows nor underflows.
    levels : int
        n, at least 2.
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}  # noqa: RUF012

    def __init__(self, loc: Tensor, log_scale: Tensor, levels: int, validate_args: bool | None = None) -> None:
        self.levels = integer_at_least("levels", levels, 2)
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: DiscretizedLogistic | None = None) -> DiscretizedLogistic:
        """Return this distribution with another batch shape; nothing is copied."""
        new = self._get_checked_instance(DiscretizedLogistic, _instance)
        batch_shape = torch.Size(batch_shape)
        new.levels = self.levels
        new.loc, new.log_scale = self.loc.expand(batch_shape), self.log_scale.expand(batch_shape)
        super(DiscretizedLogistic, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(value), shape that of `value` and the batch shape broadcast."""
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 / (self.levels - 1)
        precision = self._precision
        centred = value - self.loc
        log_below = F.logsigmoid((centred + half) * precision)  # log sig(b)
        log_above = F.logsigmoid((half - centred) * precision)  # log sig(-a)
        log_width = torch.log(-torch.expm1(-2 * half * precision))
        inside = log_below + log_above + log_width
        return torch.where(value < half, log_below, torch.where(value > 1 - half, log_above, inside))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw grey levels, shape (*sample_shape, *batch_shape): logistic draws, rounded into the bins."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            noise = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).logit()
            index = (self.loc + noise / self._precision) * (self.levels - 1)
            return index.round().clamp(0, self.levels - 1) / (self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """Expected grey level, the batch shape: the sum over the n-1 edges of P(x above it), divided by n-1."""
        edges = (torch.arange(self.levels - 1, dtype=self.loc.dtype, device=self.loc.device) + 0.5) / (self.levels - 1)
        return torch.sigmoid((self.loc.unsqueeze(-1) - edges) * self._precision.unsqueeze(-1)).mean(-1)

    @property
    def _precision(self) -> Tensor:
        """1/s."""
        return (-self.log_scale.clamp(-60, 60)).exp()
