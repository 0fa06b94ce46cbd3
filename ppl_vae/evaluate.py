"""log p(x) of any pair: exact, or by Monte Carlo with an error bar and a diagnostic.

exact        log p(x), where the model knows it
prior        log (1/K) sum_k p(x | z_k),                  z_k ~ p(z)
importance   log (1/K) sum_k p(x, z_k) / q(z_k | x),      z_k ~ q(z | x)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae import progress, traces
from ppl_vae.context import evaluating, isolated
from ppl_vae.data import Dataset, Split, as_split
from ppl_vae.diagnostics import WeightStream
from ppl_vae.errors import InputError, unknown_name
from ppl_vae.memory import bytes_per_row
from ppl_vae.pair import Pair, as_pair
from ppl_vae.result import LogLikelihood
from ppl_vae.types import Batch

METHODS = ("exact", "prior", "importance")

#: Log weights of shape (k, B) for a batch, k fresh particles each.
Sampler = Callable[[dict[str, Tensor], int], Tensor]


def log_likelihood(
    pair: Any,
    data: Dataset | Split | Batch,
    *,
    method: str = "importance",
    num_particles: int = 1000,
    seed: int = 0,
    memory: int = 256 * 2**20,
    progress: bool | None = None,
) -> LogLikelihood:
    """Estimate log p(x) of every datum under the pair's model, in nats.

    Parameters
    ----------
    pair : Pair
        A model and, for ``"importance"``, a guide.
    data : Dataset, Split or mapping of str to Tensor
        A `Dataset` stands for its test split.
    method : {"exact", "prior", "importance"}
        ``"exact"`` where the model has ``log_marginal(**batch)``; else importance weighting by the prior or by the guide
        (Burda et al. 2016, eq. 8: in expectation a lower bound that rises to log p(x) with K).
    num_particles : int
        K, particles per datum; has no part in ``"exact"``.
    seed : int
        Seed of the particles; the process's own random state is left alone.
    memory : int
        Bytes to work in, whatever K. Chunks are cut to fit, so it also settles which random numbers fall to which datum.
    progress : bool, optional
        Whether to show a progress bar; by default on a terminal.

    Returns
    -------
    LogLikelihood
        Per-datum values, their mean, its error bars, and the diagnostics.

    Raises
    ------
    InputError
        For an unknown method, K < 1, ``"exact"`` without a closed form, latents shared by all data, or bad data.
    """
    pair = as_pair(pair)
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if not isinstance(num_particles, int) or num_particles < 1:
        raise InputError(
            "num_particles", expected="a whole number, 1 or more", got=repr(num_particles), hint="num_particles=1000"
        )
    split = data.test if isinstance(data, Dataset) else as_split(data)
    here = split.to(pair.device, pair.dtype)
    started = time.perf_counter()
    with isolated(seed, device=pair.device), evaluating(pair):
        contract = pair.check(here)
        batch = pair.arguments(here)
        if method == "exact":
            columns = _exact(pair, batch)
        elif contract.shares_latents:
            raise InputError(
                "pair",
                expected="latents that each belong to a datum",
                got="latents shared by all data",
                hint="the ELBO as a bound",
            )
        else:
            sampler = _from_prior(pair) if method == "prior" else pair.log_weights
            columns = _estimate(sampler, batch, num_particles, memory, progress)
    return LogLikelihood(
        **columns,
        method=method,
        num_particles=0 if method == "exact" else num_particles,
        seconds=time.perf_counter() - started,
        seed=seed,
        data={
            "name": split.spec.name,
            "role": split.role,
            "size": split.size,
            "binarization": split.spec.binarization,
            "digest": split.digest,
        },
    )


def _exact(pair: Pair, batch: dict[str, Tensor]) -> dict[str, Any]:
    if not hasattr(pair.model, "log_marginal"):
        raise InputError(
            "method 'exact'",
            expected="a model with log_marginal(**batch), such as PPCA",
            got=type(pair.model).__name__,
            hint="method='importance'",
        )
    values = pair.model.log_marginal(**batch).to(torch.float64).cpu()
    none = torch.full_like(values, torch.nan)
    bad = int((~torch.isfinite(values)).sum())
    return {
        "values": values,
        "variances": torch.zeros_like(values),
        "effective_sample_size": none,
        "pareto_k": none,
        "non_finite": bad,
    }


def _from_prior(pair: Pair) -> Sampler:
    """Return a sampler of log p(x | z) for z from the prior."""
    model, _ = pair.programs()

    def sample(batch: dict[str, Tensor], num_particles: int) -> Tensor:
        trace = poutine.trace(traces.particles(model, num_particles)).get_trace(**batch)
        sites = traces.sample_sites(trace).values()
        return sum(traces.log_prob(site, scaled=False) for site in sites if site["is_observed"])  # type: ignore[return-value]

    return sample


def _estimate(
    sampler: Sampler, batch: dict[str, Tensor], num_particles: int, memory: int, show: bool | None
) -> dict[str, Any]:
    """Run `sampler` over data and particles in chunks of at most `memory` bytes."""
    size = len(next(iter(batch.values())))
    one = {name: value[:1] for name, value in batch.items()}
    rows = max(1, int(memory / bytes_per_row(lambda count: sampler(one, count))))
    data_chunk = min(size, max(1, rows // num_particles))
    particle_chunk = min(num_particles, rows)
    columns: dict[str, list[Tensor]] = {"values": [], "variances": [], "effective_sample_size": [], "pareto_k": []}
    non_finite = 0
    with progress.bar("log p(x)", size * num_particles, show) as bar:
        for start in range(0, size, data_chunk):
            part = {name: value[start : start + data_chunk] for name, value in batch.items()}
            stream = WeightStream(num_particles)
            for done in range(0, num_particles, particle_chunk):
                count = min(particle_chunk, num_particles - done)
                stream.add(sampler(part, count))
                bar(count * len(next(iter(part.values()))))
            columns["values"].append(stream.estimate().cpu())
            columns["variances"].append(stream.variance().cpu())
            columns["effective_sample_size"].append(stream.effective_sample_size().cpu())
            columns["pareto_k"].append(stream.pareto_k())
            non_finite += stream.non_finite
    return {name: torch.cat(parts) for name, parts in columns.items()} | {"non_finite": non_finite}
