"""Imports point down only. The floors are those of CONTRIBUTING.md; a module imports what stands on lower lines.

(import-linter does not see `models/` and `guides/` in an editable install, where package-dir maps them.)
"""

import pytest
from source_tree import PACKAGE, imports, modules

FACADE = "__init__"  # `import ppl_vae` itself, which gathers the public names

# Lowest first. A name is a module or a sub-package of ppl_vae; the modules inside a sub-package may import each other.
FLOORS = (
    # 0: words
    {"errors"},
    {"checks"},
    {"config", "context", "files", "progress", "run_files", "shapes", "signature", "types"},
    {"checksums", "workers"},
    # 1: parts
    {"arviz_adapter", "counts", "distributions", "exact", "fixed_mixture", "gumbel_softmax", "layers", "likelihood"}
    | {"modalities", "networks"},
    {"conditions", "count_likelihoods", "exposure"},
    {"partial_labels"},
    {"data"},
    {"likelihoods"},
    # 2: the family
    {"models", "guides"},
    # 3: the engine
    {"plates", "products", "side_effects"},
    {"capture", "precision", "recording", "substitution", "traces"},
    {"dependence", "handlers", "kl_weights", "observations", "proof", "sharing"},
    {"site_checks"},
    {"contract"},
    {"pair"},
    {"objectives"},
    {"pair_description", "run_schema"},
    {"runs"},
    {"training", "evaluation"},
    # 4: what a user sees
    {"plots", "zoo"},
    {"report"},
    {FACADE},
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, names in enumerate(FLOORS) for name in names}

# The engine takes any pair and knows no model.
ENGINE = {name for name, rank in RANK.items() if RANK["models"] < rank <= RANK["training"]}

# Other people's packages that a part must do without; ArviZ is the adapter's alone.
BARRED = {name: {"arviz", "arviz_base", "arviz_plots", "arviz_stats"} for name in RANK}
BARRED["exact"] |= {"pyro"}
BARRED["arviz_adapter"] = {"torch", "pyro"}


MODULES = modules()


def part(name):
    """The part of the library that a full name belongs to, such as `data` for `ppl_vae.data.load`."""
    _, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    return first if first in RANK or f"{PACKAGE}.{first}" in MODULES else FACADE


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
        elif top in BARRED[own]:
            yield f"{where}: {own} does without {top}"
        elif top == PACKAGE:
            other = part(name)
            if other in ("models", "guides") and own in ENGINE:
                yield f"{where}: the engine takes any pair and knows no model"
            elif other != own and RANK.get(other, -1) >= RANK[own]:  # one on no floor is told of once, by itself
                yield f"{where}: {other} does not stand below {own}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    found = list(violations(module, MODULES[module].read_text(encoding="utf-8")))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("ppl_vae.errors", "from ppl_vae.config import describe", "config does not stand below errors"),
        ("ppl_vae.exact.ppca", "import torch\nimport pyro.distributions as dist", "exact does without pyro"),
        ("ppl_vae.exact", "def f():\n    from pyro import sample", "exact does without pyro"),
        ("ppl_vae.networks", "import ppl_vae.models", "models does not stand below networks"),
        (
            "ppl_vae.models.ppca",
            "from ppl_vae.guides.normal import AmortizedNormal",
            "guides does not stand below models",
        ),
        ("ppl_vae.guides.normal", "from ppl_vae import models", "models does not stand below guides"),
        ("ppl_vae.models.vae", "from ppl_vae import training", "training does not stand below models"),
        ("ppl_vae.training.fit", "from ppl_vae.models import VAE", "the engine takes any pair and knows no model"),
        ("ppl_vae.evaluation.log_likelihood", "import arviz", "evaluation does without arviz"),
        ("ppl_vae.arviz_adapter", "import torch", "arviz_adapter does without torch"),
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
        ("ppl_vae.data.digits", "from ppl_vae.data.spec import Spec\nfrom ppl_vae.errors import InputError"),
        ("ppl_vae.contract", "if TYPE_CHECKING:\n    from ppl_vae.pair import Pair"),
        ("ppl_vae", "from ppl_vae import data, zoo\nfrom ppl_vae.training.fit import fit"),
        ("ppl_vae.cli", "import ppl_vae\nfrom ppl_vae.report import write"),
        ("ppl_vae.zoo", "from ppl_vae.models import VAE\nimport modelsaurus"),
    ],
)
def test_the_check_lets_good_imports_pass(module, source):
    assert list(violations(module, source)) == []
