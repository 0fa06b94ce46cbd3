"""What README.md shows, runs as it stands."""

import re
from pathlib import Path

import pytest
import synthetic_hands
import torch

import ppl_vae

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.slow
def test_the_twenty_lines_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(BLOCKS[0], names)
    assert "nats per datum (importance, K = 1,000)" in capsys.readouterr().out
    assert (tmp_path / "runs/vae/model.safetensors").exists()
    assert names["x"].shape == (64, 64)
    assert names["z"].shape == (10, names["data"].test.size, 8)
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 24


def test_the_pair_runs():
    imports = """
import pyro, torch
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import nn
"""
    names = {}
    exec(imports + BLOCKS[1], names)
    pair = ppl_vae.Pair(names["PPCA"](5, 2), ppl_vae.guides.LinearGaussian(5, 2))
    assert pair.log_weights({"x": torch.randn(4, 5)}, 3).shape == (3, 4)


def test_own_data_run(capsys):
    (block,) = (block for block in BLOCKS if "from_tensors(np" in block)
    names = {"ppl_vae": ppl_vae}
    exec(block, names)
    assert names["data"].spec.log_scale > 10
    assert "log p = log p(x) - " in capsys.readouterr().out
    assert names["pair"].check(names["counts"].test).observed == ("x",)


@pytest.mark.slow
def test_several_modalities_run(tmp_path, monkeypatch, capsys):
    synthetic_hands.write(tmp_path, "nyu")
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    (block,) = (block for block in BLOCKS if "CrossModalELBO" in block)
    short = block.replace("epochs=20", "epochs=1").replace('given="joints2d")', 'given="joints2d", num_particles=3)')
    names = {"ppl_vae": ppl_vae}
    exec(short, names)
    assert "log p(joints3d | joints2d) = " in capsys.readouterr().out
    assert names["z"].shape == (10, names["hands"].test.size, 16)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
