"""An attack on run folders by accident and by hand: whatever becomes of a file, a run is read, or one line says why.

Accidents leave the checksums as they are: what is read then has the numbers of the fit. Changes by hand come without
checksums, and may change numbers, but end in a run or in one line all the same.
"""

import copy
import csv
import io
import json
import random
import shutil

import pytest
import safetensors.torch
import torch
from run_folders import contents, fit, same, state

import ppl_vae
from ppl_vae import PplVaeError, RunError

pytestmark = pytest.mark.slow

ACCIDENTS, BY_HAND = 200, 200
ODD = [None, True, -1, 0, 1.5, 10**12, 10**30, "x", "\x1b[2J", [], {}, [[]], {"a": 1}, float("inf"), float("nan")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted") / "run"
    run = fit(folder)
    run.record(ppl_vae.log_likelihood(run.pair, dict(run_data()), method="exact"))
    return folder


def run_data():
    from run_folders import data

    return data().test


@pytest.fixture(scope="module")
def going_on(whole, tmp_path_factory):
    """What the fit comes to when it goes on undisturbed."""
    folder = shutil.copytree(whole, tmp_path_factory.mktemp("going") / "on")
    return fit(folder, resume=True, epochs=3)


def damaged(draw, content):
    """Return the content of a file as an accident leaves it, and the name of the accident."""
    kind = draw.choice(["flip", "flip", "cut", "zeros", "twice", "empty", "shuffled", "grown"])
    where = draw.randrange(len(content))
    if kind == "flip":
        content = content[:where] + bytes([content[where] ^ (1 << draw.randrange(8))]) + content[where + 1 :]
    elif kind == "cut":
        content = content[:where]
    elif kind == "zeros":
        content = content[:where] + bytes(len(content) - where)
    elif kind == "twice":
        content = content * 2
    elif kind == "empty":
        content = b""
    elif kind == "shuffled":
        content = content[where:] + content[:where]
    else:
        content = content + draw.randbytes(50)
    return content, kind


def attempt(use):
    """Return what `use` returns and no line, or nothing and the line of its error."""
    try:
        return use(), ""
    except PplVaeError as error:
        line = str(error)
        assert "\n" not in line
        assert line.isprintable()
        assert len(line) < 600
        return None, line


def test_accidents(whole, going_on, tmp_path):
    reference, names = ppl_vae.load(whole), sorted(set(contents(whole)) - {".lock"})
    seen = {"read": 0, "refused": 0}
    for number in range(ACCIDENTS):
        draw = random.Random(number)
        folder = shutil.copytree(whole, tmp_path / str(number))
        name = draw.choice(names)
        before = (folder / name).read_bytes()
        if draw.random() < 0.1:
            (folder / name).unlink()
            kind = "missing"
        else:
            content, kind = damaged(draw, before)
            (folder / name).write_bytes(content)
        changed = kind == "missing" or content != before
        run, line = attempt(lambda folder=folder: (ppl_vae.load(folder), ppl_vae.load(folder).evaluation))
        seen["read" if run else "refused"] += 1
        if run:
            back, estimates = run
            assert back.history == reference.history
            assert back.config == reference.config
            assert same(state(back.pair), state(reference.pair))
            if kind != "missing":
                assert estimates == reference.evaluation
            assert not changed or name in ("resume.pt", "environment.json", "evaluation.json", "checksums.json"), kind
        else:
            assert changed
            assert "; try " in line
        left = contents(folder)
        run, line = attempt(lambda folder=folder: fit(folder, resume=True, epochs=3))
        if run is not None:
            assert run.history == going_on.history
            assert same(state(run.pair), state(going_on.pair))
        else:
            assert contents(folder) == left  # nothing is lost by trying
        shutil.rmtree(folder)
    assert min(seen.values()) > 10, seen


def places(content, path=()):
    """Yield every place in nested lists and mappings."""
    yield path
    if isinstance(content, dict):
        for name, value in content.items():
            yield from places(value, (*path, name))
    elif isinstance(content, list):
        for number, value in enumerate(content[:3]):
            yield from places(value, (*path, number))


def altered(draw, content):
    """Return nested lists and mappings with an odd value at one place, or without that place."""
    content = copy.deepcopy(content)
    *above, last = draw.choice([place for place in places(content) if place])
    inner = content
    for part in above:
        inner = inner[part]
    if draw.random() < 0.25:
        del inner[last]
    else:
        value = draw.choice([*ODD, torch.zeros(2)] if isinstance(inner[last], torch.Tensor) else ODD)
        inner[last] = value
    return content


def by_hand(draw, folder):
    """Change one file of a folder as somebody would who knows its form."""
    (folder / "checksums.json").unlink()
    name = draw.choice(["config.json", "config.json", "resume.pt", "resume.pt", "evaluation.json", "environment.json"])
    if draw.random() < 0.15:
        name = draw.choice(["history.csv", "model.safetensors"])
    path = folder / name
    if name == "resume.pt":
        torch.save(altered(draw, torch.load(path, weights_only=True)), path)
    elif name.endswith(".json"):
        path.write_text(json.dumps(altered(draw, json.loads(path.read_text()))))
    elif name == "history.csv":
        rows = altered(draw, list(csv.reader(io.StringIO(path.read_text()))))
        path.write_text("\n".join(",".join(map(str, row if isinstance(row, list) else [row])) for row in rows))
    else:
        tensors = safetensors.torch.load(path.read_bytes())
        chosen = draw.choice(sorted(tensors))
        odd = [torch.zeros(0), torch.zeros(2, 2), tensors[chosen].double(), tensors[chosen].to(torch.int64)]
        tensors[chosen] = draw.choice(odd)
        path.write_bytes(
            safetensors.torch.save(tensors, draw.choice([None, {"history": "epoch\nx\n"}, {"history": "1"}]))
        )
    return name


def test_changes_by_hand(whole, tmp_path):
    seen = {"read": 0, "refused": 0}
    for number in range(BY_HAND):
        draw = random.Random(1000 + number)
        folder = shutil.copytree(whole, tmp_path / str(number))
        by_hand(draw, folder)
        uses = (
            lambda folder=folder: (ppl_vae.load(folder).evaluation, ppl_vae.load(folder).environment),
            lambda folder=folder: fit(folder, resume=True, epochs=3),
        )
        for use in uses:
            left = contents(folder)
            run, _ = attempt(use)
            seen["read" if run is not None else "refused"] += 1
            if run is None:
                kept = contents(folder)
                assert all(kept[name] == left[name] for name in left if name != "config.json")
        shutil.rmtree(folder)
    assert min(seen.values()) > 50, seen


def test_the_attack_can_fail(whole, tmp_path):
    """Without checksums a flipped byte of the parameters goes unseen."""
    folder = shutil.copytree(whole, tmp_path / "run")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(RunError):
        ppl_vae.load(folder)
    (folder / "checksums.json").unlink()
    assert not same(state(ppl_vae.load(folder).pair), state(ppl_vae.load(whole).pair))
