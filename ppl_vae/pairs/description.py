"""The description of a pair in ``config.json``: constructor arguments, parameter shapes, and how to rebuild it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.core.config import describe, is_known, rebuild
from ppl_vae.core.errors import InputError, PplVaeError, RunError, one_line
from ppl_vae.core.process import alone
from ppl_vae.pairs.adoption import expect
from ppl_vae.pairs.pair import Pair
from ppl_vae.pairs.renamed import with_new_buffers


def describe_pair(pair: Pair) -> dict[str, Any]:
    """Return what identifies a pair: its classes, the arguments they were built with where known, and its shapes."""
    return {
        role: {"name": type(module).__qualname__, "description": describe(module)}
        for role, module in (("model", pair.model), ("guide", pair.guide))
    } | {"state": {name: list(tensor.shape) for name, tensor in pair.state_dict().items()}}


def rebuild_pair(description: dict[str, Any], folder: Path) -> Pair:
    """Build the pair that `describe_pair` described, with fresh parameters."""
    for role in ("model", "guide"):
        known, name = description[role]["description"], description[role]["name"]
        if known is None or not is_known(known):
            raise InputError(
                f"{folder}",
                expected=f"a pair to fill, since the {role} {name} cannot be rebuilt from plain arguments here",
                got="no pair",
                hint=f"ppl_vae.load({str(folder)!r}, pair=…), or @ppl_vae.config.configurable on the class",
            )
    known = description["model"]["description"]

    def build() -> Pair:
        model = rebuild(known)
        return Pair(model, rebuild(description["guide"]["description"], built=(known, model)))

    return of_sizes(description["state"], build, folder)


def of_sizes(sizes: Mapping[str, list[int]], build: Callable[[], Pair], folder: Path) -> Pair:
    """Return the pair that `build` makes, if its parameters have these sizes; memory is allocated only then.

    Raises
    ------
    RunError
        If they have others, or the pair cannot be built.
    """
    with alone(), torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):  # shapes without values, which take no memory
                shapeless = build()
                shapes = {name: list(tensor.shape) for name, tensor in shapeless.state_dict().items()}
            sizes = with_new_buffers(shapeless, sizes, shapes)
        except PplVaeError:
            raise
        except Exception:  # a constructor that computes with its tensors: only building it shows its shapes
            shapes = dict(sizes)
        try:
            if shapes != sizes:
                raise ValueError("parameters of other sizes")
            return build()
        except PplVaeError:
            raise
        except (RuntimeError, MemoryError, OverflowError, RecursionError, ValueError, TypeError) as error:
            raise RunError(
                f"{folder / 'config.json'}: expected a pair of the sizes in 'pair.state'; got {one_line(error)}; "
                "try the version that wrote it"
            ) from error


def load_state(pair: Pair, state: dict[str, Tensor], origin: Path | str) -> None:
    """Fill `pair` with `state`, adopting its floating type.

    Raises
    ------
    InputError
        If names or shapes differ: `state` belongs to another pair.
    """
    expect(pair, state)
    own = pair.state_dict()
    mine = {name: tuple(tensor.shape) for name, tensor in own.items()}
    state = with_new_buffers(pair, state, own)
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if mine != theirs:
        name = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))[0]
        raise InputError(
            f"{origin}",
            expected=f"the pair that was fitted, with {name} {theirs.get(name, 'absent')}",
            got=f"{name} {mine.get(name, 'absent')}",
            hint="the run's own pair (after pair.check(batch), if its guide makes parameters when it first runs), or "
            "another run folder",
        )
    floating = [tensor.dtype for tensor in state.values() if tensor.is_floating_point()]
    if floating:
        pair.to(floating[0])
    pair.load_state_dict(state)
