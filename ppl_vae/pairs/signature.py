"""Which arguments a program takes: what it may get from a batch."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Signature:
    """Names of the arguments of a program: all, those without a default, and whether it takes any other."""

    names: frozenset[str]
    required: frozenset[str]
    open: bool

    @classmethod
    def of(cls, program: nn.Module) -> Signature:
        """Return the signature of a program's forward.

        What a ``**`` of it stands for may be declared, as `argument_names` of the program or of a module in it.
        """
        parameters = inspect.signature(program.forward).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        names, required = {p.name for p in named}, {p.name for p in named if p.default is p.empty}
        more = any(p.kind is p.VAR_KEYWORD for p in parameters)
        declared: list[Any] = [m.argument_names for m in program.modules() if hasattr(m, "argument_names")]
        if hasattr(program, "argument_names"):  # it stands first
            names, required, more = {"size", *declared[0]}, set(), False
        elif more and declared:
            names, more = names.union(*declared), False
        return cls(frozenset(names), frozenset(required), more)

    def takes(self, name: str) -> bool:
        """Tell whether the program takes an argument called `name`."""
        return self.open or name in self.names
