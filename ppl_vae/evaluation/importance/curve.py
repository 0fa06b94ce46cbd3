"""The importance-weighted bound as a function of K, from the log weights of one pass.

    L_k = log (1/k) sum_{i <= k} w_i,   E[L_1] <= E[L_2] <= ... <= E[L_K] <= log p(x)

E[L_k] is estimated without bias by the mean over the K/k disjoint groups of k among the K particles (Burda et al. 2016,
theorem 1). Larger groups are merged from smaller ones: L of ten particles from those of two groups of five.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class KCurve:
    """The bound at several K, each a mean over data in nats per datum.

    Attributes
    ----------
    num_particles : tuple of int
        1, 2, 5, 10, … and K.
    bounds : Tensor
        Estimates of the mean of E[L_k], without bias.
    standard_errors : Tensor
        Monte Carlo standard errors of `bounds` given the data; for K itself, with a single group, by the delta method.
        All k use the same draws, so that their errors are correlated.
    """

    num_particles: tuple[int, ...]
    bounds: Tensor
    standard_errors: Tensor

    def to_json(self) -> dict[str, list[Any]]:
        """Return the curve as plain values."""
        return {
            "num_particles": list(self.num_particles),
            "bounds": self.bounds.tolist(),
            "standard_errors": self.standard_errors.tolist(),
        }


def grid(num_particles: int) -> list[int]:
    """Return 1, 2, 5, 10, … up to the largest k with two groups of k particles."""
    steps = (factor * 10**power for power in range(len(str(num_particles))) for factor in (1, 2, 5))
    return [k for k in steps if 2 * k <= num_particles]


class Groups:
    """Running mean and variance, per datum, of L_k over groups of k of a stream of log weights."""

    def __init__(self, num_particles: int) -> None:
        self.levels: dict[int, _Level] = {k: _Level() for k in grid(num_particles)}

    def add(self, log_weights: Tensor) -> None:
        """Add log weights of shape (n, B), nats, in float64."""
        merged: dict[int, Tensor] = {}
        for k, level in self.levels.items():
            part = k // 5 if str(k)[0] == "5" else k // 2  # 5, 50, … are five groups of 1, 10, …; others two of a half
            values = log_weights if k == 1 else level.merge(merged[part], k // part)
            level.add(values)
            merged[k] = values


class _Level:
    """Groups of one size: statistics of complete ones, and the parts of the next one."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0  # a tensor from the first group on
        self.squares: Any = 0.0  # of deviations from the mean, summed
        self._parts: Tensor | None = None

    def merge(self, parts: Tensor, size: int) -> Tensor:
        """Return L of the groups of `size` parts that are complete, (n, B); the rest is kept."""
        if self._parts is not None:
            parts = torch.cat([self._parts, parts])
        whole = len(parts) // size
        self._parts = parts[whole * size :].clone()
        return parts[: whole * size].unflatten(0, (whole, size)).logsumexp(1) - math.log(size)

    def add(self, values: Tensor) -> None:
        """Add L of n groups, (n, B) (Chan et al. 1983, eq. 2.1)."""
        n = len(values)
        if n == 0:
            return
        mean = values.mean(0)
        shift, total = mean - self.mean, self.count + n
        self.squares = self.squares + ((values - mean) ** 2).sum(0) + shift**2 * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = total

    def variance(self) -> Tensor:
        """Return the variance of `mean`, (B,)."""
        return self.squares / (self.count - 1) / self.count


class CurveSum:
    """The curve of N data, from groups of a few data at a time."""

    def __init__(self, num_particles: int) -> None:
        self.num_particles = (*grid(num_particles), num_particles)
        self._bounds = torch.zeros(len(self.num_particles), dtype=torch.float64, device="cpu")
        self._variances = torch.zeros_like(self._bounds)
        self._size = 0

    def add(self, groups: Groups, values: Tensor, variances: Tensor) -> None:
        """Add B data: their groups, and L_K with its variance, (B,) each."""
        levels = groups.levels.values()
        bounds = [*(level.mean for level in levels), values]
        errors = [*(level.variance() for level in levels), variances]
        self._bounds += torch.stack([bound.sum() for bound in bounds]).cpu()
        self._variances += torch.stack([error.sum() for error in errors]).cpu()
        self._size += len(values)

    def curve(self) -> KCurve:
        """Return the mean over all data added."""
        return KCurve(self.num_particles, self._bounds / self._size, self._variances.sqrt() / self._size)
