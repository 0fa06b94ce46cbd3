"""What CONTRIBUTING.md and docs/write-a-pair.md show of writing a pair, and of adding a family, runs as it stands."""

import re

import numpy as np
import pytest
from source_tree import ROOT

import ppl_vae
from ppl_vae import cli, zoo


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_pair_of_the_guide_runs_and_is_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, *_ = blocks("docs/write-a-pair.md")
    names = {}
    exec(compile(code, "docs/write-a-pair.md", "exec"), names)
    bounds = names["run"].history["train_bound"]
    assert np.isfinite(bounds).all()
    assert bounds[-1] > bounds[0]
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_a_family_takes_two_files_and_an_entry_in_the_registry(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, guide, builder = blocks("CONTRIBUTING.md")
    names = {"Pair": ppl_vae.Pair}
    for module, code in (("models.laplace", model), ("guides.affine", guide), ("zoo", builder)):
        names["__name__"] = f"ppl_vae.{module}"
        exec(compile(code, module, "exec"), names)
    monkeypatch.setitem(zoo._BUILDERS, "laplace", names["laplace"])
    assert zoo.names()["laplace"] == "Factor analysis with Laplace noise, and an affine Normal guide."
    fit = ["fit", "laplace", "--data", "linear-gaussian", "--epochs", "5", "--latent-dim", "2", "--run-dir", "run"]
    assert cli.run(fit) == 0, capsys.readouterr().err
    bounds = ppl_vae.load("run").history["train_bound"]  # rebuilt from its folder, without the pair at hand
    assert np.isfinite(bounds).all()
    assert bounds[-1] > bounds[0]
    assert cli.run(["evaluate", "run", "--num-particles", "20"]) == 0, capsys.readouterr().err
    assert "nats per datum (importance, K = 20)" in capsys.readouterr().out
