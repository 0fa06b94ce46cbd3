"""From the words of a command line to values."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Sequence
from typing import Any

from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import InputError, shown, unknown_name
from ppl_vae.core.lazy import homes


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
            name, expected="whole numbers with commas between", got=shown(text), hint=f"{name} 200,200"
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
            raise InputError(name, expected="KEY=VALUE", got=shown(item), hint=f"{name} KEY=VALUE")
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
    home = _named("objective", name, objectives())
    return _built("objective", name, pkgutil.resolve_name(home), options)


def kl_weight(text: str, options: dict[str, Any]) -> Any:
    """Return a number as it is, and the name of a rule of `ppl_vae.kl_weights` as that rule, built with `options`.

    Raises
    ------
    InputError
        For an unknown name or option, an option that is missing, and options beside a number.
    """
    value = _value(text)
    if not isinstance(value, str):
        if options:
            raise InputError(
                "--kl-weight-option", expected="none beside a number", got=", ".join(options), hint="--kl-weight RULE"
            )
        return value
    from ppl_vae.training import kl_weights

    rules = {name.lower(): rule for name, rule in vars(kl_weights).items() if _is_rule(rule, kl_weights.KLRule)}
    return _built("kl_weight", text, _named("kl_weight", text, rules), options)


def _is_rule(value: Any, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base) and value is not base


def _named(kind: str, name: str, table: dict[str, Any]) -> Any:
    """Return what is called `name` in `table`, in whatever case."""
    if name.lower() not in table:
        raise unknown_name(kind, name, table)
    return table[name.lower()]


def _built(kind: str, name: str, cls: type, options: dict[str, Any]) -> Any:
    """Return an object of the class that is called `name`, built with `options`."""
    known = inspect.signature(cls).parameters
    for option in options:
        one_of(f"option of {name}", option, known)
    for parameter in known.values():
        if parameter.default is parameter.empty and parameter.name not in options:
            raise InputError(f"{kind} {name}", expected=f"its option {parameter.name}", got="none")
    return cls(**options)


def objectives() -> dict[str, str]:
    """Return the objectives, ``"module:Class"`` by name."""
    from ppl_vae import objectives as family

    return {name.lower(): homes(family.__name__)[name] for name in family.__all__ if name[0].isupper()}


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
