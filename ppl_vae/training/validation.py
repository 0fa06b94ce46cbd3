"""The validation bound of a fit: unweighted, with the same noise in all epochs."""

from __future__ import annotations

from typing import Any

import torch

from ppl_vae.compile.precision import products_in
from ppl_vae.core.errors import NonFiniteError
from ppl_vae.core.process import evaluating, isolated, random_state, set_random_state
from ppl_vae.data import Split
from ppl_vae.objectives import ELBO
from ppl_vae.training.distributed.workers import Shard
from ppl_vae.training.nonfinite import first_bad_site
from ppl_vae.training.options import Options
from ppl_vae.training.step import TrainingStep


def validate(step: TrainingStep, split: Split, options: Options, epoch: int) -> dict[str, float]:
    """Return the bound on `split`, nats per datum; for `ELBO` its distortion and rate too.

    Raises
    ------
    NonFiniteError
        For a value that is not finite: names the first such site. `epoch` is how many are done.
    """
    pair, totals = step.pair, dict[str, Any]()
    with isolated(options.seed + 1, device=pair.device), evaluating(pair):
        for start in range(0, split.size, options.batch_size):
            rows = {name: value[start : start + options.batch_size] for name, value in split.items()}
            batch, shard = step.own(rows)
            if shard.size:
                _add(totals, _bound_of(step, batch, shard))
    parts = step.workers.gather({name: float(value) for name, value in totals.items()})
    values = {f"validation_{name}": sum(part.get(name, 0.0) for part in parts) / split.size for name in parts[0]}
    if not all(torch.isfinite(torch.tensor(value, device="cpu")) for value in values.values()):
        with isolated(options.seed + 1, device=pair.device), evaluating(pair):
            culprit = first_bad_site(pair.programs(), pair.arguments(split)) or "the validation bound"
        raise NonFiniteError(f"epoch {epoch + 1}, validation: {culprit}; try a smaller lr, or clip_norm")
    return values


def effect_of_precision(step: TrainingStep, split: Split, options: Options) -> dict[str, Any]:
    """Return the bound of some data in the fit's precision and in float32, with the same noise."""
    pair = step.pair
    batch = pair.arguments(split.take(min(split.size, 1000)))
    found: dict[str, Any] = {"name": options.precision, "data": len(next(iter(batch.values())))}
    for name in (options.precision, "float32"):
        with isolated(options.seed + 1, device=pair.device), evaluating(pair), products_in(name):
            programs = step.gradient.programs(Shard.whole(found["data"]), precision=name)
            found[f"bound_{name}"] = float(_bound(step.gradient.objective, programs, batch)["bound"]) / found["data"]
    return found


def _bound_of(step: TrainingStep, batch: dict[str, Any], shard: Shard) -> dict[str, Any]:
    """Return the bound of a shard, summed; where memory runs out, that of its two halves, with the same noise."""
    device = step.pair.device
    before = random_state(device)
    try:
        return _bound(step.gradient.objective, step.gradient.programs(shard), batch)
    except torch.OutOfMemoryError:
        if shard.size == 1:
            raise
    torch.cuda.empty_cache()
    totals: dict[str, Any] = {}
    middle = shard.size // 2
    for start, stop in ((0, middle), (middle, shard.size)):
        set_random_state(before, device)  # each part draws the noise of all rows, and keeps that of its own
        part = Shard(shard.start + start, shard.start + stop, shard.total)
        rows = {name: value[start:stop] for name, value in batch.items()}
        _add(totals, _bound_of(step, rows, part))
    return totals


def _add(totals: dict[str, Any], found: dict[str, Any]) -> None:
    for name, value in found.items():
        totals[name] = totals.get(name, 0.0) + value


def _bound(objective: Any, programs: tuple[Any, Any], batch: dict[str, Any]) -> dict[str, Any]:
    """Return the bound of a batch, summed over it; for `ELBO` also distortion and rate."""
    if isinstance(objective, ELBO):
        parts = objective.distortion_and_rate(*programs, **batch)
        return {"bound": -sum(parts.values()), **parts}
    loss: Any = objective.loss(*programs, **batch)
    return {"bound": -(loss[0] if isinstance(loss, tuple) else loss)}
