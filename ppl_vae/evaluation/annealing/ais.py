"""log p(x) by annealed importance sampling, for any number of data and particles in a budget of memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ppl_vae.compile.recorded import proved_or_eagerly
from ppl_vae.core import progress
from ppl_vae.core.errors import one_line
from ppl_vae.evaluation.annealing import hmc
from ppl_vae.evaluation.annealing.transitions import AnnealedOptions, Annealer
from ppl_vae.evaluation.annealing.unconstrained import Unconstrained
from ppl_vae.evaluation.importance.chunks import CACHE, MEMORY, choose_path
from ppl_vae.evaluation.importance.diagnostics import Columns, WeightStream
from ppl_vae.evaluation.memory import bytes_per_row, even, halved, went_from
from ppl_vae.pairs.pair import Pair

__all__ = ["AnnealedOptions", "annealed", "both_ways"]


def annealed(
    pair: Pair,
    batch: Mapping[str, Tensor],
    num_particles: int,
    options: AnnealedOptions | Mapping[str, Any] | None = None,
    *,
    memory: int | None = None,
    compile: str = "auto",
    show: bool | None = None,
) -> dict[str, Any]:
    """Return log p(x) of every datum of `batch` by annealed importance sampling, in nats, with its diagnostics.

    The caller sets the random state and the pair's mode (`ppl_vae.core.process.isolated` and `evaluating`).

    Parameters
    ----------
    pair : Pair
        Checked; its latents are continuous and local.
    batch : mapping of str to Tensor
        The arguments of both programs, N data.
    num_particles : int
        K chains per datum.
    options : AnnealedOptions or mapping, optional
        How to anneal.
    memory : int, optional
        Bytes to work in: by default 64 MiB, on a GPU 2 GiB.
    compile : {"auto", "off", "graph", "inductor"}
        How densities and gradients are computed. Recorded ones are compared with the programs at the first and the
        last transition of every chain.
    show : bool, optional
        Whether to show a progress bar; by default on a terminal.

    Returns
    -------
    dict
        ``values``, ``variances``, ``effective_sample_size``, ``pareto_k``, (N,) each; ``non_finite``; and ``details``:
        the options, acceptance and step sizes as plain values.

    Raises
    ------
    InputError
        For latents that cannot be annealed (see `Unconstrained`), and for options that are wrong.
    """
    forward, _, details = both_ways(pair, batch, num_particles, options, memory=memory, compile=compile, show=show)
    return forward | {"details": details}


def both_ways(
    pair: Pair,
    batch: Mapping[str, Tensor],
    num_particles: int,
    options: AnnealedOptions | Mapping[str, Any] | None,
    *,
    latents: Mapping[str, Tensor] | None = None,
    memory: int | None,
    compile: str,
    show: bool | None,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the columns of log w from f_0 to the posterior, of log 1/w from `latents` back, and the details.

    `latents` are draws from the posterior, (N, …) each, from which all chains of a datum start backward; without them
    the second is empty. Otherwise as `annealed`.
    """
    options = AnnealedOptions.of(options)
    return proved_or_eagerly(
        lambda mode: _both_ways(pair, batch, num_particles, options, latents, memory, mode, show), compile, pair.device
    )


