"""What README.md and the pages of docs/ show, runs: README as it stands, the pages with few epochs and particles."""

import re
import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import synthetic_hands
import torch
from source_tree import imports
from tiers import fast_in

import ppl_vae
from ppl_vae import cli
from ppl_vae.core.moved import MOVED

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))}
#: What else is written in Markdown, of which links alone are looked at.
OTHERS = {
    str(path.relative_to(ROOT)): path
    for path in (ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "examples").rglob("*.md")))
}


def blocks(path, language):
    """Return the code blocks of a page that are in one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


TEXT = PAGES["README.md"].read_text(encoding="utf-8")
BLOCKS = blocks(PAGES["README.md"], "python")


def short(code):
    """Return a block of a page, or a word of a command, with few epochs, particles, distributions and data."""
    code = re.sub(r"\b(epochs|kl_warmup)=\d+", r"\1=1", code)
    code = re.sub(r'\b(num_distributions"?(?:=|: ))\d+', r"\g<1>6", code)
    return re.sub(r"\b(num_particles|num_data|draws)=\d+", r"\1=6", code)


def shell_words(line):
    """Return the words of a line of a shell block as `ppl-vae` gets them, made short; None where it is no such line."""
    words = shlex.split(line.partition(" #")[0])
    if words[:1] == ["torchrun"]:  # what every worker runs; tests/training/distributed has several of them
        words = ["ppl-vae", *words[words.index("ppl_vae") + 1 :]]
    if words[:1] != ["ppl-vae"]:
        return None
    few = {"fit": ["--epochs", "1"], "evaluate": ["--num-data", "6"], "report": ["--num-particles", "6"]}
    if "exact" not in words:
        few["evaluate"] += ["--num-particles", "6"]
    if "ais" in words:
        few["evaluate"] += ["--annealing", "rungs=6"]
    return [short(word) for word in words[1:]] + few.get(words[1], [])  # of an option given twice the last counts


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Run in a folder of its own, where the files lie that pages name, and hands to read."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    header = ",".join(f"a{n}" for n in range(5))
    np.savetxt("mine.csv", random.normal(size=(100, 5)), delimiter=",", header=header, comments="")
    np.savetxt("counts.csv", random.poisson(3.0, (100, 5)), "%d", delimiter=",", header=header, comments="")
    synthetic_hands.write(tmp_path, "nyu")
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    return tmp_path


# --- README -----------------------------------------------------------------------------------------------------------


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 150


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
    names = {}
    exec(BLOCKS[1], names)
    pair = ppl_vae.Pair(names["PPCA"](5, 2), ppl_vae.guides.LinearGaussian(5, 2))
    assert pair.log_weights({"x": torch.randn(4, 5)}, 3).shape == (3, 4)


# --- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fast_in({"docs/write-a-pair.md", "docs/models/ppca.md"}, sorted(PAGES)))
def test_blocks_run_in_their_order(name, folder, capsys):
    """Those of README are run as they stand by the tests above; here all of a page share their names."""
    names = {}
    for number, code in enumerate(blocks(PAGES[name], "python")):
        exec(compile(short(code), f"{name}, block {number + 1}", "exec"), names)
    printed = capsys.readouterr().out
    if name == "docs/data.md":
        assert names["data"].spec.log_scale > 10
        assert "log p = log p(x) - " in printed
        assert names["pair"].check(names["counts"].test).observed == ("x",)
    if name == "docs/models/modalities.md":
        assert "log p(joints3d | joints2d) = " in printed
        assert names["z"].shape == (10, names["hands"].test.size, 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, path in PAGES.items() if blocks(path, "bash")])
def test_commands_run_in_their_order(name, folder, capsys):
    lines = [line for block in blocks(PAGES[name], "bash") for line in block.splitlines()]
    for words in filter(None, map(shell_words, lines)):
        assert cli.run(words) == 0, capsys.readouterr().err
    shutil.rmtree("runs", ignore_errors=True)


def test_every_block_has_a_language_that_is_looked_at():
    for name, path in PAGES.items():
        fences = re.findall(r"^```(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert fences[1::2] == [""] * (len(fences) // 2), name
        assert set(fences[::2]) <= {"python", "bash", "toml"}, name
        assert all(map(tomllib.loads, blocks(path, "toml"))), name


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES | OTHERS)
def test_links_lead_somewhere(name):
    path = (PAGES | OTHERS)[name]
    for target in re.findall(r"\]\((?!https:)([^)#\s]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


SOURCES = {f"{name}, block {n}": code for name, path in PAGES.items() for n, code in enumerate(blocks(path, "python"))}
SOURCES |= {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").glob("*.py"))
}


def deep(source):
    """Yield the imports of `source` that a user should not need: of three levels, or by a name that has moved."""
    for line, name in imports(source):
        package, *levels = name.split(".")
        if package == "ppl_vae":
            if len(levels) > 2:
                yield f"line {line}: {name} is deeper than two levels"
            elif levels[:1] and levels[0] in MOVED.keys() - set(ppl_vae.__all__):
                yield f"line {line}: {name} has moved to ppl_vae.{MOVED[levels[0]]}"


@pytest.mark.parametrize("name", SOURCES)
def test_imports_are_of_two_levels_at_most(name):
    assert list(deep(SOURCES[name])) == []


def test_the_check_finds_a_deep_import():
    source = "from ppl_vae.evaluation.representation import layers\nfrom ppl_vae.context import isolated\n"
    source += "from ppl_vae.evaluation import layer_use\nimport ppl_vae\nfrom ppl_vae.kl_weights import WarmUp\n"
    assert [line.split(": ")[1] for line in sorted(deep(source))] == [
        "ppl_vae.evaluation.representation.layers is deeper than two levels",
        "ppl_vae.context.isolated has moved to ppl_vae.core.process",
    ]
