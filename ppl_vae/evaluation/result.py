"""What an estimate of log p(x) is: per-datum values, two error bars kept apart, diagnostics, and its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ppl_vae.evaluation.curve import KCurve

#: Above this Pareto k an importance-weighted estimate, and its error bar, cannot be trusted (Vehtari et al. 2024).
PARETO_K_LIMIT = 0.7

#: Weights that count, below which neither the estimate nor its variance, a ratio of their moments, means much.
LEAST_EFFECTIVE = 5

#: A bias below this share of the standard error is not worth a word: an interval of 95 % still covers 94.
NEGLIGIBLE = 0.25


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
        ``"exact"``, ``"prior"``, ``"importance"``, ``"ais"``.
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
    quantity : str
        What was estimated: ``"log p(x)"``, or ``"log p(x | c)"`` under a model that takes what it does not observe.
    correction : str
        ``"jackknife"`` where the first order of the logarithm's bias was taken out, else ``"none"``.
    curve : KCurve, optional
        The bound at K = 1, 2, 5, 10, …, from the same draws (``"prior"`` and ``"importance"``).
    details : mapping
        What else the method tells, as plain values: how it was run, the chunk, seconds spent recording, acceptance.
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
    quantity: str = "log p(x)"
    correction: str = "none"
    curve: KCurve | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

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
    def bias(self) -> Tensor:
        """Bias of each value from taking a logarithm, (N,), nats: minus half the variance, by the delta method.

        It is stated, not taken out; where the jackknife took it out, as where values are exact, it is zero.
        """
        return torch.zeros_like(self.values) if self.correction == "jackknife" else -self.variances / 2

    @property
    def mean_bias(self) -> float:
        """Bias of `mean`, nats per datum."""
        return float(self.bias.mean())

    @property
    def untrusted(self) -> int:
        """How many data have weights that do not bear an estimate: Pareto k above 0.7, or less than five count.

        A k that is not finite says that there was no tail to fit (few particles, or weights all alike): it is harmless
        where the effective sample size is above K / 2.
        """
        if self.num_particles == 0:
            return 0
        even = self.effective_sample_size > self.num_particles / 2
        long_tail = ~(self.pareto_k <= PARETO_K_LIMIT) & ~(even & ~torch.isfinite(self.pareto_k))
        few = ~(self.effective_sample_size >= LEAST_EFFECTIVE) & ~even
        return int((long_tail | few).sum())

    def caution(self) -> str:
        """Return, in words, what speaks against the estimate; empty where nothing is known."""
        told = []
        if self.non_finite:
            told.append(f"{self.non_finite:,} {'log weights' if self.num_particles else 'values'} are NaN or infinite")
        if self.untrusted:
            told.append(
                f"not to be trusted for {self.untrusted:,} of {len(self.values):,} data (Pareto k above "
                f"{PARETO_K_LIMIT}, or an effective sample size below {LEAST_EFFECTIVE})"
            )
        if self.num_particles == 1:
            told.append("K = 1 gives no error bar")
        return "; ".join(told) + ("; try more particles or a better guide" if told and self.num_particles else "")

    def __str__(self) -> str:
        how = self.method if self.method == "exact" else f"{self.method}, K = {self.num_particles:,}"
        how += ", jackknife" if self.correction == "jackknife" else ""
        if acceptance := self.details.get("acceptance"):
            how += f", acceptance {acceptance['mean']:.2f}"
        caution = self.caution()
        biased = abs(self.mean_bias) > NEGLIGIBLE * self.standard_error
        return (
            (f"CAUTION: {caution}. " if caution else "")
            + f"{self.quantity} = {self.mean:.3f} nats per datum ({how}), ± {self.standard_error:.3f} Monte Carlo, "
            f"± {self.data_standard_error:.3f} data sampling"
            + (f", bias of the logarithm about {self.mean_bias:.3f}" if biased else "")
            + f"; {self.data['name']} {self.data['role']} "
            f"(N = {self.data['size']:,}, binarization {self.data['binarization']})"
        )

    __repr__ = __str__

    def to_json(self) -> dict[str, Any]:
        """Return a summary as plain values, for ``evaluation.json``."""
        quantiles = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
        told = {
            "quantity": self.quantity,
            "method": self.method,
            "correction": self.correction,
            "num_particles": self.num_particles,
            "seed": self.seed,
            "mean": self.mean,
            "standard_error": self.standard_error,
            "data_standard_error": self.data_standard_error,
            "bias": self.mean_bias,
            "values": {"quantiles 5 50 95 %": self.values.quantile(quantiles).tolist()},
            "effective_sample_size": {"median": float(self.effective_sample_size.median())},
            "pareto_k": {"max": float(self.pareto_k.max())},
            "untrusted": self.untrusted,
            "non_finite": self.non_finite,
            "caution": self.caution(),
            "seconds": self.seconds,
            "data": dict(self.data),
        }
        if self.curve is not None:
            told["curve"] = self.curve.to_json()
        return told | ({"details": dict(self.details)} if self.details else {})
