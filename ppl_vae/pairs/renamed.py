"""Parameters that were renamed since a run was written: their current names, and their order then."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ppl_vae.core.moved import PARAMETERS


def current_names(module: nn.Module, names: Iterable[str]) -> dict[str, str | None]:
    """Return the current name of each of `names`, from a saved state of `module`; None for one no longer saved."""
    found: dict[str, str | None] = {name: name for name in names}
    own = module.state_dict().keys()
    for path, part in module.named_modules():
        classes = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(part).__mro__]
        rules = [rule for cls in classes for rule in PARAMETERS.get(cls, ())]
        prefix = f"{path}." if path else ""
        for name in [name for name in found if name.startswith(prefix) and name not in own]:
            for old, new in rules:
                if re.match(old, name[len(prefix) :]):
                    found[name] = None if new is None else prefix + re.sub(f"^{old}", new, name[len(prefix) :])
                    break
    return found


def renamed(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return `state`, a mapping from names of parameters and buffers to values, with the current names of `module`."""
    names = current_names(module, state)
    return {now: state[old] for old, now in names.items() if now is not None}


def with_new_buffers(module: nn.Module, state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return `state` with current names; buffers of `module` that were added since are taken from `own`."""
    found = renamed(module, state)
    if found.keys() == state.keys():
        return found
    buffers = {name for name, _ in module.named_buffers()}
    return {name: value for name, value in own.items() if name in buffers} | found


def places(module: nn.Module, state: Mapping[str, Any]) -> list[int]:
    """Return the position in `state` of each trained parameter of `module`, in the module's order."""
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    order = [name for name in renamed(module, state) if name in set(trained)]
    return [order.index(name) for name in trained]
