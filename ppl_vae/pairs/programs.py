"""The two programs of a pair, each in a parameter store of its own, and the arguments that both take from a batch.

Parameters live in the two modules, and in the pair's own store where programs make them as they run
(`ppl_vae.pairs.store`). Each program runs inside a scope of Pyro's store, so the process-wide store stays empty, names
in the two modules cannot clash, and `state_dict` is all there is to save.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.core.checks import check_mapping, raise_memory
from ppl_vae.core.errors import InputError, PairError, shown
from ppl_vae.core.process import alone, isolated
from ppl_vae.core.shapes import check_tensor
from ppl_vae.core.types import Batch, Program
from ppl_vae.pairs.folding import Folding
from ppl_vae.pairs.handlers import Frozen
from ppl_vae.pairs.plates import DataPlate, DataPlates, ParticlePlate
from ppl_vae.pairs.signature import Signature, both_take, innermost
from ppl_vae.pairs.store import ParameterStore
from ppl_vae.pairs.whole import Whole


class Programs(nn.Module):
    """A model and a guide, run without touching the process-wide parameter store."""

    def __init__(self, model: Program, guide: Program) -> None:
        super().__init__()
        self.model = _as_module(model, "model", beside=guide)
        self.guide = _as_module(guide, "guide", beside=self.model)
        self.store = ParameterStore()
        self._empty = torch.empty(0, device="cpu")  # the device and floating type of a pair without parameters
        self._signatures = Signature.of(self.model), Signature.of(self.guide)
        # Set by the check: the number of dimensions of each argument, the plate of the data, whether the programs fit
        # all rows only, and how they run for several particles where they take no leading dimensions.
        self._dims: dict[str, int] | None = None
        self._plates = DataPlates()
        self.whole: Whole | None = None
        self.folding: Folding | None = None
        self._one_by_one = False  # whether several draws of the guide are several runs

    def programs(self) -> tuple[Program, Program]:
        """Return the model and the guide as callables that do not touch the process-wide parameter store.

        Once the pair has been checked, their plate of the data is called ``data`` in a trace, whatever its own name.
        """
        programs = self.scoped()
        if self._plates == DataPlates():
            return programs
        named = DataPlate(self._plates)
        return named(programs[0]), named(programs[1])

    def scoped(self) -> tuple[Program, Program]:
        """Return the model and the guide as callables that do not touch the process-wide parameter store."""
        return _scoped(self.model, self), _scoped(self.guide, self)

    def arguments(self, batch: Batch) -> dict[str, Tensor]:
        """Return the entries of `batch` that both programs take, by name; others (labels for a VAE) are left out.

        Raises
        ------
        InputError
            If no entry fits, an argument without a default is missing, or one left out was probably meant to be used.
        """
        if not isinstance(batch, Mapping) or not all(isinstance(value, Tensor) for value in batch.values()):
            got = type(batch).__name__ if not isinstance(batch, Mapping) else "values that are no tensors"
            raise InputError("batch", expected="a mapping of argument names to tensors", got=got, hint='{"x": x}')
        check_mapping("batch", batch, "names of arguments as keys")
        for name, value in batch.items():
            check_tensor(name, value)
        return {name: batch[name] for name in both_take(*self._signatures, tuple(batch))}

    def _prepared(self, batch: Batch) -> dict[str, Tensor]:
        """Return the arguments in `batch` on the pair's device; raise where their number of dimensions has changed."""
        arguments = self._moved(self.arguments(batch))
        for name, dims in (self._dims or {}).items():
            if name in arguments and arguments[name].dim() != dims:
                raise InputError(
                    name,
                    expected=f"{dims} dimensions, the first one data",
                    got=f"shape {tuple(arguments[name].shape)}",
                    hint=f"{name}[None] for a single datum",
                )
        return arguments

    def _moved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `tensors` on the pair's device and in its floating type."""
        for name, value in tensors.items():
            check_tensor(name, value)
        device, dtype = self.device, self.dtype
        return {name: x.to(device, dtype if x.is_floating_point() else None) for name, x in tensors.items()}

    def takes(self, name: str) -> bool:
        """Return whether the model takes an argument called `name`."""
        return self._signatures[0].takes(name)

    @property
    def device(self) -> torch.device:
        """The device the parameters are on."""
        return next((tensor.device for tensor in [*self.parameters(), *self.buffers()]), self._empty.device)

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the parameters."""
        floating = (t.dtype for t in [*self.parameters(), *self.buffers()] if t.is_floating_point())
        return next(floating, self._empty.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Programs:
        self._empty = fn(self._empty)
        return super()._apply(fn, recurse)


class _Function(nn.Module):
    """A Pyro program that is a function, or a method, whose module is then part of it unless it is that of `beside`."""

    def __init__(self, function: Callable[..., Any], beside: Any) -> None:
        super().__init__()
        self.forward = function  # type: ignore[method-assign]
        others = set(beside.modules()) if isinstance(beside, nn.Module) else set()
        inner = innermost(function)
        owner = inner if isinstance(inner, nn.Module) else getattr(inner, "__self__", None)
        if isinstance(owner, nn.Module) and owner not in others:
            self.module = owner


def _as_module(program: Program, role: str, beside: Any) -> nn.Module:
    if isinstance(program, nn.Module):
        return program
    if callable(program) and not isinstance(program, type):
        return _Function(program, beside)
    raise PairError(
        role,
        expected="a PyroModule or a function",
        got=shown(program, 60),
        hint="an instance, as in Pair(Model(), Guide())",
    )


def _may_freeze(program: nn.Module) -> bool:
    """Tell whether a program has parameters that do not require a gradient, or none that are known."""
    known = [parameter.requires_grad for parameter in program.parameters()]
    return not known or not all(known)


def _scoped(program: nn.Module, pair: Programs) -> Program:
    store = pair.store

    def run(*args: Any, **kwargs: Any) -> Any:
        if store.pending:  # their constraints are those that the program gives
            with isolated(), torch.no_grad(), poutine.block(), store.scope() as made:
                program(*args, **kwargs)
            store.resolve(made)
        with alone(), store.scope(), Frozen() if _may_freeze(program) else nullcontext():
            try:
                if pair.folding is not None:
                    return pair.folding(program, ParticlePlate.open[-1] if ParticlePlate.open else None, args, kwargs)
                return program(*args, **kwargs)
            except (MemoryError, RuntimeError) as error:
                raise_memory(type(program).__name__, error)
                raise

    return run
