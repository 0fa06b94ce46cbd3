"""Imports point down only. The floors are those of CONTRIBUTING.md; a module imports what stands on lower lines.

(import-linter does not see `models/` and `guides/` in an editable install, where package-dir maps them.)
"""

import graphlib

import pytest
from source_tree import PACKAGE, ROOT, imports, modules

FACADE = "__init__"  # `import ppl_vae` itself, which gathers the public names

# Lowest first, a row per floor. A name is a room: a sub-package of ppl_vae, or a module at its top. Modules of one room
# may import each other, in no circle.
FLOORS = (
    {"core"},
    {"compile"},
    {"nn", "data", "exact"},
    {"models", "guides"},
    {"pairs"},
    {"objectives"},
    {"training", "evaluation"},
    {"plots", "zoo"},
    {"report"},
    {FACADE},
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, names in enumerate(FLOORS) for name in names}

# The engine takes any pair and knows no model.
ENGINE = {name for name, rank in RANK.items() if RANK["models"] < rank <= RANK["training"]}

ARVIZ = {"arviz", "arviz_base", "arviz_plots", "arviz_stats"}


MODULES = modules()


def barred(module):
    """Other people's packages that a module must do without; ArviZ is one module's alone."""
    if module == "ppl_vae.evaluation.arviz_adapter":
        return {"torch", "pyro"}
    return ARVIZ | ({"pyro"} if module.startswith("ppl_vae.exact") else set())


def part(name):
    """The part of the library that a full name belongs to, such as `data` for `ppl_vae.data.load`."""
    _, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    return first if first in RANK or f"{PACKAGE}.{first}" in MODULES else FACADE


def imported_modules(module):
    """Modules of the library that `module` imports when it is imported itself, the packages around them left out."""
    for _, name in imports(MODULES[module].read_text(encoding="utf-8"), functions=False):
        known = [name, name.rpartition(".")[0]]
        yield from (found for found in known[: 1 + (known[0] not in MODULES)] if found in MODULES and found != PACKAGE)


def violations(module, source):
    """One line for every import in `source`, the text of `module`, that does not point down."""
    own = module.split(".")[1] if "." in module else FACADE
    if own not in RANK:
        yield f"{module} stands on no floor: add {own!r} to FLOORS in tests/test_layers.py"
        return
    for line, name in imports(source):
        top = name.partition(".")[0]
        where = f"{module}:{line} imports {name}"
        if not top:
            yield f"{where}: write it in full, from {PACKAGE}.…"
        elif top in ("models", "guides"):
            yield f"{where}: write {PACKAGE}.{top}"
        elif top in barred(module):
            yield f"{where}: {module} does without {top}"
        elif top == PACKAGE:
            other = part(name)
            if other in ("models", "guides") and own in ENGINE:
                yield f"{where}: the engine takes any pair and knows no model"
            elif other != own and RANK.get(other, -1) >= RANK[own]:  # one on no floor is reported once, by itself
                yield f"{where}: {other} does not stand below {own}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    found = list(violations(module, MODULES[module].read_text(encoding="utf-8")))
    assert not found, "\n".join(found)


def test_the_library_has_a_room_for_everything():
    package = ROOT / PACKAGE
    rooms = {path.name for path in package.iterdir()} - {"__init__.py", "__main__.py", "py.typed", "__pycache__"}
    assert {name.removesuffix(".py") for name in rooms} | {"models", "guides", "__main__", FACADE} == RANK.keys()
    assert len(rooms) <= 14


def test_no_module_is_imported_in_a_circle():
    below = {module: set(imported_modules(module)) for module in MODULES}
    graphlib.TopologicalSorter(below).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("ppl_vae.core.errors", "from ppl_vae.compile.graph import record", "compile does not stand below core"),
        ("ppl_vae.exact.ppca", "import torch\nimport pyro.distributions as dist", "does without pyro"),
        ("ppl_vae.exact", "def f():\n    from pyro import sample", "does without pyro"),
        ("ppl_vae.nn.mlp", "import ppl_vae.models", "models does not stand below nn"),
        (
            "ppl_vae.models.ppca",
            "from ppl_vae.guides.normal import AmortizedNormal",
            "guides does not stand below models",
        ),
        ("ppl_vae.guides.normal", "from ppl_vae import models", "models does not stand below guides"),
        ("ppl_vae.models.vae", "from ppl_vae import training", "training does not stand below models"),
        ("ppl_vae.training.fit", "from ppl_vae.models import VAE", "the engine takes any pair and knows no model"),
        ("ppl_vae.evaluation.marginal_likelihood", "import arviz", "evaluation.marginal_likelihood does without arviz"),
        ("ppl_vae.evaluation.arviz_adapter", "import torch", "arviz_adapter does without torch"),
        ("ppl_vae.training.fit", "import ppl_vae", "__init__ does not stand below training"),
        ("ppl_vae.training.fit", "from ppl_vae import Pair", "__init__ does not stand below training"),
        ("ppl_vae.report", "from ppl_vae.cli import main", "cli does not stand below report"),
        ("ppl_vae.zoo", "from models import VAE", "write ppl_vae.models"),
        ("ppl_vae.zoo", "import guides.normal", "write ppl_vae.guides"),
        ("ppl_vae.data.digits", "from .spec import Spec", "write it in full"),
        ("ppl_vae.gadgets", "import torch", "add 'gadgets' to FLOORS"),
    ],
)
def test_the_check_finds_a_violation(module, source, message):
    (line,) = violations(module, source)
    assert message in line
    assert line.startswith(module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ppl_vae.data.digits", "from ppl_vae.data.spec import Spec\nfrom ppl_vae.core.errors import InputError"),
        ("ppl_vae.pairs.contract", "if TYPE_CHECKING:\n    from ppl_vae.pairs.pair import Pair"),
        ("ppl_vae", "from ppl_vae import data, zoo\nfrom ppl_vae.training.fit import fit"),
        ("ppl_vae.cli", "import ppl_vae\nfrom ppl_vae.report import write"),
        ("ppl_vae.zoo", "from ppl_vae.models import VAE\nimport modelsaurus"),
    ],
)
def test_the_check_lets_good_imports_pass(module, source):
    assert list(violations(module, source)) == []
