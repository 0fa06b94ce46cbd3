"""What the source tree holds, read without importing it: the project's table, its modules, and what each imports."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE = "ppl_vae"


def modules() -> dict[str, Path]:
    """Return every module of the library by its full name, as pyproject's package-dir maps the folders."""
    found = {}
    for package, folder in PYPROJECT["tool"]["setuptools"]["package-dir"].items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder).with_suffix("")
            found[".".join([package, *inside.parts]).removesuffix(".__init__")] = path
    return found


def imports(source: str, functions: bool = True) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything that `source` imports when it runs, with `functions` in these too.

    ``from a.b import c`` is ``a.b.c``, a relative import keeps its dots, and what stands under ``if TYPE_CHECKING:`` is
    not imported.
    """
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (f"{node.module}." if node.module else "")
            yield from ((node.lineno, start + alias.name) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting.extend(node.orelse)
        elif functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting.extend(ast.iter_child_nodes(node))
