"""Substitution of a module's parameters and buffers by other tensors, within a context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def substituted(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Run with `tensors`, by name, instead of parameters and buffers; restore these afterwards.

    A parameter that several names share is replaced under all of them.
    """
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    new = {id(named[name]): value for name, value in tensors.items()}
    homes = [
        (home, name, value)
        for part in module.modules()
        for home in (part._parameters, part._buffers)
        for name, value in home.items()
        if value is not None and id(value) in new
    ]
    try:
        for home, name, value in homes:
            home[name] = new[id(value)]  # type: ignore[assignment]
        yield
    finally:
        for home, name, value in homes:
            home[name] = value  # type: ignore[assignment]


def home_of(buffer: str, root: nn.Module) -> tuple[dict[str, Any], str]:
    """Return the mapping that holds a buffer, and its name there."""
    module, _, name = buffer.rpartition(".")
    return root.get_submodule(module)._buffers, name
