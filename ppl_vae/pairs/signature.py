"""The arguments of a program that a batch may supply."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pyro.poutine.messenger import unwrap
from torch import nn

from ppl_vae.core.errors import InputError, PairError, unknown_name
from ppl_vae.nn.modalities import mask_name


@dataclass(frozen=True)
class Signature:
    """Names of the arguments of a program: all, those without a default, and whether it takes any other."""

    names: frozenset[str]
    required: frozenset[str]
    open: bool

    @classmethod
    def of(cls, program: nn.Module) -> Signature:
        """Return the signature of a program's forward.

        The names that a ``**`` argument accepts may be declared: as `argument_names` of the program or a module in it.
        """
        inner = innermost(program.forward)
        inner = inner.forward if isinstance(inner, nn.Module) else inner
        parameters = inspect.signature(inner).parameters.values()
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
        """Return whether the program takes an argument called `name`."""
        return self.open or name in self.names


def innermost(program: Any) -> Any:
    """Return the function or module that handlers of Pyro's stand around, as `config_enumerate` does."""
    return unwrap(program) if isinstance(program, functools.partial) else program


@lru_cache  # every step has a batch of the same names
def both_take(model: Signature, guide: Signature, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the `names` of a batch that both programs take.

    Raises
    ------
    PairError
        For one that only one of them takes.
    InputError
        If no name fits, an argument without a default is missing, or one left out was probably meant to be taken.
    """
    for name in names:
        for one, other, role in ((model, guide, "guide"), (guide, model, "model")):
            if name in one.names and not other.takes(name):
                raise PairError(
                    f"argument {name!r}",
                    expected="both programs to take it, since both get the same batch",
                    got=f"a {role} that does not",
                    hint=f"`def forward(self, …, {name}=None)` in the {role}, or a batch without it",
                )
    chosen = tuple(name for name in names if model.takes(name) and guide.takes(name))
    taken = frozenset(chosen)
    _check_left_out(frozenset(names) - taken, taken, (model.names | guide.names) - taken - {"size"})
    missing = sorted((model.required | guide.required) - taken)
    if missing or not chosen:
        wanted = missing or sorted(model.names - {"size"})
        raise InputError(
            "batch",
            expected=f"tensors named {', '.join(wanted) or 'as the arguments of the model'}",
            got=f"{', '.join(names) or 'an empty mapping'}",
            hint="naming the tensors as the arguments of model and guide",
        )
    return chosen


def _check_left_out(left_out: frozenset[str], taken: frozenset[str], absent: frozenset[str]) -> None:
    """Raise for a tensor that no program takes but that was probably meant to be taken.

    It is the mask of one that is taken, whose hidden values would then count; or its name is close to that of a missing
    argument, unless the two differ in their digits, as joints2d and joints3d do.
    """

    def number(name: str) -> str:
        return re.sub(r"\D", "", name)

    for name in left_out:
        if name in map(mask_name, taken):
            got, hint = "programs without one", "leaving out the rows that it hides"
            raise InputError(name, expected="a mask that the programs take", got=got, hint=hint)
        if difflib.get_close_matches(name, [other for other in absent if number(other) == number(name)], 1, 0.8):
            raise unknown_name("argument", name, absent)
