"""Packages whose public names are imported when they are first used: a program waits only for what it uses.

Such a package has the imports of its public names under ``if TYPE_CHECKING:``, where a type checker finds them too.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any


def exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package whose public names are imported when they are first used.

    Its modules are found in the same way. No public name may be that of a module of the package, unless it is that
    module: importing a module sets the package's attribute.
    """

    def getattr_(name: str) -> Any:
        try:
            module, _, original = homes(package).get(name, f"{package}:{name}").partition(":")
            if module == package:
                value = importlib.import_module(f"{package}.{original}")
            else:
                value = getattr(__import__(module, fromlist=[original]), original)  # imported, where it is a module
        except ModuleNotFoundError as error:
            if error.name != f"{package}.{name}":
                raise
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        setattr(importlib.import_module(package), name, value)
        return value

    def dir_() -> list[str]:
        return sorted({*vars(importlib.import_module(package)), *homes(package)})

    return getattr_, dir_


@functools.cache
def homes(package: str) -> dict[str, str]:
    """Return where each public name of such a package stands: ``{"ELBO": "ppl_vae.objectives.elbo:ELBO"}``."""
    (block,) = (node.body for node in _source(package).body if isinstance(node, ast.If) and _is_for_types(node))
    return {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def docstring(home: str) -> str:
    """Return the docstring of a class by its ``"module:Class"``, read from its source where that is possible."""
    module, _, name = home.partition(":")
    for node in _source(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return ast.get_docstring(node) or ""
    return getattr(importlib.import_module(module), name).__doc__ or ""  # the module has it from another one


def _is_for_types(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _source(module: str) -> ast.Module:
    """Return what the source of a module says; the packages around it are imported, it is not."""
    spec = importlib.util.find_spec(module)
    source = spec.loader.get_source(module) if spec else None  # type: ignore[union-attr]
    if source is None:
        raise ModuleNotFoundError(f"no source of {module!r}", name=module)
    return ast.parse(source)
