"""What an estimate of log p(x) is: per-datum values, two error bars kept apart, diagnostics, and its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Above this Pareto k an importance-weighted estimate, and its error bar, cannot be trusted (Vehtari et al. 2024).
PARETO_K_LIMIT = 0.7


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """An estimate of log p(x) for N data, in nats per datum; higher is better.

    Attributes
    ----------
    values : Tensor (N,)
        log p(x_n), exact or estimated.
    variances : Tensor (N,)
        Monte Carlo variance of each value, by the delta method; zero where exact, NaN for K = 1.
    effective_sample_size, pareto_k : Tensor (N,)
        Diagnostics of each datum's weights; NaN where exact.
    method : str
        ``"exact"``, ``"prior"``, ``"importance"``.
    num_particles : int
        K; 0 where exact.
    seconds : float
        Time it took.
    seed : int
        Seed of the particles.
    data : mapping
        Name, role, size, binarisation and digest of the data.
    non_finite : int
        Log weights (or exact values) that were NaN or infinite; they are counted here and left in the estimate.
    """

    values: Tensor
    variances: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    method: str
    num_particles: int
    seconds: float
    seed: int
    data: Mapping[str, Any]
    non_finite: int

    @property
    def mean(self) -> float:
        """Mean of the values, nats per datum."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """Monte Carlo standard error of `mean` for these very data: sqrt(sum of variances) / N; 0 where exact."""
        return float(self.variances.sum().sqrt()) / len(self.values)

    @property
    def data_standard_error(self) -> float:
        """Standard error of `mean` from sampling the data, another N of which would move it so; NaN for N = 1.

        The values' spread holds their Monte Carlo noise too, which is taken out.
        """
        if len(self.values) < 2:
            return float("nan")
        spread = self.values.var() - torch.nan_to_num(self.variances).mean()
        return float((spread.clamp_min(0) / len(self.values)).sqrt())

    @property
    def untrusted(self) -> int:
        """How many data have a Pareto k above the limit.

        A k that is not finite says that there was no tail to fit (few particles, or weights all alike): it counts
        unless the effective sample size is above K / 2.
        """
        if self.num_particles == 0:
            return 0
        harmless = ~torch.isfinite(self.pareto_k) & (self.effective_sample_size > self.num_particles / 2)
        return int((~(self.pareto_k <= PARETO_K_LIMIT) & ~harmless).sum())

    def caution(self) -> str:
        """Return, in words, what speaks against the estimate; empty where nothing is known."""
        told = []
        if self.non_finite:
            told.append(f"{self.non_finite} log weights are NaN or infinite")
        if self.untrusted:
            told.append(f"Pareto k exceeds {PARETO_K_LIMIT} for {self.untrusted} of {len(self.values)} data")
        if self.num_particles == 1:
            told.append("K = 1 gives no error bar")
        return "; ".join(told) + ("; try more particles or a better guide" if told else "")

    def __str__(self) -> str:
        how = self.method if self.method == "exact" else f"{self.method}, K = {self.num_particles:,}"
        caution = self.caution()
        return (
            f"log p(x) = {self.mean:.3f} nats per datum ({how}), ± {self.standard_error:.3f} Monte Carlo, "
            f"± {self.data_standard_error:.3f} data sampling; {self.data['name']} {self.data['role']} "
            f"(N = {self.data['size']:,}, binarization {self.data['binarization']})"
            + (f". Caution: {caution}" if caution else "")
        )

    __repr__ = __str__

    def to_json(self) -> dict[str, Any]:
        """Return a summary as plain values, for ``evaluation.json``."""
        quantiles = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
        return {
            "method": self.method,
            "num_particles": self.num_particles,
            "seed": self.seed,
            "mean": self.mean,
            "standard_error": self.standard_error,
            "data_standard_error": self.data_standard_error,
            "values": {"quantiles 5 50 95 %": self.values.quantile(quantiles).tolist()},
            "effective_sample_size": {"median": float(self.effective_sample_size.median())},
            "pareto_k": {"max": float(self.pareto_k.max()), "above 0.7": self.untrusted},
            "non_finite": self.non_finite,
            "caution": self.caution(),
            "seconds": self.seconds,
            "data": dict(self.data),
        }
