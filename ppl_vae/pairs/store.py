"""Parameters that programs make as they run, by `pyro.param` and `pyro.module`: taken into the pair by their names.

In Pyro they live in a store of the process, which both programs share. Here a pair has a store of its own, a module:
its parameters are trained, saved, moved and copied with the pair, and each run of a program finds them in the place of
the process's. A name stands for one parameter in both programs, as in Pyro; parameters of the programs' own modules
have no part in it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import transform_to

from ppl_vae.compile.substitution import substituted
from ppl_vae.core.errors import PairError

#: Unconstrained values and constraints by name, as Pyro's store gives them.
State = Any


class _Original:
    """A network that a function reaches by its own ways; the same object in every copy of the pair."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __deepcopy__(self, memo: Any) -> _Original:
        return self


class ParameterStore(nn.Module):
    """The parameters that a pair's programs make as they run, by the names that the programs give them.

    Attributes
    ----------
    constraints : dict of str to Constraint
        Of the values that `pyro.param` makes; their parameters are unconstrained.
    pending : set of str
        Parameters read from a run, whose constraints are known once the programs have run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.constraints: dict[str, Any] = {}
        self.pending: set[str] = set()
        self._originals: dict[str, _Original] = {}
        self._fixed = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> ParameterStore:
        """Return a copy, for a copy of the pair."""
        if self._fixed:
            name = self._fixed.partition("$$$")[0]
            raise PairError(
                f"network {name!r}",
                expected="a network that a function uses by its own variable, where a pair is copied",
                got="one in a collection, of which a copy of the function would use the original",
                hint="a variable for it, or a PyroModule with the network as its attribute",
            )
        memo[id(self)] = twin = ParameterStore()
        for name, value in vars(self).items():
            vars(twin)[name] = copy.deepcopy(value, memo)
        return twin

    def __getitem__(self, name: str) -> Tensor:
        """Return the value of a parameter, as `pyro.param` returns it."""
        return transform_to(self.constraints[name])(self._parameters[_key(name)])

    def __contains__(self, name: object) -> bool:
        return name in self.constraints

    def state(self) -> State:
        """Return unconstrained values and constraints by name, for a scope of Pyro's store."""
        return {
            "params": {name: self._parameters[_key(name)] for name in self.constraints},
            "constraints": dict(self.constraints),
        }

    @contextmanager
    def scope(self) -> Iterator[State]:
        """Run with these parameters in Pyro's store, and nothing else; what was in it comes back."""
        with ExitStack() as stack:
            for name, original in self._originals.items():
                if (own := self.get_submodule(name)) is not original.module:  # of a copy of the pair
                    tensors = dict(own.named_parameters()) | dict(own.named_buffers())
                    stack.enter_context(substituted(original.module, tensors))
            yield stack.enter_context(pyro.get_param_store().scope(self.state()))

    def take(self, made: State, device: torch.device, dtype: torch.dtype) -> None:
        """Take parameters that a run has made, on a device and in a floating type."""
        self.resolve(made)
        for name, value in made["params"].items():
            if name not in self.constraints:
                if isinstance(value, nn.Parameter):  # of a network that is used where it cannot be replaced
                    value.data = value.data.to(device, dtype)
                    self._fixed = self._fixed or name
                else:
                    value = nn.Parameter(value.detach().to(device, dtype).clone())
                self._put(_key(name), value)
                self.constraints[name] = made["constraints"][name]

    def _put(self, key: str, value: nn.Parameter) -> None:
        """Add a parameter; their order is that of their names, however they came here."""
        self._parameters[key] = value
        self._parameters = dict(sorted(self._parameters.items()))

    def resolve(self, made: State) -> None:
        """Give parameters that were read from a run the constraints that a run of the programs has shown."""
        for name in self.pending & made["params"].keys():
            self.constraints[name] = made["constraints"][name]
        self.pending -= made["params"].keys()

    def take_module(self, name: str, module: nn.Module) -> None:
        """Take a network that a function uses, under the name it has there."""
        name = _key(name)
        if name in dict(self.named_children()) or name in self._parameters:
            raise PairError(
                f"network {name!r}",
                expected="one network or parameter of a name in the two programs",
                got="two",
                hint="another name for one of them",
            )
        self.add_module(name, module)
        self._originals[name] = _Original(module)

    def expect(self, state: Mapping[str, Tensor]) -> None:
        """Make room for parameters of a saved state that no run has made yet; `state` has the names of this module."""
        for key, value in state.items():
            if "." not in key and key not in self._parameters and key not in dict(self.named_children()):
                self._put(key, nn.Parameter(torch.empty_like(value)))
                self.pending.add(_name(key))


def _key(name: str) -> str:
    """Return the name of a parameter in the store's module: torch allows no full stop in one."""
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
