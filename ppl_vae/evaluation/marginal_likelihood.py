"""log p(x) of any pair: exact, or by Monte Carlo with an error bar and a diagnostic.

exact        log p(x), where the model knows it, in float64
prior        log (1/K) sum_k p(x | z_k),                  z_k ~ p(z)
importance   log (1/K) sum_k p(x, z_k) / q(z_k | x),      z_k ~ q(z | x)
ais          the same of weights annealed from the prior or the guide to the posterior (`annealed`)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.compile.recorded import proved_or_eagerly
from ppl_vae.core import progress
from ppl_vae.core.checks import check_bytes, check_seed, integer_at_least, one_of
from ppl_vae.core.errors import InputError, shown
from ppl_vae.core.process import evaluating, isolated
from ppl_vae.core.types import Batch
from ppl_vae.data import Dataset, Split, as_split
from ppl_vae.evaluation.annealing.ais import AnnealedOptions, annealed
from ppl_vae.evaluation.closed_form import exactly
from ppl_vae.evaluation.importance.chunks import MEMORY, Chunks, Sampler
from ppl_vae.evaluation.importance.curve import CurveSum, Groups
from ppl_vae.evaluation.importance.deterministic import one_configuration
from ppl_vae.evaluation.importance.diagnostics import Columns, WeightStream
from ppl_vae.evaluation.importance.jackknife import jackknife
from ppl_vae.evaluation.result import LogLikelihood
from ppl_vae.pairs import sites as traces
from ppl_vae.pairs.contract import hooks
from ppl_vae.pairs.pair import Pair, as_pair

METHODS = ("exact", "prior", "importance", "ais")

CORRECTIONS = ("none", "jackknife")

#: Chains of annealing need fewer particles.
USUAL_PARTICLES = {"ais": 16}

#: Bytes per log weight while its block is processed: measured, up to sixteen numbers of float64.
BYTES_PER_WEIGHT = 128


def log_likelihood(
    pair: Any,
    data: Dataset | Split | Batch,
    *,
    method: str = "importance",
    num_particles: int | None = None,
    correction: str = "none",
    annealing: AnnealedOptions | Mapping[str, Any] | None = None,
    seed: int = 0,
    memory: int | None = None,
    compile: str = "auto",
    progress: bool | None = None,
) -> LogLikelihood:
    """Estimate log p(x) of every datum under the pair's model, in nats.

    Parameters
    ----------
    pair : Pair
        A model and a guide.
    data : Dataset, Split or mapping of str to Tensor
        A `Dataset` stands for its test split.
    method : {"exact", "prior", "importance", "ais"}
        ``"exact"`` where the model has ``log_marginal(**batch)``, which is run in float64; else importance weighting by
        the prior or by the guide (Burda et al. 2016, eq. 8: in expectation a lower bound that rises to log p(x) with
        K), or annealed importance sampling (see `ppl_vae.evaluation.annealing.ais`).
    num_particles : int
        K, particles per datum: 1000, or 16 chains for ``"ais"``; not used by ``"exact"``.
    correction : {"none", "jackknife"}
        Whether to remove the first order of the logarithm's bias from ``"prior"`` and ``"importance"`` (Nowozin 2018).
        The result is not a lower bound.
    annealing : AnnealedOptions or mapping, optional
        How ``"ais"`` anneals.
    seed : int
        Seed of the particles; the process's own random state is left alone.
    memory : int, optional
        Bytes to work in, whatever K: 64 MiB, on a GPU 2 GiB. It sets the size of the chunks, and so which random
        numbers each datum gets. Where the device has less, the chunk is halved until it fits, with a warning.
    compile : {"auto", "off", "graph", "inductor"}
        How chunks are run, as in `fit`; ``"auto"`` records from 500 chunks on, and compiles what takes a minute. The
        first chunk of a recording, and the last of a hundred or more, are also computed by the programs: where the two
        differ, everything is computed by the programs, with a warning.
    progress : bool, optional
        Whether to show a progress bar; by default on a terminal.

    Returns
    -------
    LogLikelihood
        Per-datum values, their mean, its error bars, and the diagnostics.

    Raises
    ------
    InputError
        For an unknown method or correction, K < 1, a method or correction that the pair, K or the memory does not
        allow, latents shared by all data, or bad data.
    """
    pair = as_pair(pair)
    one_of("method", method, METHODS)
    one_of("correction", correction, CORRECTIONS)
    usual = USUAL_PARTICLES.get(method, 1000)
    wanted = usual if num_particles is None else num_particles
    num_particles = integer_at_least("num_particles", wanted, 1, hint=f"num_particles={usual}")
    _check_options(method, num_particles, correction, annealing)
    usual_memory = MEMORY["cuda" if pair.device.type == "cuda" else "cpu"]
    memory = check_bytes("memory", usual_memory if memory is None else memory)
    seed = check_seed(seed)
    split = data.test if isinstance(data, Dataset) else as_split(data)
    here = split.to(pair.device, pair.dtype)
    started = time.perf_counter()
    with isolated(seed, device=pair.device), evaluating(pair):
        contract = pair.check(here)
        batch = pair.arguments(here)
        if method != "exact":
            from_guide = method == "ais" and AnnealedOptions.of(annealing).start == "guide"
            contract.expect_densities(of_guide=from_guide or method == "importance")
        if method == "exact":
            columns = exactly(pair, split)
        elif contract.shares_latents:
            raise InputError(
                "pair",
                expected="local latents",
                got="latents shared by all data",
                hint="the ELBO as a bound",
            )
        elif pair.whole is not None:
            raise InputError(
                pair.whole.what,
                expected="programs that run on some of the data, for log p(x) of each",
                got=f"one that takes all, as {pair.whole.why}",
                hint=pair.whole.hint,
            )
        elif contract.plates.parts:
            raise InputError(
                f"plate {next(iter(contract.plates.parts))!r}",
                expected="all rows of a batch, for log p(x) of each",
                got="a part of them, which the program draws",
                hint="subsample_size=None",
            )
        elif method == "ais":
            columns = annealed(pair, batch, num_particles, annealing, memory=memory, compile=compile, show=progress)
        else:
            sampler = _from_prior(pair) if method == "prior" else pair.log_weights
            columns = proved_or_eagerly(
                lambda mode: _estimate(sampler, batch, num_particles, memory, mode, correction, progress, pair),
                compile,
                pair.device,
            )
            if method == "importance":
                columns["deterministic"] = one_configuration(
                    pair, batch, columns["effective_sample_size"], num_particles
                )
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
        }
        | ({"units": split.spec.units} if split.spec.units else {}),
        quantity=_quantity(pair, batch, contract.observed_arguments),
        correction=correction,
    )


def _quantity(pair: Pair, batch: dict[str, Tensor], observed: tuple[str, ...]) -> str:
    """Return what was estimated, as text: from a method `quantity` of the model or a module in it, if any."""
    for quantity in hooks(pair.model, "quantity"):
        if text := quantity(**batch):
            return text
    given = [name for name in batch if name not in observed]
    return f"log p({', '.join(observed)}{' | ' * bool(given)}{', '.join(given)})"


def _check_options(method: str, num_particles: int, correction: str, annealing: Any) -> None:
    """Raise for options that the method does not use."""
    if correction != "none" and method not in ("prior", "importance"):
        raise InputError(
            f"correction {correction!r}", expected="method 'prior' or 'importance'", got=shown(method), hint="'none'"
        )
    if correction == "jackknife" and num_particles < 2:
        raise InputError("correction 'jackknife'", expected="at least 2 particles", got="1", hint="num_particles=1000")
    if annealing is not None and method != "ais":
        raise InputError("annealing", expected="method 'ais'", got=shown(method), hint="method='ais'")


def _from_prior(pair: Pair) -> Sampler:
    """Return a sampler of log p(x | z) for z from the prior."""
    model, _ = pair.programs()

    def sample(batch: dict[str, Tensor], num_particles: int) -> Tensor:
        trace = poutine.trace(traces.particles(model, num_particles)).get_trace(**batch)
        observed = traces.sample_sites(trace).observed
        return traces.add(traces.log_prob(site, scaled=False) for site in observed.values())

    return sample


def _estimate(
    sampler: Sampler,
    batch: dict[str, Tensor],
    num_particles: int,
    memory: int,
    compile: str,
    correction: str,
    show: bool | None,
    pair: Pair,
) -> dict[str, Any]:
    """Run `sampler` over data and particles in chunks of at most `memory` bytes."""
    value = next(iter(batch.values()))
    size, device = len(value), value.device
    chunks = Chunks(sampler, batch, num_particles, memory, compile, pair)
    # Log weights are processed in blocks of many chunks: all of some data, or, for few data, as many as fit.
    room = max(1, memory // BYTES_PER_WEIGHT)
    data_block = min(size, chunks.data * max(1, room // (num_particles * chunks.data)))
    whole = num_particles * data_block <= room or chunks.particles == num_particles
    fitting = chunks.particles * max(1, room // (chunks.particles * data_block))
    particle_block = num_particles if whole else fitting
    if correction == "jackknife" and not whole:
        raise InputError(
            "correction 'jackknife'",
            expected=f"at most {room:,} particles, as all of a datum's are needed at once",
            got=f"{num_particles:,}",
            hint=f"memory={num_particles * BYTES_PER_WEIGHT}",
        )
    block = torch.empty(particle_block, data_block, dtype=torch.float64, device=device)
    columns, curve = Columns(num_particles, size), CurveSum(num_particles)
    with progress.bar("log p(x)", size * num_particles, show) as bar:
        for start in range(0, size, data_block):
            part = {name: value[start : start + data_block] for name, value in batch.items()}
            rows = slice(start, min(start + data_block, size))
            stream, groups = WeightStream(num_particles), Groups(num_particles)
            for done in range(0, num_particles, particle_block):
                drawn = block[: num_particles - done, : rows.stop - start]
                chunks.fill(drawn, part, bar)
                stream.add(drawn)
                groups.add(drawn)
            values, variances = stream.estimate(), stream.variance()
            curve.add(groups, values, variances)
            if correction == "jackknife":
                values, variances = jackknife(drawn)
            columns.put(rows, stream, values, variances)
    return columns.results() | {"curve": curve.curve(), "details": chunks.details()}
