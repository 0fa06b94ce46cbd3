"""What CONTRIBUTING.md and docs/write-a-pair.md show of writing a pair, and of adding a family, runs as it stands."""

import os
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from source_tree import ROOT


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
    """In a copy of the library, by nothing but what the page shows."""
    model, guide, line = blocks("CONTRIBUTING.md")
    for folder in ("ppl_vae", "models", "guides"):
        target = tmp_path / "ppl_vae" / (folder if folder != "ppl_vae" else "")
        shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    (tmp_path / "ppl_vae" / "models" / "laplace.py").write_text(model, encoding="utf-8")
    (tmp_path / "ppl_vae" / "guides" / "affine.py").write_text(guide, encoding="utf-8")
    zoo = tmp_path / "ppl_vae" / "zoo.py"
    table = "_BUILDERS: dict[str, Builder] = {\n"
    text = zoo.read_text(encoding="utf-8")
    assert table in text
    zoo.write_text(text.replace(table, f"{table}    {line}"), encoding="utf-8")
    fit = ["fit", "laplace", "--data", "linear-gaussian", "--epochs", "5", "--latent-dim", "2", "--run-dir", "run"]
    script = f"""
        import numpy as np
        import ppl_vae
        from ppl_vae import cli, zoo
        assert ppl_vae.__file__.startswith({str(tmp_path)!r}), ppl_vae.__file__
        assert zoo.names()["laplace"] == "Factor analysis with Laplace noise, robust against outliers."
        assert zoo.options("laplace") == {{"latent_dim": 8}}
        assert cli.run({fit}) == 0
        bounds = ppl_vae.load("run").history["train_bound"]  # rebuilt from its folder, without the pair at hand
        assert np.isfinite(bounds).all()
        assert bounds[-1] > bounds[0]
        assert cli.run(["evaluate", "run", "--num-particles", "20"]) == 0
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nats per datum (importance, K = 20)" in done.stdout
