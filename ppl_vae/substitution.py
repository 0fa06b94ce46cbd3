"""Other tensors in the place of a module's parameters and buffers, for the length of a context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def substituted(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Run with `tensors`, by name, in the place of parameters and buffers; put these back after.

    A parameter that several names share is replaced under all of them. A recurrent network holds its weights in a list
    of its own as well, which is replaced too.
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
    recurrent = [(part, part._flat_weights) for part in module.modules() if isinstance(part, nn.RNNBase)]
    try:
        for home, name, value in homes:
            home[name] = new[id(value)]  # type: ignore[assignment]
        for part, weights in recurrent:
            part._flat_weights = [weight if weight is None else new.get(id(weight), weight) for weight in weights]
        yield
    finally:
        for home, name, value in homes:
            home[name] = value  # type: ignore[assignment]
        for part, weights in recurrent:
            part._flat_weights = weights
