"""Which arguments a program takes: what it may get from a batch."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Signature:
    """Names of the arguments of a program: all, those without a default, and whether it takes any other."""

    names: frozenset[str]
    required: frozenset[str]
    open: bool

    @classmethod
    def of(cls, program: nn.Module) -> Signature:
        """Return the signature of a program's forward, or what its `argument_names` say, none of them required."""
        declared = getattr(program, "argument_names", None)
        if declared is not None:
            return cls(frozenset(declared) | {"size"}, frozenset(), False)
        parameters = inspect.signature(program.forward).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return cls(
            frozenset(p.name for p in named),
            frozenset(p.name for p in named if p.default is p.empty),
            any(p.kind is p.VAR_KEYWORD for p in parameters),
        )

    def takes(self, name: str) -> bool:
        """Tell whether the program takes an argument called `name`."""
        return self.open or name in self.names
