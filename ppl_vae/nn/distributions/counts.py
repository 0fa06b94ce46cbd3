"""Distributions over counts 0, 1, 2, …, given the logarithm of their mean.

A network's output is any real number, as is the logarithm of a mean: a mean that underflows still has a log
probability and a gradient. Log probabilities of large counts are small differences of large numbers, and so are those
of a negative binomial close to a Poisson: they are computed in float64 and returned in the type of the parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from ppl_vae.compile.distributions import standard_gamma

MOST = 30.0  # log of the largest mean, 1e13: beyond it numbers overflow, and so would gradients
LEAST_DISPERSION = -14.0  # log of the least overdispersion, 1e-6: practically a Poisson
MOST_DISPERSION = 30.0


class Counts(constraints.Constraint):
    """The whole numbers from 0 on."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        """Return, by element, whether `value` is a count."""
        return (value >= 0) & (value == value.round()) & torch.isfinite(value)

    def __repr__(self) -> str:
        return "whole numbers 0, 1, 2, ..."


class CountDistribution(TorchDistribution):
    """Base of the distributions over counts: their support, and no reparameterised sampler."""

    has_rsample = False
    support = Counts()  # type: ignore[assignment]
    log_mean: Tensor

    @property
    def mean(self) -> Tensor:
        """Expected count, the batch shape."""
        return self._bounded.exp()

    @property
    def _bounded(self) -> Tensor:
        return self.log_mean.clamp(max=MOST)


class LogPoisson(CountDistribution):
    """Poisson by the logarithm of its rate: log p(x) = x log m - m - log x!.

    Parameters
    ----------
    log_mean : Tensor
        log m; held at `MOST` above it.
    """

    arg_constraints = {"log_mean": constraints.real}  # noqa: RUF012

    def __init__(self, log_mean: Tensor, validate_args: bool | None = None) -> None:
        self.log_mean = log_mean
        super().__init__(log_mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: LogPoisson | None = None) -> LogPoisson:
        """Return this distribution with another batch shape; nothing is copied."""
        new = self._get_checked_instance(LogPoisson, _instance)
        batch_shape = torch.Size(batch_shape)
        new.log_mean = self.log_mean.expand(batch_shape)
        super(LogPoisson, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value), shape that of `value` and the batch shape broadcast."""
        if self._validate_args:
            self._validate_sample(value)
        x, h = value.double(), self._bounded.double()
        return (x * h - h.exp() - torch.lgamma(x + 1)).to(self.log_mean.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw counts, shape (*sample_shape, *batch_shape)."""
        with torch.no_grad():
            return torch.poisson(self.mean.expand(self._extended_shape(torch.Size(sample_shape))))

    @property
    def variance(self) -> Tensor:
        """Variance of a count, which is its mean."""
        return self.mean


class LogNegativeBinomial(CountDistribution):
    """Negative binomial of mean m and variance m + a m^2: a Poisson whose rate is a Gamma of shape r = 1/a and mean m.

    log p(x) = log Gamma(r + x) - log Gamma(r) - log x! + x log(m/r) - (r + x) log(1 + m/r)

    Parameters
    ----------
    log_mean, log_dispersion : Tensor
        log m, held at `MOST` above it, and log a, held between `LEAST_DISPERSION` and `MOST_DISPERSION`; shapes that
        broadcast.
    """

    arg_constraints = {"log_mean": constraints.real, "log_dispersion": constraints.real}  # noqa: RUF012

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor, validate_args: bool | None = None) -> None:
        self.log_mean, self.log_dispersion = torch.broadcast_tensors(log_mean, log_dispersion)
        super().__init__(self.log_mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: LogNegativeBinomial | None = None) -> LogNegativeBinomial:
        """Return this distribution with another batch shape; nothing is copied."""
        new = self._get_checked_instance(LogNegativeBinomial, _instance)
        batch_shape = torch.Size(batch_shape)
        new.log_mean, new.log_dispersion = self.log_mean.expand(batch_shape), self.log_dispersion.expand(batch_shape)
        super(LogNegativeBinomial, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value), shape that of `value` and the batch shape broadcast."""
        if self._validate_args:
            self._validate_sample(value)
        x, log_a = value.double(), self._log_a.double()
        r, log_odds = (-log_a).exp(), self._bounded.double() + log_a
        ways = torch.lgamma(r + x) - torch.lgamma(r) - torch.lgamma(x + 1)
        return (ways + x * log_odds - (r + x) * F.softplus(log_odds)).to(self.log_mean.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw counts, shape (*sample_shape, *batch_shape): a Gamma draw of each rate, then a Poisson draw."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            log_a = self._log_a.expand(shape)
            rate = standard_gamma((-log_a).exp()) * (self._bounded + log_a).exp()
            return torch.poisson(rate)

    @property
    def variance(self) -> Tensor:
        """Variance of a count, m + a m^2."""
        return self.mean + self._log_a.exp() * self.mean.square()

    @property
    def _log_a(self) -> Tensor:
        return self.log_dispersion.clamp(LEAST_DISPERSION, MOST_DISPERSION)
