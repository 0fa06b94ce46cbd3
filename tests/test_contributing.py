"""CONTRIBUTING.md shows how to write a pair; what it shows must run as it stands."""

import re

import numpy as np
import pytest
from source_tree import ROOT


@pytest.mark.slow
def test_the_pair_of_the_guide_runs_and_is_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    bounds = names["run"].history["train_bound"]
    assert np.isfinite(bounds).all()
    assert bounds[-1] > bounds[0]
    assert capsys.readouterr().out.strip()
