"""The state of an optimiser, read from a checkpoint of the same fit, which may have run on another device."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def load_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Give an optimiser the state of a checkpoint.

    Its options stay as they are, whatever the checkpoint's: they are settings of the fit, and some (``capturable``,
    which decides where torch keeps the step counts) depend on the device.

    Raises
    ------
    ValueError
        If it is the state of an optimiser of another kind, or of other parameters.
    """
    if state["state"]:  # there is none before the first step
        _check_kind(optimizer, state)
    settings = inspect.signature(type(optimizer)).parameters
    groups = [
        {**group, **{name: value for name, value in mine.items() if name in settings and name != "params"}}
        for group, mine in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict(copy.deepcopy({**state, "param_groups": groups}))


def _check_kind(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Raise a ValueError unless `state` has the entries that a copy of `optimizer` has after one step."""
    other = copy.deepcopy(optimizer)
    for group in other.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    try:
        other.step()
    except (
        RuntimeError,
        AssertionError,
        NotImplementedError,
    ):  # an optimiser that cannot step on this copy is not checked
        return
    made = other.state_dict()
    for number, (group, given) in enumerate(zip(made["param_groups"], state["param_groups"], strict=True)):
        _check_entries(f"param_groups.{number}", group, given)
    for number, entries in made["state"].items():
        _check_entries(f"state.{number}", entries, state["state"].get(number, {}))


def _kind(value: Any) -> type:
    """Return the type of a setting; a list and a tuple are of one kind, which torch keeps as they were given or not."""
    return tuple if isinstance(value, list) else type(value)


def _check_entries(where: str, made: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for name, value in made.items():
        other = given.get(name)
        if isinstance(value, Tensor) and name != "lr":  # a rate is a tensor where steps are captured
            fits = isinstance(other, Tensor) and value.shape == other.shape and value.dtype == other.dtype
        else:
            fits = name in ("lr", "foreach", "fused") or value is None or _kind(value) is _kind(other)
        if not fits:
            raise ValueError(f"no {type(value).__name__} at optimizer.{where}.{name}")
