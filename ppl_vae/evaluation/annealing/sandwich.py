"""log p(x) between two bounds, on data that the model itself drew (BDMC; Grosse, Ghahramani & Adams 2015).

    (z*, x) ~ p(x, z), so that z* is an exact draw from p(z | x)
    lower = log (1/K) sum_k w_k          w_k annealed from f_0 to the posterior
    upper = -log (1/K) sum_k 1/w'_k      w'_k annealed from z* back to f_0

E[w] = p(x) and E[1/w'] = 1/p(x) (backward chains from an exact draw are forward chains in reverse), and
Jensen's inequality does the rest: E[lower] <= log p(x) <= E[upper]. All K chains of a datum start
backward from the same z*, which makes them dependent but not biased: each has E[1/w'_k] = 1/p(x), so has their mean,
and the inequality holds. Their variance is that of the chains given z*; the variance of gaps over data, each with its
own z*, includes both.

The gap measures the quality of the annealing on data of the model. It may differ on real data.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ppl_vae.core.checks import check_bytes, check_mapping, check_seed, integer_at_least
from ppl_vae.core.errors import InputError
from ppl_vae.core.process import evaluating, isolated
from ppl_vae.evaluation.annealing.ais import AnnealedOptions, both_ways
from ppl_vae.pairs.pair import as_pair


@dataclass(frozen=True, eq=False)
class Sandwich:
    """A lower and an upper bound of log p(x) for N data that the model drew, in nats per datum.

    Attributes
    ----------
    lower, upper : Tensor (N,)
        Bounds in expectation: Monte Carlo noise may reverse their order where the gap is small.
    lower_variances, upper_variances : Tensor (N,)
        Monte Carlo variance of each by the delta method, the upper's given its z*; NaN for K = 1.
    num_particles : int
        K chains in each direction.
    details : mapping
        How they were annealed; acceptance and step sizes.
    seconds : float
        Time it took.
    seed : int
        Seed of data and chains.
    non_finite : int
        Log weights, in both directions, that were NaN or infinite; they are left in the bounds.
    batch : mapping of str to Tensor
        The data.
    """

    lower: Tensor
    upper: Tensor
    lower_variances: Tensor
    upper_variances: Tensor
    num_particles: int
    details: Mapping[str, Any]
    seconds: float
    seed: int
    non_finite: int
    batch: Mapping[str, Tensor]

    @property
    def gaps(self) -> Tensor:
        """Upper minus lower of each datum, (N,), nats."""
        return self.upper - self.lower

    @property
    def gap_variances(self) -> Tensor:
        """Monte Carlo variance of each gap, (N,), given the datum's z*."""
        return self.lower_variances + self.upper_variances

    @property
    def gap(self) -> float:
        """Mean gap, nats per datum: in expectation at least the distance of either bound from log p(x)."""
        return float(self.gaps.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of `gap`, from the spread over data: chains, z* and data together; NaN for N = 1."""
        return float(self.gaps.std()) / len(self.gaps) ** 0.5 if len(self.gaps) > 1 else float("nan")

    def caution(self) -> str:
        """Return, as text, why the bounds should not be trusted; empty where nothing is known."""
        reasons = []
        if self.non_finite:
            reasons.append(f"{self.non_finite} log weights are NaN or infinite")
        if self.gap < -4 * self.standard_error:
            reasons.append("the upper bound lies below the lower, so model and sampler disagree on p(x, z)")
        return "; ".join(reasons)

    def __str__(self) -> str:
        how, accepted, caution = self.details, self.details["acceptance"], self.caution()
        return (
            f"{float(self.lower.mean()):.3f} <= log p(x) <= {float(self.upper.mean()):.3f} nats per datum, "
            f"gap {self.gap:.3f} ± {self.standard_error:.3f}, on {len(self.lower):,} data that the model drew "
            f"(annealed from the {how['start']}, T = {how['num_distributions']:,}, {how['schedule']}, "
            f"K = {self.num_particles:,}"
            + (f", acceptance {accepted['mean']:.2f})" if accepted else ")")
            + (f". Caution: {caution}" if caution else "")
        )

    __repr__ = __str__

    def to_json(self) -> dict[str, Any]:
        """Return a summary as plain values."""
        return {
            "lower": float(self.lower.mean()),
            "upper": float(self.upper.mean()),
            "gap": self.gap,
            "standard_error": self.standard_error,
            "num_data": len(self.lower),
            "num_particles": self.num_particles,
            "annealing": dict(self.details),
            "non_finite": self.non_finite,
            "caution": self.caution(),
            "seconds": self.seconds,
            "seed": self.seed,
        }


def sandwich(
    pair: Any,
    num_data: int | None = None,
    *,
    conditions: Mapping[str, Tensor] | None = None,
    num_particles: int = 16,
    annealing: AnnealedOptions | Mapping[str, Any] | None = None,
    seed: int = 0,
    memory: int | None = None,
    compile: str = "auto",
    progress: bool | None = None,
) -> Sandwich:
    """Draw data from the model and bound their log p(x) from both sides; see the equations of this file.

    Parameters
    ----------
    pair : Pair
        Its latents are continuous and local. The guide is used only where annealing starts from it.
    num_data : int, optional
        N; by default 100, or as many as `conditions` has rows.
    conditions : mapping of str to Tensor, optional
        What the model conditions on, a row for each datum.
    num_particles : int
        K chains in each direction.
    annealing : AnnealedOptions or mapping, optional
        How to anneal, as in `log_likelihood`.
    seed : int
        Seed of data and chains; the process's own random state is left alone.
    memory, compile, progress
        As in `log_likelihood`.

    Returns
    -------
    Sandwich
        Bounds and gap per datum, in nats, and their means.

    Raises
    ------
    InputError
        For a number out of its range, or latents that cannot be annealed.
    PairError
        If the pair breaks its contract.
    """
    pair = as_pair(pair)
    num_particles = integer_at_least("num_particles", num_particles, 1, hint="num_particles=16")
    options, seed = AnnealedOptions.of(annealing), check_seed(seed)
    given = check_mapping("conditions", {} if conditions is None else conditions, "a mapping of names to tensors")
    memory = None if memory is None else check_bytes("memory", memory)
    if num_data is None and not given:
        num_data = 100
    started = time.perf_counter()
    with isolated(seed, device=pair.device), evaluating(pair):
        drawn = pair.generate(num_data, **given)
        data = {name: value for name, value in drawn.items() if pair.takes(name)}
        batch = pair.arguments({**given, **data})
        batch = {name: value.to(pair.device) for name, value in batch.items()}
        contract = pair.check(batch)
        contract.expect_densities(of_guide=False)
        if contract.shares_latents:
            raise InputError(
                "pair",
                expected="local latents",
                got="latents shared by all data",
                hint="the ELBO as a bound",
            )
        latents = {name: value for name, value in drawn.items() if name not in data}
        forward, backward, details = both_ways(
            pair, batch, num_particles, options, latents=latents, memory=memory, compile=compile, show=progress
        )
    return Sandwich(
        lower=forward["values"],
        upper=-backward["values"],
        lower_variances=forward["variances"],
        upper_variances=backward["variances"],
        num_particles=num_particles,
        details=details,
        seconds=time.perf_counter() - started,
        seed=seed,
        non_finite=forward["non_finite"] + backward["non_finite"],
        batch={name: value.cpu() for name, value in batch.items()},
    )
