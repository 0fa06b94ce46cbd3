"""The description of a fit in ``config.json``: pair, objective, data and settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.infer

from ppl_vae.core.config import describe
from ppl_vae.core.errors import InputError
from ppl_vae.data import Split
from ppl_vae.pairs.description import describe_pair
from ppl_vae.pairs.pair import Pair
from ppl_vae.training.distributed.workers import Workers
from ppl_vae.training.options import Options
from ppl_vae.training.run_folder.folder import first_difference, short


def describe_fit(
    pair: Pair,
    objective: pyro.infer.ELBO,
    train: Split,
    validation: Split | None,
    options: Options,
    source: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the description of a fit, as plain values."""
    return {
        "pair": describe_pair(pair),
        "objective": _describe_objective(objective),
        "data": _describe_data(train, validation),
        "fit": options.to_json(),
    } | ({} if source is None else {"source": source})


def check_agreement(workers: Workers, config: dict[str, Any]) -> None:
    """Raise, on all workers, unless all of them fit the same pair to the same data in the same way."""
    configs = workers.gather(config)
    for rank, theirs in enumerate(configs):
        if theirs != configs[0]:
            where, first, other = first_difference("", configs[0], theirs)
            raise InputError(
                f"worker {rank}",
                expected=f"{where.strip()} {short(first)} as worker 0 has",
                got=short(other),
                hint="the same program, settings and data for all workers",
            )


def _describe_objective(objective: pyro.infer.ELBO) -> dict[str, Any]:
    about = {"name": type(objective).__name__, "num_particles": objective.num_particles}
    described = describe(objective)
    if described is None:  # Pyro's own: its plain attributes describe it
        about |= {name: value for name, value in vars(objective).items() if isinstance(value, bool | int | float | str)}
    return about | {"description": described}


def _describe_data(train: Split, validation: Split | None) -> dict[str, Any]:
    parts = {"train": train} | ({"validation": validation} if validation is not None else {})
    return {
        "name": train.spec.name,
        "spec": train.spec.to_json(),
        "size": {role: split.size for role, split in parts.items()},
        "digest": {role: split.digest for role, split in parts.items()},
    }
