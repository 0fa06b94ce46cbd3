"""Packages whose public names are imported when they are first used: what they offer, and what they import for it."""

import importlib
import inspect
import subprocess
import sys

import pytest
from source_tree import modules

from ppl_vae.core.lazy import docstring, homes

#: What takes a second to import, or the better part of one.
SLOW = {"arviz", "matplotlib", "pandas", "pyro", "scipy", "sklearn", "sympy", "torch"}

LAZY = sorted(name for name, path in modules().items() if "= exports(__name__)" in path.read_text("utf-8"))


def imported_by(code):
    """The packages of `SLOW` that a fresh process has imported when it has run `code`."""
    script = f"import sys\n{code}\nprint(*{SLOW} & sys.modules.keys(), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_rooms_that_users_import_from_are_lazy():
    assert {"ppl_vae", "ppl_vae.data", "ppl_vae.models", "ppl_vae.guides", "ppl_vae.objectives"} <= set(LAZY)
    assert not imported_by(f"import {', '.join(LAZY)}, ppl_vae.zoo, ppl_vae.data.catalogue, ppl_vae.cli")


@pytest.mark.parametrize("package", LAZY)
def test_a_lazy_package_offers_what_it_lists(package):
    room = importlib.import_module(package)
    assert set(room.__all__) == homes(package).keys() <= set(dir(room))
    for name, home in homes(package).items():
        module, _, original = home.partition(":")
        if module == package:
            assert getattr(room, name) is importlib.import_module(f"{package}.{original}")
        else:
            assert getattr(room, name) is getattr(importlib.import_module(module), original)
            assert f"{package}.{name}" not in modules() or inspect.ismodule(
                getattr(room, name)
            )  # else it hides the name


def test_what_is_not_there_is_said_in_python_s_words():
    import ppl_vae.data

    assert not hasattr(ppl_vae.data, "lode")
    with pytest.raises(AttributeError, match=r"^module 'ppl_vae\.data' has no attribute 'lode'$"):
        ppl_vae.data.lode  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'lode'"):
        from ppl_vae.data import lode  # noqa: F401


@pytest.mark.slow
def test_a_module_of_a_lazy_package_is_found_as_one_that_is_imported():
    code = "import ppl_vae\nprint(ppl_vae.evaluation.result.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ppl_vae.evaluation.result\n"


def test_an_import_that_fails_inside_a_module_says_so(tmp_path, monkeypatch):
    (tmp_path / "lazily").mkdir()
    (tmp_path / "lazily" / "__init__.py").write_text(
        "from typing import TYPE_CHECKING\nfrom ppl_vae.core.lazy import exports\n"
        "if TYPE_CHECKING:\n    from lazily.part import thing\n__getattr__, __dir__ = exports(__name__)\n"
    )
    (tmp_path / "lazily" / "part.py").write_text("import not_installed\nthing = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    lazily = importlib.import_module("lazily")
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        lazily.thing  # noqa: B018


@pytest.mark.parametrize(
    "home", ["ppl_vae.objectives.elbo:ELBO", "ppl_vae.models.vae:VAE", "ppl_vae.models.hierarchical:VAE", "enum:Enum"]
)
def test_a_docstring_is_that_of_the_class(home):
    module, _, name = home.partition(":")
    cls = getattr(importlib.import_module(module), name, None)
    if cls is None:
        with pytest.raises(AttributeError, match=name):
            docstring(home)
    else:
        assert docstring(home) == inspect.getdoc(cls)
