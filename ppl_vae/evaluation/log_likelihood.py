"""log p(x) of any pair: exact, or by Monte Carlo with an error bar and a diagnostic.

exact        log p(x), where the model knows it
prior        log (1/K) sum_k p(x | z_k),                  z_k ~ p(z)
importance   log (1/K) sum_k p(x, z_k) / q(z_k | x),      z_k ~ q(z | x)
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae import progress, traces
from ppl_vae.context import evaluating, isolated
from ppl_vae.data import Dataset, Split, as_split
from ppl_vae.errors import InputError, unknown_name
from ppl_vae.evaluation.diagnostics import TailShapes, WeightStream
from ppl_vae.evaluation.memory import bytes_per_row
from ppl_vae.evaluation.result import LogLikelihood
from ppl_vae.pair import Pair, as_pair
from ppl_vae.recording import MODES, NotRecordableError, record
from ppl_vae.shapes import integer_at_least
from ppl_vae.types import Batch

METHODS = ("exact", "prior", "importance")

#: Chunks alike from which recording pays, and bytes moved from which compiling does: minutes of work on two cores.
WORTH_RECORDING = 10
WORTH_COMPILING = 1e12

#: Log weights of shape (k, B) for a batch, k fresh particles each.
Sampler = Callable[[dict[str, Tensor], int], Tensor]


def log_likelihood(
    pair: Any,
    data: Dataset | Split | Batch,
    *,
    method: str = "importance",
    num_particles: int = 1000,
    seed: int = 0,
    memory: int = 64 * 2**20,
    compile: str = "auto",
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
        ``"exact"`` where the model has ``log_marginal(**batch)``; else importance weighting by the prior or by the
        guide (Burda et al. 2016, eq. 8: in expectation a lower bound that rises to log p(x) with K).
    num_particles : int
        K, particles per datum; has no part in ``"exact"``.
    seed : int
        Seed of the particles; the process's own random state is left alone.
    memory : int
        Bytes to work in, whatever K. Chunks are cut to fit, so it also settles which random numbers fall to which
        datum.
    compile : {"auto", "off", "graph", "inductor"}
        How chunks are run, as in `fit`; ``"auto"`` records from ten chunks on, and compiles what would take minutes.
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
    num_particles = integer_at_least("num_particles", num_particles, 1, hint="num_particles=1000")
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
            columns = _estimate(sampler, batch, num_particles, memory, compile, progress)
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
    log_marginal: Any = getattr(pair.model, "log_marginal", None)
    if log_marginal is None:
        raise InputError(
            "method 'exact'",
            expected="a model with log_marginal(**batch), such as PPCA",
            got=type(pair.model).__name__,
            hint="method='importance'",
        )
    values = log_marginal(**batch).to(torch.float64).cpu()
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
        return traces.add(traces.log_prob(site, scaled=False) for site in sites if site["is_observed"])

    return sample


def _estimate(
    sampler: Sampler, batch: dict[str, Tensor], num_particles: int, memory: int, compile: str, show: bool | None
) -> dict[str, Any]:
    """Run `sampler` over data and particles in chunks of at most `memory` bytes."""
    size = len(next(iter(batch.values())))
    one = {name: value[:1] for name, value in batch.items()}

    def repeated(count: int) -> dict[str, Tensor]:
        return {name: value.expand(count, *value.shape[1:]) for name, value in one.items()}

    per_row = bytes_per_row(lambda count: sampler(one, count))
    # A datum costs something by itself as well: a guide reads it once, however many particles it draws.
    per_datum = bytes_per_row(lambda count: sampler(repeated(count), 1))
    rows = max(1, int(memory / per_row))
    data_chunk = min(size, max(1, int(memory / (per_datum + (num_particles - 1) * per_row))))
    particle_chunk = min(num_particles, rows)
    calls = (size // data_chunk) * (num_particles // particle_chunk)
    path = choose_path(compile, calls, per_row * size * num_particles)
    sampler = _recorded(sampler, {name: value[:data_chunk] for name, value in batch.items()}, particle_chunk, path)
    # Filled in place: results that lived on one by one would pin the heap between chunks, and it would grow with N.
    columns = {
        name: torch.empty(size, dtype=torch.float64) for name in ("values", "variances", "effective_sample_size")
    }
    tails = TailShapes(num_particles, size)
    non_finite = 0
    with progress.bar("log p(x)", size * num_particles, show) as bar:
        for start in range(0, size, data_chunk):
            part = {name: value[start : start + data_chunk] for name, value in batch.items()}
            stream = WeightStream(num_particles)
            for done in range(0, num_particles, particle_chunk):
                count = min(particle_chunk, num_particles - done)
                stream.add(sampler(part, count))
                bar(count * len(next(iter(part.values()))))
            done_rows = slice(start, start + data_chunk)
            columns["values"][done_rows] = stream.estimate()
            columns["variances"][done_rows] = stream.variance()
            columns["effective_sample_size"][done_rows] = stream.effective_sample_size()
            tails.add(stream.tail)
            non_finite += stream.non_finite
    return columns | {"pareto_k": tails.shapes(), "non_finite": non_finite}


def choose_path(mode: str, calls: int, traffic: float) -> str:
    """Return how chunks are to be run, of which there are so many alike that move `traffic` bytes in all."""
    if mode not in MODES:
        raise unknown_name("compile", mode, MODES)
    if mode == "auto":
        return "inductor" if traffic >= WORTH_COMPILING else "graph" if calls >= WORTH_RECORDING else "eager"
    return "eager" if mode == "off" else mode


def _recorded(sampler: Sampler, batch: dict[str, Tensor], num_particles: int, path: str) -> Sampler:
    """Return `sampler`, recorded for chunks like `batch` and `num_particles`, and as it is for all others."""
    if path == "eager":
        return sampler

    def compute(*values: Tensor) -> list[Tensor]:
        return [sampler(dict(zip(batch, values, strict=True)), num_particles)]

    try:
        recording = record(compute, list(batch.values()), compiled=path == "inductor")
    except NotRecordableError as reason:
        warnings.warn(f"log p(x) cannot be recorded and runs eagerly: {reason}", stacklevel=4)
        return sampler
    shapes = [value.shape for value in batch.values()]

    def run(part: dict[str, Tensor], count: int) -> Tensor:
        alike = count == num_particles and [value.shape for value in part.values()] == shapes
        return recording(*part.values())[0] if alike else sampler(part, count)

    return run
