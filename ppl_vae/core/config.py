"""Plain descriptions of modules: the arguments one was built with, as JSON, and back again.

A run folder must rebuild its pair without executing anything that it loads. So a class opts in with
`@configurable`, which remembers constructor arguments and enters the class in a table; rebuilding only ever
calls classes that are in the table, that is, classes whose code the user has already imported.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import math
from typing import Any, TypeVar

from ppl_vae.core.checks import plain, raise_memory
from ppl_vae.core.errors import InputError, one_line, unknown_name
from ppl_vae.core.moved import home

_CLASSES: dict[str, type] = {}
_T = TypeVar("_T")
_NAMELESS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)


def configurable(cls: type[_T]) -> type[_T]:
    """Class decorator: remember the constructor's arguments so that `describe` and `rebuild` work.

    Arguments may be numbers, strings, booleans, None, lists, tuples, string-keyed mappings of these, and other
    configurable objects. An object built with anything else, or with arguments that have no name (``*args``), works but
    cannot be described.
    """
    original = cls.__init__
    signature = inspect.signature(original)
    # Defaults are included: a later change of one must not change what was described.
    defaults = {
        p.name: p.default for p in signature.parameters.values() if p.default is not p.empty and _has_plain(p.default)
    }

    @functools.wraps(original)
    def remember(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_arguments" not in self.__dict__:  # the outermost constructor; a parent's comes later
            bound = signature.bind(self, *args, **kwargs).arguments
            own, *_ = bound
            given = dict(defaults)
            for name, value in bound.items():
                kind = signature.parameters[name].kind
                if name == own:
                    continue
                if kind is inspect.Parameter.VAR_KEYWORD:
                    given.update(value)
                else:
                    given[name] = object() if kind in _NAMELESS else value  # rebuilding passes arguments by name
            object.__setattr__(self, "_arguments", _plain(given))
        try:
            original(self, *args, **kwargs)
        except (MemoryError, RuntimeError) as error:
            raise_memory(cls.__name__, error)
            raise

    cls.__init__ = remember  # type: ignore[assignment]
    _CLASSES[_key(cls)] = cls
    return cls


def describe(obj: Any) -> dict[str, Any] | None:
    """Return ``{"class": …, "arguments": …}`` for a configurable object, or None where they are not known."""
    arguments = getattr(obj, "__dict__", {}).get("_arguments")
    if arguments is None or _key(type(obj)) not in _CLASSES:
        return None
    return {"class": _key(type(obj)), "arguments": arguments}


def is_known(description: Any) -> bool:
    """Return whether `rebuild` knows every class that a description names, the ones in its arguments too."""
    if isinstance(description, dict):
        named = description.get("class") if description.keys() == {"class", "arguments"} else None
        return (named is None or _find(named) is not None) and all(map(is_known, description.values()))
    return not isinstance(description, list) or all(map(is_known, description))


def current(value: Any) -> Any:
    """Return what `describe` wrote, with the names that its classes have now."""
    if isinstance(value, list):
        return [current(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {name: current(item) for name, item in value.items()}
    if value.keys() == {"class", "arguments"} and (cls := _find(value["class"])) is not None:
        found["class"] = _key(cls)
    return found


def rebuild(description: dict[str, Any], built: tuple[dict[str, Any], Any] | None = None) -> Any:
    """Build the object that `describe` described.

    With `built`, a description and the object made from it, that object itself stands wherever the arguments hold that
    description: a guide that was given the model of its pair is given it again, and not a second one.

    Raises
    ------
    InputError
        If the class is not in the table: the module that defines it has not been imported.
    """
    name = description.get("class")
    cls = _find(name)
    if cls is None:
        raise unknown_name("configurable class", name, _CLASSES)
    try:
        return cls(**{key: _revive(value, built) for key, value in description["arguments"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"description of {name}", got=one_line(error, 120), hint="the version that wrote it"
        ) from error


def _find(name: Any) -> type | None:
    """Return the class of that name in the table. A module of our own is imported for it; anybody else's never is."""
    if name not in _CLASSES and isinstance(name, str) and name.startswith("ppl_vae."):
        module, _, qualname = name.rpartition(".")
        with contextlib.suppress(ImportError):
            cls = getattr(importlib.import_module(home(module)), qualname, None)  # a class may have moved
            name = _key(cls) if isinstance(cls, type) else name
    return _CLASSES.get(name)


def _key(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _plain(value: Any) -> Any:
    """Return `value` as JSON would hold it, or None at the top where some part of it has no such form."""
    try:
        return _encode(value)
    except TypeError:
        return None


def _has_plain(value: Any) -> bool:
    return value is None or _plain(value) is not None


def _encode(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError("JSON has no infinity")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _encode(item) for key, item in value.items()}
    described = describe(value)
    if described is None:
        raise TypeError(f"no plain form for {type(value).__name__}")
    return described


def _revive(value: Any, built: tuple[dict[str, Any], Any] | None) -> Any:
    if isinstance(value, dict):
        if built is not None and value == built[0]:
            return built[1]
        if value.keys() == {"class", "arguments"}:
            return rebuild(value, built)
        return {key: _revive(item, built) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_revive(item, built) for item in value)
    return value
