"""Side effects of a program, which a recording would not repeat, and how they are detected.

Hooks, generators of its own, draws from Python's and NumPy's random numbers, attributes that it changes, values that it
takes out of torch, and tensors whose size depends on their values.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode, has_proxy_slot
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import TorchFunctionMode

from ppl_vae.compile.dispatch import DispatchMode
from ppl_vae.core.errors import PplVaeError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)

#: Conversions out of torch that its dispatcher does not intercept.
_WAYS_OUT = ("numpy", "tolist", "__array__", "__dlpack__")

#: Attributes of a module that torch and Pyro manage.
_PRIVATE = (
    "_parameters", "_buffers", "_modules", "_pyro_context", "_flat_weights", "_flat_weight_refs", "training", *_HOOKS,
)  # fmt: skip

#: Number of elements of a container, and depth of nesting, that are compared.
_LENGTH, _DEPTH = 1000, 3


class SideEffectError(PplVaeError, RuntimeError):
    """A program has a side effect that a recording of its tensor operations would not repeat."""


def unseen_by_a_graph(module: nn.Module) -> str:
    """Return, as text, the first hook or generator of a module, which a recording would ignore; empty if none."""
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return f"parameter {name!r} has a hook"
    if _has_any_global_hook():
        return "torch has a hook on all modules"
    for part in module.modules():
        for attribute, value in vars(part).items():
            if attribute in _HOOKS and value:
                return f"{type(part).__name__} has a hook"
            if isinstance(value, _GENERATORS):
                return f"{type(part).__name__}.{attribute} is a random generator of its own"
    return ""


class Watch:
    """Context that detects what a program changes outside its tensors, and can restore it.

    Parameters
    ----------
    module : Module
        Whose buffers and other attributes are compared, submodules included; parameters are not.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> Watch:
        """Store the current state."""
        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._before = {
            (id(home), name): (home, owner, value, _mark(value), _copy(value))
            for home, owner, name, value in self._places()
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the state as it is now."""

    def changed(self) -> str:
        """Return, as text, the first change; empty if there is none."""
        if random.getstate() != self._python:
            return "it draws from Python's random numbers"
        if any(not np.array_equal(now, was) for now, was in zip(np.random.get_state(), self._numpy, strict=True)):
            return "it draws from NumPy's random numbers"
        now = {(id(home), name): (owner, value) for home, owner, name, value in self._places()}
        for key in {**now, **self._before}:
            if key not in now or key not in self._before or self._before[key][3] != _mark(now[key][1]):
                owner = now[key][0] if key in now else self._before[key][1]
                return f"it changes {owner}.{key[1]} as it runs"
        return ""

    def restore(self) -> None:
        """Restore random states, and attributes of types that can be copied."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        for home, _, name, _ in list(self._places()):
            if (id(home), name) not in self._before:
                home.pop(name)
        for (_, name), (home, _, value, mark, copy) in self._before.items():
            if name not in home or _mark(home[name]) != mark:
                home[name] = _put_back(value, copy)

    def _places(self) -> Iterator[tuple[dict[str, Any], str, str, Any]]:
        """Yield the mapping that holds an attribute, whose it is, its name, and what it is now."""
        for part in self.module.modules():
            for home in (vars(part), part._buffers):
                for name, value in list(home.items()):
                    if home is part._buffers or name not in _PRIVATE:
                        yield home, type(part).__name__, name, value


class InsideTorch:
    """Context that raises where a traced program takes a value out of torch, or has a tensor's size depend on one.

    Raises
    ------
    SideEffectError
        At the operation, so that the traceback names the program's line.
    """

    def __enter__(self) -> InsideTorch:
        """Intercept every call from here on."""
        self._modes = (_Calls(), _Operations())
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop intercepting."""
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Calls(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one call of torch's, unless it passes the values of a traced tensor out of torch."""
        name = getattr(func, "__name__", "")
        if name in _WAYS_OUT and args and isinstance(args[0], Tensor) and _is_traced(args[0]):
            raise SideEffectError(f"it takes values out of torch by .{name}()")
        return func(*args, **(kwargs or {}))


class _Operations(DispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one tensor operation, unless its result has another size for other values, or a generator draws it."""
        kwargs = kwargs or {}
        if torch.Tag.dynamic_output_shape in func.tags and _depends_on_values(func, args):
            raise SideEffectError("the size of a tensor depends on values")
        if kwargs.get("generator") is not None:
            raise SideEffectError("it draws from a random generator of its own")
        return func(*args, **kwargs)


def _depends_on_values(func: Any, args: Any) -> bool:
    """Return whether an operation's size does: of an indexing, if an index is a mask."""
    if func is not torch.ops.aten.index.Tensor:
        return True
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _is_traced(tensor: Tensor) -> bool:
    mode = get_proxy_mode()
    return mode is not None and has_proxy_slot(tensor, mode.tracer)


def version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place."""
    return tensor._version


def _mark(value: Any, depth: int = _DEPTH) -> Any:
    """Return a fingerprint of a value, which differs for another value and after a change in place."""
    if isinstance(value, bool | int | float | complex | str | bytes | None):
        return type(value), repr(value)
    if isinstance(value, Tensor):
        return id(value), version(value)
    if isinstance(value, np.ndarray):
        return id(value), hash(value.tobytes()) if value.dtype != object and value.size <= _LENGTH else 0
    if depth and isinstance(value, dict) and len(value) <= _LENGTH:
        return tuple((_mark(key, 0), _mark(item, depth - 1)) for key, item in value.items())
    if depth and isinstance(value, list | tuple | set | frozenset) and len(value) <= _LENGTH:
        return type(value), tuple(_mark(item, depth - 1) for item in value)
    return id(value), len(value) if isinstance(value, list | dict | set) else 0


def _copy(value: Any) -> Any:
    """Return a copy from which a mutable value can be restored."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, list | dict | set | np.ndarray) else value


def _put_back(value: Any, copy: Any) -> Any:
    """Return `value`, the same object, restored."""
    if isinstance(value, Tensor):
        if not torch.equal(value.detach(), copy):
            value.detach().copy_(copy)
    elif isinstance(value, list | np.ndarray):
        value[:] = copy
    elif isinstance(value, dict | set):
        value.clear()
        value.update(copy)
    return value
