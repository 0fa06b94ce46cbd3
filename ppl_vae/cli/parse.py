"""From the words of a command line to values."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from ppl_vae.errors import InputError, unknown_name


def numbers(name: str, text: str | None) -> tuple[int, ...] | None:
    """Return ``"200,200"`` as (200, 200), and None as it is.

    Raises
    ------
    InputError
        If there is anything but whole numbers and commas.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            name, expected="whole numbers with commas between", got=repr(text), hint=f"{name} 200,200"
        ) from error


def settings(name: str, items: Sequence[str]) -> dict[str, Any]:
    """Return ``["a=1", "b=x"]`` as {"a": 1, "b": "x"}: numbers, true, false, none, words, and commas between several.

    Raises
    ------
    InputError
        If one has no ``=``.
    """
    found = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not (key and equals):
            raise InputError(name, expected="KEY=VALUE", got=repr(item), hint=f"{name} KEY=VALUE")
        parts = [_value(part) for part in text.split(",")]
        found[key.replace("-", "_")] = tuple(parts) if len(parts) > 1 else parts[0]
    return found


def objective(name: str, options: dict[str, Any]) -> Any:
    """Return the objective called `name`, in whatever case, built with `options`.

    Raises
    ------
    InputError
        For an unknown name or option.
    """
    table = objectives()
    if name.lower() not in table:
        raise unknown_name("objective", name, table)
    known = inspect.signature(table[name.lower()]).parameters
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    return table[name.lower()](**options)


def objectives() -> dict[str, Any]:
    """Return the objectives by name."""
    from ppl_vae import objectives as family

    return {name.lower(): getattr(family, name) for name in family.__all__ if isinstance(getattr(family, name), type)}


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
