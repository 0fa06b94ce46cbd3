"""Checks of numbers, names and other plain values; each returns the plain value, and its failure is one clear line.

A scalar of NumPy, or a tensor without dimensions, is a number like any other; what is kept of it is a number of Python,
which can be written down and read back.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ppl_vae.core.errors import InputError, one_line, shown, unknown_name

#: The largest size or count: the product of two still fits into torch's integers.
LARGEST = 2**31 - 1

#: The largest of torch's integers.
LARGEST_INTEGER = 2**63 - 1

#: What torch says of sizes beyond the memory, or beyond its integers, on the CPU. (A GPU's error has a class.)
_NO_MEMORY = ("can't allocate memory", "Storage size calculation overflowed", "multiplication overflow")

_T = TypeVar("_T")


def plain(value: Any) -> Any:
    """Return a scalar of NumPy, or an array or tensor without dimensions, as Python's own; any other value as it is."""
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        with contextlib.suppress(RuntimeError):  # a tensor without a value, on torch's device "meta"
            return value.item()
    return value


def integer_at_least(
    what: str, value: Any, minimum: int, hint: str = "", *, expected: str = "", maximum: int = LARGEST
) -> int:
    """Return `value` as an int, or raise `InputError` if it is not an integer from `minimum` to `maximum`."""
    found = plain(value)
    whole = isinstance(found, numbers.Integral) and not isinstance(found, bool)
    if not whole or not minimum <= found <= maximum:
        wanted = expected or f"an integer >= {minimum}"
        if whole and found > maximum and str(maximum) not in wanted:
            wanted += f", at most {maximum}"
        raise InputError(what, expected=wanted, got=shown(value), hint=hint)
    return int(found)


def number(what: str, value: Any, expected: str = "a finite number", *, finite: bool = True, hint: str = "") -> float:
    """Return `value` as a float, or raise `InputError` if it is not a number, or not finite where it must be."""
    found = plain(value)
    if isinstance(found, numbers.Real) and not isinstance(found, bool):
        with contextlib.suppress(OverflowError):  # an integer beyond the largest float
            found = float(found)
            if math.isfinite(found) or not (finite or math.isnan(found)):
                return found
    raise InputError(what, expected=expected, got=shown(value), hint=hint)


def positive(what: str, value: Any, expected: str = "a finite number > 0", hint: str = "") -> float:
    """Return `value` as a float, or raise `InputError` if it is not a finite number above zero."""
    found = number(what, value, expected, hint=hint)
    if found <= 0:
        raise InputError(what, expected=expected, got=shown(value), hint=hint)
    return found


def not_negative(what: str, value: Any, expected: str = "a number, 0 or more", *, finite: bool = True) -> float:
    """Return `value` as a float, or raise `InputError` if it is not a number, 0 or more, finite if it must be."""
    found = number(what, value, expected, finite=finite)
    if found < 0:
        raise InputError(what, expected=expected, got=shown(value))
    return found


def share(what: str, value: Any) -> float:
    """Return `value` as a float, or raise `InputError` if it is not a number from 0 to 1."""
    expected, hint = "a number from 0 to 1", f"{what}=0.5"
    found = number(what, value, expected, hint=hint)
    if not 0 <= found <= 1:
        raise InputError(what, expected=expected, got=shown(value), hint=hint)
    return found


def check_bytes(what: str, value: Any) -> int:
    """Return `value` as an int, or raise `InputError` if it is not a number of bytes."""
    return integer_at_least(what, value, 1, expected="a number of bytes", maximum=LARGEST_INTEGER)


def check_seed(seed: Any, expected: str = "a whole number, 0 or more") -> int:
    """Return `seed` as an int, or raise `InputError` if torch takes no such seed."""
    return integer_at_least("seed", seed, 0, expected=expected, maximum=LARGEST_INTEGER)


def one_of(kind: str, name: Any, known: Collection[Any]) -> Any:
    """Return `name` if it is one of the names `known`; raise `InputError`, with the nearest suggested, if it is not."""
    if (name is not None and not isinstance(name, str)) or name not in known:
        raise unknown_name(kind, name, known)
    return name


def check_mapping(
    what: str, value: Any, expected: str = "a mapping of names to values", hint: str = ""
) -> Mapping[str, Any]:
    """Return `value`, or raise `InputError` if it is not a mapping whose keys are names."""
    if not isinstance(value, Mapping):
        raise InputError(what, expected=expected, got=type(value).__name__, hint=hint)
    for name in value:
        if not isinstance(name, str):
            raise InputError(what, expected=expected, got=f"the key {shown(name)}", hint=hint)
    return value


def check_kind(what: str, value: _T, kind: type | tuple[type, ...], expected: str, hint: str = "") -> _T:
    """Return `value`, or raise `InputError` if it is not of that class."""
    if not isinstance(value, kind):
        raise InputError(what, expected=expected, got=shown(value), hint=hint)
    return value


def check_like(what: str, value: _T, attributes: Sequence[str], expected: str, hint: str = "") -> _T:
    """Return `value`, or raise `InputError` if it lacks one of the `attributes` of what is expected."""
    if isinstance(value, type) or not all(hasattr(value, name) for name in attributes):
        raise InputError(what, expected=expected, got=shown(value), hint=hint)
    return value


def raise_memory(what: str, error: Exception) -> None:
    """Raise `InputError` if `error` says that the CPU has no memory for a size that was asked for."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        raise InputError(what, expected="sizes that fit into memory", got=one_line(error, 150)) from error


def as_path(what: str, value: Any) -> Path:
    """Return a path, or raise `InputError` if `value` is none, or empty."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in str(os.fspath(value)):
        raise InputError(what, expected="a path", got=shown(value), hint=f"{what}='runs/vae'")
    return Path(value)


def as_plain(what: str, value: Any) -> Any:
    """Return `value` as JSON holds it: numbers, text, None, and lists and mappings of these.

    Raises
    ------
    InputError
        For anything else; the text names the key at which it stands.
    """
    found = plain(value)
    if isinstance(found, Mapping):
        return {name: as_plain(f"{what} {name}", item) for name, item in check_mapping(what, found).items()}
    if isinstance(found, Sequence) and not isinstance(found, str | bytes):
        return [as_plain(f"{what} [{i}]", item) for i, item in enumerate(found)]
    if found is None or isinstance(found, str | bool | int) or (isinstance(found, float) and math.isfinite(found)):
        return found
    raise InputError(what, expected="plain values: finite numbers, text, lists, mappings", got=shown(value))
