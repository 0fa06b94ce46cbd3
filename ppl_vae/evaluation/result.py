"""An estimate of log p(x): per-datum values, two separate error bars, diagnostics, and a description of its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError, shown
from ppl_vae.evaluation.importance.curve import KCurve

#: Above this Pareto k an importance-weighted estimate, and its error bar, cannot be trusted (Vehtari et al. 2024).
PARETO_K_LIMIT = 0.7

#: Above this Pareto k weights have no variance, and so no first-order bias of the logarithm (half the variance).
BIAS_LIMIT = 0.5

#: Effective sample size below which neither the estimate nor its variance is reliable.
LEAST_EFFECTIVE = 5

#: Effective sample size as a share of K above which Pareto k is ignored: it describes a tail's shape, not its size.
EVEN = 0.9

#: Particles below which there is no tail to fit, and so no Pareto k.
LEAST_JUDGED = 25

#: A bias below this share of the standard error is not reported: an interval of 95 % still covers 94 %.
NEGLIGIBLE = 0.25


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """An estimate of log p(x) for N data, in nats per datum; higher is better.

    Attributes
    ----------
    values : Tensor (N,)
        log p(x_n), exact or estimated.
    variances : Tensor (N,)
        Squared Monte Carlo error of each value: its variance by the delta method, increased by what a long tail of its
        weights hides (see `ppl_vae.evaluation.importance.hidden_tail`); zero where exact, NaN for K = 1.
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
        Name, role, size, binarisation and digest of the data; their units, where they were standardised.
    non_finite : int
        Log weights (or exact values) that were NaN or infinite; they are counted here and left in the estimate.
    quantity : str
        What was estimated: ``"log p(x)"``, or ``"log p(x | c)"`` for a model with arguments that it does not observe.
    correction : str
        ``"jackknife"`` where the first order of the logarithm's bias was removed, else ``"none"``.
    curve : KCurve, optional
        The bound at K = 1, 2, 5, 10, …, from the same draws (``"prior"`` and ``"importance"``).
    details : mapping
        Further results of the method, as plain values: path, chunk, seconds spent recording, acceptance.
    lower_variances, upper_variances : Tensor (N,), optional
        Variances for the lower and the upper end of an interval, where they differ from `variances`: a hidden tail only
        means that the value is too low, so that the lower end uses the delta method's variance.
    biases : Tensor (N,), optional
        The value of `bias` where the values are differences of two logarithms.
    deterministic : Tensor of bool (N,), optional
        Data for which the guide proposes one configuration of discrete latents, with probability one. The value is
        log p(x, z) of that configuration, a bound that no number of particles raises.
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
    lower_variances: Tensor | None = None
    upper_variances: Tensor | None = None
    biases: Tensor | None = None
    deterministic: Tensor | None = None

    @property
    def mean(self) -> float:
        """Mean of the values, nats per datum."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """Monte Carlo standard error of `mean` given the data: sqrt(sum of variances) / N; 0 where exact."""
        return float(self.variances.sum().sqrt()) / len(self.values)

    @property
    def data_standard_error(self) -> float:
        """Standard error of `mean` from sampling N data; NaN for N = 1.

        The variance of the values includes their Monte Carlo variance, which is subtracted.
        """
        if len(self.values) < 2:
            return float("nan")
        lower, upper = self._variances_of_ends
        noise = lower + upper - self.variances  # by the delta method only: what tails hide is not in the values
        spread = self.values.var() - torch.nan_to_num(noise).mean()
        return float((spread.clamp_min(0) / len(self.values)).sqrt())

    def intervals(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return lower and upper ends, (N,) each, of intervals that contain log p(x_n) with probability `level`.

        value - c sqrt(lower variance) to value + c sqrt(upper variance), c the quantile of a standard normal. The upper
        end is infinite where the weights are not to be trusted: the value is then a lower bound, up to its error. A
        difference of two logarithms is not a bound, and its lower end is infinite too.

        Raises
        ------
        InputError
            If `level` does not lie between 0 and 1.
        """
        c = _normal_quantile(level)
        lower, upper = (c * variances.sqrt() for variances in self._variances_of_ends)
        upper = upper.masked_fill(self._untrusted, torch.inf)
        if self.biases is not None:
            lower = lower.masked_fill(self._untrusted, torch.inf)
        return self.values - lower, self.values + upper

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return lower and upper end of an interval for the mean of log p(x_n) given the data.

        It allows for the logarithm's bias; where that has no first order because of Pareto k, half of `variances` is
        used. Like those of `intervals`, its ends are infinite where the weights of a datum are not to be trusted.
        """
        c, size = _normal_quantile(level), len(self.values)
        lower, upper = (c * float(variances.sum().sqrt()) / size for variances in self._variances_of_ends)
        bias = float(torch.where(self.bias.isnan(), -self.variances / 2, self.bias).mean())
        lower, upper = lower + max(bias, 0.0), upper - min(bias, 0.0)
        if self.untrusted:
            lower, upper = lower if self.biases is None else float("inf"), float("inf")
        return self.mean - lower, self.mean + upper

    @property
    def bias(self) -> Tensor:
        """Bias of each value from taking a logarithm, (N,), nats: minus half the variance, by the delta method.

        It is reported, not removed; zero for exact values, and where the jackknife removed it. NaN where Pareto k is
        above 0.5, or the weights are not to be trusted: the first order is then not valid. Below K = 25, where there is
        no k, it is reported without this check.
        """
        if self.biases is not None:
            return self.biases
        lower, _ = self._variances_of_ends
        first_order = torch.zeros_like(lower) if self.correction == "jackknife" else -lower / 2
        unknown = self._untrusted if self.num_particles >= LEAST_JUDGED else self._untrusted & ~self._bad_weights
        return first_order.masked_fill(unknown | self._long_tailed(BIAS_LIMIT), torch.nan)

    @property
    def mean_bias(self) -> float:
        """Bias of `mean`, nats per datum; NaN where that of some datum is not known."""
        return float(self.bias.mean())

    @property
    def untrusted(self) -> int:
        """How many data have an estimate that is not to be trusted.

        Those with a Pareto k above 0.7 or an effective sample size below five, and those for which the guide is
        deterministic. A k that is not finite means that there was no tail to fit (equal weights): it is harmless where
        the effective sample size is above K / 2. Where that is above 0.9 K any k is harmless: the tail has almost no
        weight. Below K = 25 there is no k, and `str` says so.
        """
        return int(self._untrusted.sum())

    @property
    def _untrusted(self) -> Tensor:
        alone = torch.zeros_like(self._bad_weights) if self.deterministic is None else self.deterministic
        return self._bad_weights | alone

    @property
    def _bad_weights(self) -> Tensor:
        size, K = self.effective_sample_size, self.num_particles
        if K == 0:
            return torch.zeros_like(self.values, dtype=torch.bool)
        no_tail = ~torch.isfinite(self.pareto_k) & (K >= LEAST_JUDGED)
        return self._long_tailed(PARETO_K_LIMIT) | ((no_tail | ~(size >= LEAST_EFFECTIVE)) & ~(size > K / 2))

    def _long_tailed(self, limit: float) -> Tensor:
        """Return for which data Pareto k is known, above `limit`, and relevant."""
        judged = self.num_particles >= LEAST_JUDGED
        uneven = ~(self.effective_sample_size > EVEN * self.num_particles)
        return torch.isfinite(self.pareto_k) & (self.pareto_k > limit) & uneven & judged

    @property
    def _variances_of_ends(self) -> tuple[Tensor, Tensor]:
        """Variances for the lower and the upper end of an interval."""
        lower = self.variances if self.lower_variances is None else self.lower_variances
        return lower, self.variances if self.upper_variances is None else self.upper_variances

    def caution(self) -> str:
        """Return, as text, why the estimate should not be trusted; empty where nothing is known."""
        reasons, size, bad = [], len(self.values), int(self._bad_weights.sum())
        if self.non_finite:
            reasons.append(
                f"{self.non_finite:,} {'log weights' if self.num_particles else 'values'} are NaN or infinite"
            )
        if bad:
            reasons.append(
                f"not to be trusted for {bad:,} of {size:,} data (Pareto k above "
                f"{PARETO_K_LIMIT}, or an effective sample size below {LEAST_EFFECTIVE})"
            )
        if self.num_particles == 1:
            reasons.append("K = 1 gives no error bar")
        if reasons and self.num_particles:
            reasons.append("try more particles or a better guide")
        if self.deterministic is not None and (alone := int(self.deterministic.sum())):
            reasons.append(
                f"a bound from one configuration for {alone:,} of {size:,} data: the guide is deterministic there, and "
                "what other configurations of the discrete latents add is neither counted nor in the error bar; "
                "try a guide that draws them"
            )
        return "; ".join(reasons)

    def __str__(self) -> str:
        how = self.method if self.method == "exact" else f"{self.method}, K = {self.num_particles:,}"
        how += ", jackknife" if self.correction == "jackknife" else ""
        if acceptance := self.details.get("acceptance"):
            how += f", acceptance {acceptance['mean']:.2f}"
        if self.details.get("dtype", "float64") != "float64":
            how += f", to the rounding of {self.details['dtype']}"
        caution = self.caution()
        return (
            (f"CAUTION: {caution}. " if caution else "")
            + f"{self.quantity} = {self.mean:.3f} nats per datum ({how}), ± {self.standard_error:.3f} Monte Carlo, "
            f"± {self.data_standard_error:.3f} data sampling"
            + (f", K = {self.num_particles} too small to judge them" if 1 < self.num_particles < LEAST_JUDGED else "")
            + self._bias_message()
            + f"; {self.data['name']} {self.data['role']} "
            f"(N = {self.data['size']:,}, binarization {self.data['binarization']})"
            + (f"; {self.data['units']}" if self.data.get("units") else "")
        )

    __repr__ = __str__

    def _bias_message(self) -> str:
        """Return the part of the line about the logarithm's bias: its size, or that it is not known."""
        bias, error = self.mean_bias, self.standard_error
        unknown = self.bias.isnan() & (self.variances > 0)
        if count := int(unknown.sum()):
            most = float(torch.nan_to_num(self.variances).mean()) / 2
            if not most > NEGLIGIBLE * error:
                return ""
            larger = "may be larger than the error bar" if most > error else "unknown"
            call = "more distributions" if self.method == "ais" else 'method="ais"'
            return (
                f", bias of the logarithm {larger} (no first order for {count:,} of {len(self.values):,} data, with "
                f"Pareto k above {BIAS_LIMIT} or an effective sample size below {LEAST_EFFECTIVE}; {call} would tell)"
            )
        if not abs(bias) > NEGLIGIBLE * error:
            return ""
        lower, upper = self.interval()
        larger = f", larger than the error bar: 95 % interval from {lower:.3f} to {upper:.3f}"
        return f", bias of the logarithm about {bias:.3f}" + (larger if abs(bias) > error else "")

    def to_json(self) -> dict[str, Any]:
        """Return a summary as plain values, for ``evaluation.json``."""
        quantiles = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64, device="cpu")
        summary = {
            "quantity": self.quantity,
            "method": self.method,
            "correction": self.correction,
            "num_particles": self.num_particles,
            "seed": self.seed,
            "mean": self.mean,
            "standard_error": self.standard_error,
            "data_standard_error": self.data_standard_error,
            "interval": {"level": 0.95, "ends": list(self.interval())},
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
            summary["curve"] = self.curve.to_json()
        return summary | ({"details": dict(self.details)} if self.details else {})


def _normal_quantile(level: float) -> float:
    """Return c for which a standard normal variable lies between -c and c with probability `level`."""
    if not 0 < level < 1:
        raise InputError("level", expected="a number between 0 and 1", got=shown(level), hint="level=0.95")
    return NormalDist().inv_cdf((1 + level) / 2)
