"""The plate of the data, made once the arguments of a program have been checked."""

from __future__ import annotations

from typing import Any

import pyro
from torch import Tensor

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.errors import InputError, shown
from ppl_vae.core.shapes import check_event


def data_plate(size: int | None = None, **arguments: tuple[Tensor | None, tuple[int, ...]]) -> Any:
    """Return ``pyro.plate("data", B, dim=-1)`` for arguments (..., B, *event_shape), or for `size` = B without any.

    Parameters
    ----------
    size : int, optional
        B; must be that of the arguments where both are given.
    **arguments : tuple of Tensor or None, and tuple of int
        By name: the tensor, if there is one, and the shape of one datum of it, ``()`` for a label.

    Returns
    -------
    pyro.plate
        To be entered by ``with``.

    Raises
    ------
    InputError
        If an argument has another shape or no batch dimension, two have unequal rows, `size` is another number, or
        there is neither an argument nor `size`.
    """
    rows: dict[str, int] = {}
    for name, (value, event_shape) in arguments.items():
        if value is None:
            continue
        rows[name] = batch_size(name, value, event_shape)
        if rows[name] != (first := next(iter(rows.values()))):
            raise InputError(name, expected=f"{first} rows, as {next(iter(rows))} has", got=str(rows[name]))
    if rows:
        name, count = next(iter(rows.items()))
        if size is not None and size != count:
            what = f"the {'batch size' if name == next(iter(arguments)) else 'rows'} of {name}"
            raise InputError("size", expected=f"{count}, {what}", got=shown(size))
    elif size is None:
        expected = f"{next(iter(arguments))} to score, or size to generate"
        raise InputError("model", expected=expected, got="neither", hint="model(size=64)")
    else:
        count = integer_at_least("size", size, 1)
    return pyro.plate("data", count, dim=-1)


def batch_size(name: str, value: Tensor, event_shape: tuple[int, ...]) -> int:
    """Return B of `value` (..., B, *event_shape), or raise `InputError`, with its `name`."""
    if tuple(value.shape[value.ndim - len(event_shape) :]) != event_shape:
        check_event(name, value, event_shape)  # which says what is wrong
    if value.ndim == len(event_shape):
        batch = ", ".join(map(str, ("B", *event_shape)))
        raise InputError(name, expected=f"a batch ({batch})", got=str(tuple(value.shape)), hint=f"{name}[None]")
    return value.shape[-len(event_shape) - 1]


def observed(x: Tensor | None, hint: str = "guide(x=x)") -> Tensor:
    """Return `x`, or raise `InputError` where a guide was given none."""
    if x is None:
        raise InputError("guide", expected="an observation x", got="None", hint=hint)
    return x