def _both_ways(
    pair: Pair,
    batch: Mapping[str, Tensor],
    num_particles: int,
    options: AnnealedOptions,
    latents: Mapping[str, Tensor] | None,
    memory: int | None,
    compile: str,
    show: bool | None,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    size, T = len(next(iter(batch.values()))), options.num_distributions
    target = Unconstrained(pair, batch, options.start)
    origins: tuple[Mapping[str, Tensor] | None, ...] = (None,) if latents is None else (None, latents)
    data_chunk, particle_chunk, per_row = _cut(target, batch, num_particles, memory)
    particle_calls = -(-num_particles // particle_chunk)
    transitions = -(-size // data_chunk) * (len(origins) * particle_calls * (T - 1) + options.adapting)
    rows = data_chunk * particle_chunk
    gradients = transitions * options.leapfrog_steps
    path = choose_path(compile, gradients, per_row * rows * gradients, pair.device.type)
    annealer, seconds, planned = Annealer(target, options, path), 0.0, (particle_chunk, data_chunk)
    columns = [Columns(num_particles, size) for _ in origins]
    acceptance = torch.zeros(size, dtype=torch.float64, device="cpu")
    smallest, largest = torch.inf, 0.0
    first = 0
    with progress.bar("annealing", transitions * rows, show) as bar:
        while first < size:
            # Chunks are all of one shape, which is recorded once: the last one is padded with its last datum.
            index = torch.arange(first, first + data_chunk, device=pair.device).clamp_max(size - 1)
            ends = [origin and _rows(origin, index) for origin in origins]
            own = slice(first, min(first + data_chunk, size))
            try:
                streams, accepted, step_sizes = _chunk(
                    annealer, _rows(batch, index), ends, num_particles, particle_chunk, own.stop - own.start, bar
                )
            except torch.OutOfMemoryError as error:
                reason = one_line(error, 120)
            else:
                for column, stream in zip(columns, streams, strict=True):
                    column.put(own, stream, stream.estimate(), stream.variance())
                acceptance[own] = accepted
                smallest, largest = min(smallest, float(step_sizes.min())), max(largest, float(step_sizes.max()))
                first = own.stop
                continue
            # Outside the handler: its traceback keeps the chunk's tensors alive.
            particle_chunk, data_chunk = halved(particle_chunk, data_chunk, reason)
            seconds += annealer.seconds
            annealer = Annealer(target, options, path)
    accepting = {"mean": acceptance.mean(), "min": acceptance.min(), "max": acceptance.max()}
    details = asdict(options) | {
        "acceptance": {name: float(value) for name, value in accepting.items()} if T > 1 else None,
        "adapted_step_size": {"min": smallest, "max": largest} if T > 1 else None,
        "path": annealer.path,
        "seconds_recording": seconds + annealer.seconds,
    }
    if (particle_chunk, data_chunk) != planned:
        details["out_of_memory"] = went_from(planned, (particle_chunk, data_chunk))
    return columns[0].results(), columns[1].results() if latents is not None else {}, details


def _chunk(
    annealer: Annealer,
    batch: Mapping[str, Tensor],
    ends: Sequence[Mapping[str, Tensor] | None],
    num_particles: int,
    particles: int,
    count: int,
    bar: progress.Bar,
) -> tuple[list[WeightStream], Tensor, Tensor]:
    """Anneal a chunk of data once for each of `ends`: from f_0 for None, else back from these draws of the posterior.

    Returns
    -------
    streams : list of WeightStream
        Log weights of the first `count` data, K each.
    acceptance : Tensor (count,)
        Mean over all transitions and chains, on the CPU.
    step_sizes : Tensor (rungs, B)
        Found by the adapting pass.
    """
    step_sizes = annealer.adapt(batch, particles, bar)
    streams, acceptances = [], []
    for end in ends:
        stream = WeightStream(num_particles)
        for done in range(0, num_particles, particles):
            if end is None:
                u = annealer.target.draw(batch, particles)
            else:
                u = annealer.target.flatten(batch, end).repeat(particles, 1, 1)
            log_weights, accepted = annealer.anneal(u, step_sizes, batch, bar, backward=end is not None)
            stream.add(log_weights[: num_particles - done, :count])
            acceptances.append(accepted[:count].to("cpu", torch.float64))
        streams.append(stream)
    return streams, torch.stack(acceptances).mean(0), step_sizes


def _rows(tensors: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    return {name: value[index] for name, value in tensors.items()}


def _cut(
    target: Unconstrained, batch: Mapping[str, Tensor], num_particles: int, memory: int | None
) -> tuple[int, int, float]:
    """Return how many data and particles a chunk has, of N and K split evenly, and the bytes per row.

    They are measured on one gradient, the most that a transition holds at once.
    """
    one = {name: value[:1] for name, value in batch.items()}

    def measured(num_data: int, count: int) -> None:
        part = {name: value.expand(num_data, *value.shape[1:]) for name, value in one.items()}
        hmc.gradient(lambda u: target.log_densities(u, part), target.draw(part, count))

    per_row = bytes_per_row(lambda count: measured(1, count))
    per_datum = bytes_per_row(lambda count: measured(count, 1))
    first = next(iter(batch.values()))
    kind = "cpu" if first.device.type == "cpu" else "cuda"
    budget = MEMORY[kind] if memory is None else memory
    budget = min(budget, CACHE) if kind == "cpu" else budget
    data_chunk = even(len(first), int(budget / (per_datum + (num_particles - 1) * per_row)))
    return data_chunk, even(num_particles, int(budget / per_row)), per_row
