"""The first runs of a pair's programs: what they put into Pyro's store is taken into the pair.

A value of `pyro.param` is made from all rows (from a thousand, where there are more and its shape is not theirs). A
network that a function announces by `pyro.module` is taken whole.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pyro
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn
from torch.distributions import transform_to

from ppl_vae.core.errors import PairError
from ppl_vae.pairs.handlers import Frozen
from ppl_vae.pairs.programs import Programs
from ppl_vae.pairs.sites import Record, sample_sites
from ppl_vae.pairs.store import State
from ppl_vae.pairs.whole import with_parameters

#: Rows from which a parameter is made, where its shape does not depend on them.
_AT_ONCE = 1000


def adopt(pair: Programs, arguments: Mapping[str, Tensor], rows: int) -> Record:
    """Take into the pair what its programs put into Pyro's store, and return their sites, the model not replayed.

    They are run on `rows` rows, or on all of them where a parameter has a row for each.

    Raises
    ------
    PairError
        For a name that stands for two parameters.
    """
    total = len(next(iter(arguments.values())))
    for program in (pair.model, pair.guide):
        for network in networks_of(program.forward).values():
            network.to(pair.device, pair.dtype)
    by_row = _prepare(pair, arguments)
    rows = total if by_row else rows
    made, sites = _made(pair, arguments, rows)
    values = {name: value for name, value in made["params"].items() if not isinstance(value, nn.Parameter)}
    if values and total > rows:
        other = _made(pair, arguments, rows + 1)[0]["params"]
        by_row += [name for name, value in values.items() if name in other and other[name].shape != value.shape]
        made, of_all = _made(pair, arguments, total if by_row else min(total, _AT_ONCE))
        sites = of_all if by_row else sites
    if by_row:
        pair.whole = with_parameters(total, by_row[0])
    _take_networks(pair, made)
    pair.store.take(made, pair.device, pair.dtype)
    return sites


def expect(pair: Programs, state: Mapping[str, Tensor]) -> None:
    """Make room in the pair for what its programs had made when `state` was saved, as far as they have not run yet."""
    saved = {name.removeprefix("store."): value for name, value in state.items() if name.startswith("store.")}
    networks = {name.partition(".")[0] for name in saved if "." in name}
    for program in (pair.model, pair.guide):
        for name, module in networks_of(program.forward).items():
            if name in networks and name not in dict(pair.store.named_children()):
                pair.store.take_module(name, module.to(pair.device, pair.dtype))
    pair.store.expect(saved)


def _prepare(pair: Programs, arguments: Mapping[str, Tensor]) -> list[str]:
    """Run Pyro's automatic guides, which are made as they first run, on all rows; return their latents of each row."""
    total, found = len(next(iter(arguments.values()))), []
    for part in pair.guide.modules():
        if isinstance(part, AutoGuide) and part.prototype_trace is None:
            with pair.store.scope():
                pair.guide(**arguments)
            sites: Any = part.prototype_trace.nodes if part.prototype_trace is not None else {}
            found += [name for name, site in sites.items() if site["type"] == "sample" and _has_rows(site, total)]
    return found


def _has_rows(site: Mapping[str, Any], rows: int) -> bool:
    return any(frame.vectorized and frame.size == rows for frame in site["cond_indep_stack"])


def _made(pair: Programs, arguments: Mapping[str, Tensor], rows: int) -> tuple[State, Record]:
    """Return what the programs, run on the first rows, put into Pyro's store, less what the pair has; their sites."""
    few = {name: value[:rows] for name, value in arguments.items()}
    states: dict[str, State] = {}
    states["guide"], guide = _run(pair, "guide", few)
    try:
        states["model"], model = _run(pair, "model", few)
    except KeyError:  # a parameter of the guide, by its name only
        states["model"], model = _run(pair, "model", few, states["guide"])
    own, known = {id(parameter) for parameter in pair.parameters()}, pair.store.state()["params"]
    made: State = {"params": {}, "constraints": {}}
    for role, state in states.items():
        for name, value in state["params"].items():
            if name in known:
                continue
            if name in made["params"]:
                _check_same(name, made, state, role)
            elif id(value) not in own:
                made["params"][name], made["constraints"][name] = value, state["constraints"][name]
    for state in states.values():
        for name in made["params"].keys() & state["params"].keys():
            if id(state["params"][name]) in own:
                _raise_two(name, "a `pyro.param` and a parameter of the other program's module")
    return made, Record(sample_sites(model), sample_sites(guide))


def _run(pair: Programs, role: str, batch: Mapping[str, Tensor], given: State | None = None) -> tuple[State, Any]:
    """Run a program in a scope of Pyro's store; return what is in it then, and the trace."""
    with pair.store.scope() as state, Frozen():
        if given is not None:
            pyro.get_param_store().set_state(given)
        trace = poutine.trace(getattr(pair, role)).get_trace(**batch)
    return state, trace


def _check_same(name: str, made: State, state: State, role: str) -> None:
    shapes = [tuple(transform_to(each["constraints"][name])(each["params"][name]).shape) for each in (made, state)]
    values = [each["params"][name] for each in (made, state)]
    if values[0] is not values[1] and all(isinstance(value, nn.Parameter) for value in values):
        _raise_two(name, f"a network in the guide and another in the {role}")
    if shapes[0] != shapes[1]:
        _raise_two(name, f"shape {shapes[0]} in the guide and {shapes[1]} in the {role}")


def _raise_two(name: str, got: str) -> None:
    raise PairError(
        f"parameter {name!r}",
        expected="one parameter of a name in the two programs, which share it as in Pyro",
        got=got,
        hint="another name in one of them",
    )


def _take_networks(pair: Programs, made: State) -> None:
    """Take the networks whose parameters a function has announced; they leave `made`."""
    announced = {id(value) for value in made["params"].values() if isinstance(value, nn.Parameter)}
    if not announced:
        return
    for program in (pair.model, pair.guide):
        for name, module in networks_of(program.forward).items():
            parameters = {id(parameter) for parameter in module.parameters()}
            if announced & parameters:
                pair.store.take_module(name, module)
                announced -= parameters
    own = {id(parameter) for parameter in pair.store.parameters()}
    for name in [name for name, value in made["params"].items() if id(value) in own]:
        del made["params"][name], made["constraints"][name]


def networks_of(program: Callable[..., Any]) -> dict[str, nn.Module]:
    """Return the modules that a function uses, by name: from its closure, its globals, and the object it belongs to."""
    found: dict[str, nn.Module] = {}
    _search(program, found, set())
    return found


def _search(program: Any, found: dict[str, nn.Module], seen: set[int]) -> None:
    if isinstance(program, functools.partial):
        for part in (program.func, *program.args, *program.keywords.values()):
            _search(part, found, seen)
        return
    owner, function = getattr(program, "__self__", None), inspect.unwrap(getattr(program, "__func__", program))
    if not inspect.isfunction(function) or id(function) in seen or _of_a_library(function):
        return
    seen.add(id(function))
    used: dict[str, Any] = {}
    if owner is not None and not isinstance(owner, nn.Module) and hasattr(owner, "__dict__"):
        used |= vars(owner)
    variables = inspect.getclosurevars(function)
    used |= {**variables.globals, **variables.nonlocals}
    for name, value in used.items():
        if isinstance(value, nn.Module):
            found.setdefault(name, value)
        elif inspect.isfunction(value) or inspect.ismethod(value) or isinstance(value, functools.partial):
            _search(value, found, seen)


def _of_a_library(function: Any) -> bool:
    return (function.__module__ or "").partition(".")[0] in ("torch", "pyro", "ppl_vae")
