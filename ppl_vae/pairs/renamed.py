"""Parameters that have another name since a run was written: what they are called now, and the order they had."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ppl_vae.core.moved import PARAMETERS


def current_names(module: nn.Module, names: Iterable[str]) -> dict[str, str | None]:
    """Return what each of `names`, of a state of `module`, is called now; None for what is no longer kept."""
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
    """Return `state`, values by the names of parameters and buffers, by the names that `module` has now."""
    names = current_names(module, state)
    return {now: state[old] for old, now in names.items() if now is not None}


def with_new_buffers(module: nn.Module, state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return `state` by the names of now, and from `own` the buffers of `module` that it was written without."""
    found = renamed(module, state)
    if found.keys() == state.keys():
        return found
    buffers = {name for name, _ in module.named_buffers()}
    return {name: value for name, value in own.items() if name in buffers} | found


def places(module: nn.Module, state: Mapping[str, Any]) -> list[int]:
    """Return, for each parameter of `module` that is trained, its place among those of `state`, in the order it has."""
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    order = [name for name in renamed(module, state) if name in set(trained)]
    return [order.index(name) for name in trained]
