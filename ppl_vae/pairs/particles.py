"""How a pair is run for several particles: as they stand in a plate at dim -2, or folded into the batch.

Both are tried on the latents of a run without particles, twice: each particle must have the log weights of that run. So
a network that takes leading dimensions for something else is found out, and one that mixes rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.core.errors import PplVaeError, one_line
from ppl_vae.core.types import Program
from ppl_vae.pairs.folding import Folding
from ppl_vae.pairs.plates import DataPlate
from ppl_vae.pairs.programs import Programs
from ppl_vae.pairs.sites import Record, Sites, trace_pair

#: Relative difference of two log weights that rounding explains, in float32.
_ROUNDING = 1e-3


def how_folded(pair: Programs, plate: DataPlate, few: dict[str, Tensor], run: Record) -> Folding | None:
    """Return how particles are folded into the batch; None where programs take them in a plate.

    Parameters
    ----------
    pair : Programs
        Whose latents all belong to single data.
    plate : DataPlate
        Renames the plate of the data.
    few : dict of str to Tensor
        A few rows.
    run : Record
        A run on them, without particles.
    """
    wanted, folding = run.log_weights(), pair.folding or Folding(names=plate.plates.names)
    in_plate = _DIFFERENT
    if not folding.moves:
        pair.folding = None
        in_plate = _difference(pair, plate, few, run, wanted, 2)
        # A distribution may score its own draws only, as a flow without an inverse does.
        if not in_plate or (in_plate != _DIFFERENT and takes_particles(programs_of(pair, plate), few, run)):
            return None
    pair.folding = folding
    in_batch = _difference(pair, plate, few, run, wanted, 2)
    if in_batch:
        alone = _difference(pair, plate, few, run, wanted, None)
        if alone == in_plate == _DIFFERENT and not folding.moves:  # programs with noise of their own
            return None
        unknown = alone == in_batch != _DIFFERENT  # draws that cannot be given: those of its own must do
        if alone != in_batch or (unknown and not takes_particles(programs_of(pair, plate), few, run)):
            return replace(folding, why_not=in_plate if in_plate != _DIFFERENT else in_batch)
    return folding


def programs_of(pair: Programs, plate: DataPlate) -> tuple[Program, Program]:
    """Return the programs of a pair, their plate of the data renamed."""
    model, guide = pair.scoped()
    return plate(model), plate(guide)


def takes_particles(programs: Sequence[Program], few: dict[str, Tensor], run: Record | None = None) -> bool:
    """Return whether programs run inside a particle plate, with as many log weights as particles, if given a `run`."""
    model, guide = programs
    try:
        found = trace_pair(model, guide, (), few, 2)
        return run is None or found.log_weights().shape == (2, *run.log_weights().shape)
    except Exception:  # a program may raise anything
        return False


#: What is said where programs run, but not to the log weights of each particle alone.
_DIFFERENT = "programs in which log weights of one row depend on the others"


def _difference(
    pair: Programs, plate: DataPlate, few: dict[str, Tensor], run: Record, wanted: Tensor, particles: int | None
) -> str:
    """Return why a run of the same latents for each particle fails or has other log weights; empty if it is right."""
    model, guide = programs_of(pair, plate)
    model, guide = (
        poutine.replay(program, trace=_fixed(sites, particles))
        for program, sites in ((model, run.model), (guide, run.guide))
    )
    try:
        found = trace_pair(model, guide, (), few, particles).log_weights()
    except PplVaeError:
        raise
    except Exception as error:  # a program may raise anything
        return one_line(error)
    shape = wanted.shape if particles is None else (particles, *wanted.shape)
    if found.shape != shape:
        return f"log weights of shape {tuple(found.shape)} for {particles} particles of {len(wanted)} rows"
    scale = wanted.abs().max().clamp_min(1.0)
    same = torch.isclose(found, wanted.expand(shape), rtol=_ROUNDING, atol=float(_ROUNDING * scale), equal_nan=True)
    return "" if bool(same.all()) else _DIFFERENT


def _fixed(sites: Sites, particles: int | None) -> Any:
    """Return a trace of the latents of a run, the same for each particle."""
    trace = poutine.Trace()
    for name, site in sites.latents.items():
        value = site["value"]
        if particles is not None:
            value = value.expand(particles, *value.shape)
        trace.add_node(name, **(site | {"value": value}))
    return trace
