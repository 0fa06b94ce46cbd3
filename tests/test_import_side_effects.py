"""Importing the library changes nothing for the rest of the process."""

import json
import os
import subprocess
import sys

import pytest
from source_tree import PACKAGE, ROOT, imports, modules


def changed_by_importing(names, **environment):
    """What importing `names` in a fresh process changes there, once all that they import of others' is imported."""
    others = {name for path in modules().values() for _, name in imports(path.read_text("utf-8"))}
    others = {name for name in others if not name.startswith((PACKAGE, "__future__"))}
    command = [sys.executable, str(ROOT / "tests" / "process_state.py"), ",".join(sorted(others)), ",".join(names)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_importing_the_library_changes_nothing():
    assert changed_by_importing([name for name in modules() if not name.endswith("__main__")]) == []


@pytest.mark.slow
def test_the_check_of_importing_finds_a_change(tmp_path):
    guilty = {
        "torch.default_dtype": "import torch; torch.set_default_dtype(torch.float64)",
        "torch.num_threads": "import torch; torch.set_num_threads(torch.get_num_threads() + 1)",
        "torch.grad_enabled": "import torch; torch.set_grad_enabled(False)",
        "torch.random": "import torch; torch.manual_seed(7)",
        "torch.validate_args": "import torch; torch.distributions.Distribution.set_default_validate_args(False)",
        "numpy.random": "import numpy; numpy.random.seed(7)",
        "random": "import random; random.seed(7)",
        "pyro.settings": "import pyro; pyro.enable_validation(False)",
        "pyro.parameters": "import pyro, torch; pyro.param('w', torch.zeros(()))",
        "matplotlib.settings": "import matplotlib; matplotlib.rcParams['backend'] = 'svg'",
        "warnings": "import warnings; warnings.simplefilter('ignore')",
    }
    (tmp_path / "culprit.py").write_text("\n".join(guilty.values()), encoding="utf-8")
    assert set(guilty) <= set(changed_by_importing(["culprit"], PYTHONPATH=str(tmp_path)))
