"""Checks of sizes and shapes shared by networks, likelihoods, models and guides; each failure is one clear line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ppl_vae.errors import InputError


def integer_at_least(what: str, value: Any, minimum: int, hint: str = "") -> int:
    """Return `value` as an int, or raise `InputError` if it is not an integer of at least `minimum`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < minimum:
        raise InputError(what, expected=f"an integer >= {minimum}", got=repr(value), hint=hint)
    return int(value)


def positive(what: str, value: Any) -> float:
    """Return `value` as a float, or raise `InputError` if it is not a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(what, expected="a finite number > 0", got=repr(value))
    return float(value)


def not_negative(what: str, value: Any, expected: str = "a number, 0 or more") -> float:
    """Return `value` as a float, or raise `InputError` if it is not a finite number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InputError(what, expected=expected, got=repr(value))
    return float(value)


def share(what: str, value: Any) -> float:
    """Return `value` as a float, or raise `InputError` if it is not a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(what, expected="a number from 0 to 1", got=repr(value), hint=f"{what}=0.5")
    return float(value)


def as_shape(what: str, shape: int | Sequence[int]) -> tuple[int, ...]:
    """Return a shape as a tuple of integers >= 1; one integer D means ``(D,)``."""
    sizes = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else (shape,)
    if not sizes:
        raise InputError(what, expected="at least one dimension", got="()")
    return tuple(integer_at_least(what, size, 1) for size in sizes)


def check_last_dimension(what: str, x: Tensor, size: int) -> None:
    """Raise `InputError` unless `x` is (..., `size`)."""
    if x.ndim == 0 or x.shape[-1] != size:
        raise InputError(what, expected=f"last dimension {size}", got=str(tuple(x.shape)))


def check_event(what: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless `x` is (..., *shape)."""
    if len(shape) == 1:
        check_last_dimension(what, x, shape[0])
    elif tuple(x.shape[-len(shape) :]) != shape:
        raise InputError(what, expected=f"last dimensions {shape}", got=str(tuple(x.shape)))


def batch_size(x: Tensor | None, x_shape: tuple[int, ...], size: int | None = None, what: str = "x") -> int:
    """Return B: that of the observation `x` (..., B, *x_shape), or the `size` asked for where there is none.

    Errors call the observation `what`.

    Raises
    ------
    InputError
        If neither is given, if `x` has another shape or no batch dimension, or if the two disagree.
    """
    if x is None:
        if size is None:
            raise InputError("model", expected="x to score, or size to generate", got="neither", hint="model(size=64)")
        return integer_at_least("size", size, 1)
    check_event(what, x, x_shape)
    if x.ndim == len(x_shape):
        raise InputError(what, expected=f"a batch (B, {', '.join(map(str, x_shape))})", got=str(tuple(x.shape)))
    rows = x.shape[-len(x_shape) - 1]
    if size is not None and size != rows:
        raise InputError("size", expected=f"{rows}, the batch size of {what}", got=repr(size))
    return rows
