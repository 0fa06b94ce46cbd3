"""Checks of tensors and shapes, shared by data, networks, models and guides; each failure is one clear line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae.core.checks import LARGEST, integer_at_least
from ppl_vae.core.errors import InputError, shown

#: What a program can compute with; the other types of torch store numbers without operations on them.
NUMBERS = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    | {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
)


def check_tensor(what: str, value: Any) -> Tensor:
    """Return `value`, or raise `InputError` unless it is a dense tensor of real numbers that are there to be read."""
    if not isinstance(value, Tensor):
        raise InputError(what, expected="a tensor", got=shown(value), hint=f"{what}=torch.tensor(…)")
    if value.is_meta:
        raise InputError(what, expected="a tensor with values", got="one on the device 'meta', which has none")
    if value.is_nested or value.layout is not torch.strided:
        got = "a nested one" if value.is_nested else f"one of layout {value.layout}"
        raise InputError(what, expected="a dense tensor", got=got, hint=f"{what}.to_dense()")
    if value.dtype not in NUMBERS:
        hint = "" if value.is_complex() else f"{what}.float()"
        raise InputError(what, expected="real numbers", got=f"values of type {value.dtype}", hint=hint)
    return value


def as_shape(what: str, shape: int | Sequence[int]) -> tuple[int, ...]:
    """Return a shape as a tuple of integers >= 1; one integer D means ``(D,)``."""
    sizes = as_widths(what, shape)
    if not sizes:
        raise InputError(what, expected="at least one dimension", got="()")
    if math.prod(sizes) > LARGEST:
        raise InputError(what, expected=f"at most {LARGEST} numbers in all", got=str(sizes))
    return sizes


def as_widths(what: str, widths: Any) -> tuple[int, ...]:
    """Return the widths of hidden layers as a tuple of integers >= 1, which may be empty; one integer is one layer."""
    given = tuple(widths) if isinstance(widths, Sequence) and not isinstance(widths, str | bytes) else (widths,)
    return tuple(integer_at_least(what, width, 1) for width in given)


def check_last_dimension(what: str, x: Tensor, size: int) -> Tensor:
    """Return `x`, or raise `InputError` unless it is (..., `size`)."""
    if x.ndim == 0 or x.shape[-1] != size:
        raise InputError(what, expected=f"last dimension {size}", got=str(tuple(x.shape)))
    return x


def check_shapes(**tensors: tuple[Tensor, Tensor]) -> None:
    """Raise `InputError` unless each tensor given by name has the shape of the one beside it."""
    for name, (value, wanted) in tensors.items():
        if value.shape != wanted.shape:
            raise InputError(name, expected=f"shape {tuple(wanted.shape)}", got=str(tuple(value.shape)))


def copy_into(**tensors: tuple[Tensor, Tensor]) -> None:
    """Copy each value given by name into the parameter beside it; raise `InputError` first if a shape differs."""
    check_shapes(**tensors)
    with torch.no_grad():
        for value, parameter in tensors.values():
            parameter.copy_(value)


def check_event(what: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless `x` is (..., *shape)."""
    if len(shape) == 1:
        check_last_dimension(what, x, shape[0])
    elif tuple(x.shape[-len(shape) :]) != shape:
        raise InputError(what, expected=f"last dimensions {shape}", got=str(tuple(x.shape)))
