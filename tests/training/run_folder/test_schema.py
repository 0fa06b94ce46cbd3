"""A run folder that somebody else made: whatever is in it, the answer is a run or one line, and nothing is executed.

Its maker knows of the checksums, so there are none here.
"""

import json
import os
import shutil
import socket
from contextlib import suppress

import pytest
import torch
from run_folders import contents, fit, ours, same, state
from tiers import fast_in

import ppl_vae
from ppl_vae import PplVaeError, RunError
from ppl_vae.cli import run as command


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of the command line, which its data and pair can be made again from."""
    folder = tmp_path_factory.mktemp("made") / "run"
    words = "fit ppca --data digits --epochs 1 --latent-dim 2 --device cpu --compile off --run-dir"
    assert command([*words.split(), str(folder)]) == 0
    assert command(["evaluate", str(folder), "--method", "exact", "--device", "cpu"]) == 0
    (folder / "checksums.json").unlink()
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def change(folder, place, value, name="config.json"):
    """Put `value` at a place such as ``fit.lr`` of a JSON file."""
    content = json.loads((folder / name).read_text())
    *above, last = (int(part) if part.isdigit() else part for part in place.split("."))
    inner = content
    for part in above:
        inner = inner[part]
    inner[last] = value
    (folder / name).write_text(json.dumps(content))


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


LATENT_DIM = "pair.model.description.arguments.latent_dim"
CONFIG = {
    "class is a list": ("pair.model.description.class", ["a"], "a valid string for 'pair.model.description.class'"),
    "fit is null": ("fit", None, "a valid dictionary for 'fit'; got None"),
    "pair is a list": ("pair", [], "a valid dictionary for 'pair'; got \\[\\]"),
    "no guide": ("pair", {"model": {}, "state": {}}, "for 'pair.model.name'; got none"),
    "description is a string": ("pair.guide.description", "x", "a valid dictionary for 'pair.guide.description'"),
    "arguments are a number": ("pair.guide.description.arguments", 3, "arguments'; got 3"),
    "state is of strings": ("pair.state", {"a": "b"}, "a valid list for 'pair.state.a'"),
    "a negative size": ("pair.state", {"a": [-1]}, "greater than or equal to 0 for 'pair.state.a.0'"),
    "lr is a string": ("fit.lr", "fast", "a valid number for 'fit.lr'; got 'fast'"),
    "lr is negative": ("fit.lr", -1, "greater than 0 for 'fit.lr'"),
    "epochs is a number with a fraction": ("fit.epochs", 1.5, "a valid integer for 'fit.epochs'"),
    "batch_size is zero": ("fit.batch_size", 0, "greater than or equal to 1 for 'fit.batch_size'"),
    "dtype is another": ("fit.dtype", "int8", "'float32' or 'float64' for 'fit.dtype'"),
    "support is another": ("data.spec.support", "complex", "for 'data.spec.support'"),
    "x_shape is a number": ("data.spec.x_shape", 64, "a valid list for 'data.spec.x_shape'"),
    "image_shape has two": ("data.spec.image_shape", [8, 8], "for 'data.spec.image_shape'"),
    "scale is zero": ("data.spec.scale", [0], "greater than 0 for 'data.spec.scale.0'"),
    "digest is a number": ("data.digest", 7, "a valid dictionary for 'data.digest'"),
    "size is a string": ("data.size.train", "all", "a valid integer for 'data.size.train'"),
    "hidden of 1e12": (LATENT_DIM, 10**12, "latent_dim: expected an integer .*; got 10{12}"),
    "beyond torch": (LATENT_DIM, 10**30, "latent_dim: expected an integer .*; got 10{30}"),
    "more than the memory": (LATENT_DIM, 2**30, "of the sizes in 'pair.state'; got"),
    "a negative latent_dim": (LATENT_DIM, -3, "expected .*; got .*"),
    "a latent_dim of another type": (LATENT_DIM, "3", "expected .*; got .*"),
    "an argument that there is not": ("pair.model.description.arguments.colour", 1, "got .*colour"),
    "deep": ("source", nested(2000), "got more than 100 levels"),
    "less deep": ("source", {"a": nested(99)}, "got more than 100 levels"),
    "sizes of another pair": ("pair.state", {"a": [3]}, "expected parameters of the sizes in config.json; got others"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIG)
def test_settings_of_the_wrong_type(folder, case):
    place, value, line = CONFIG[case]
    if case == "deep":
        text = (folder / "config.json").read_text().rstrip().removesuffix("}")
        (folder / "config.json").write_text(f'{text}, "deep": {"[" * value_depth(value)}{"]" * value_depth(value)}}}')
    else:
        change(folder, place, value)
    with pytest.raises(PplVaeError, match=line) as caught:
        ppl_vae.load(folder)
    assert "\n" not in str(caught.value)


def value_depth(value):
    depth = 0
    while isinstance(value, list):
        value, depth = value[0], depth + 1
    return depth


def test_a_pair_by_name_of_too_many_parameters(folder, capsys):
    """The pair of a run whose class is unknown is built by its name in the zoo, from options in the folder."""
    change(folder, "pair.model.description", None)
    change(folder, "source.pair_options.latent_dim", 2**30)
    assert command(["evaluate", str(folder), "--method", "exact", "--device", "cpu"]) == 2
    printed = capsys.readouterr().err
    assert "of the sizes in 'pair.state'; got" in printed
    assert printed.count("\n") == 1


SOURCE = {
    "source.pair": 3,
    "source.data": ["digits"],
    "source.pair_options": [1],
    "source.data_seed": "x",
    "source.labels": -1,
    "source.repeats": 0,
}


@pytest.mark.parametrize("place", fast_in({"source.labels"}, SOURCE))
def test_a_source_of_the_wrong_type(folder, capsys, place):
    change(folder, place, SOURCE[place])
    assert command(["report", str(folder), "--device", "cpu"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert f"for '{place.removeprefix('source.')}'" in printed
    assert printed.count("\n") == 1


RECORDS = {
    "a mapping": ({}, "a valid list"),
    "of numbers": ([1], "a valid dictionary for '0'"),
    "without a mean": ([{"method": "exact"}], "an entry for '0.num_particles'"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_estimates_that_are_none(folder, case):
    content, line = RECORDS[case]
    (folder / "evaluation.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=f"evaluation.json: expected {line}.*; got .*; try the version"):
        _ = ppl_vae.load(folder).evaluation


def test_an_environment_that_is_none(folder):
    (folder / "environment.json").write_text('{"python": [1]}')
    with pytest.raises(RunError, match=r"environment.json: expected a valid string for 'python"):
        _ = ppl_vae.load(folder).environment


def checkpoint(folder, **changes):
    content = torch.load(folder / "resume.pt", weights_only=True) | changes
    torch.save({name: value for name, value in content.items() if value != "absent"}, folder / "resume.pt")


STATES = {
    "pieces": (-7, 0, "many", 1.5, "absent"),
    "model": ({}, {"a": torch.zeros(3)}, {"a": 1}, None, "absent"),
    "optimizer": ({}, {"state": {}, "param_groups": []}, {"state": 3, "param_groups": 4}, [], "absent"),
    "random": (torch.zeros(3, dtype=torch.uint8), torch.zeros(5056), 3, "absent"),
    "random_cuda": ("x", "absent"),
    "history": ({"epoch": "one"}, {"epoch": [1]}, {"epoch": [1, 2], "train_bound": [0.5]}, [], "absent"),
    "timing": (3, {"seconds": ["a"]}, "absent"),
    "best": ({"epoch": 1}, {"epoch": 0, "bound": 1.0, "model": {}}, 3, "absent"),
    "paths": ({"a": 1}, {1: 1}, {5: "teleported"}, None, "absent"),
    "kl_weight": (1.0, torch.zeros(3), "absent"),
    "objective": ({"a": torch.zeros(2)}, 3, "absent"),
}


@pytest.fixture(scope="module")
def resumable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted") / "run"
    fit(folder)
    (folder / "checksums.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("name", "number"),
    [
        pytest.param(name, i, marks=[pytest.mark.slow] if i else [])
        for name, values in STATES.items()
        for i in range(len(values))
    ],
)
def test_a_checkpoint_of_the_wrong_type(resumable, tmp_path, name, number):
    folder = shutil.copytree(resumable, tmp_path / "run")
    checkpoint(folder, **{name: STATES[name][number]})
    before = contents(folder)
    mine = ours()
    with pytest.raises(RunError, match=r"resume.pt: expected .*; got .*; try ") as caught:
        fit(folder, mine, resume=True, epochs=3)
    assert "\n" not in str(caught.value)
    after = contents(folder)
    assert {file: after[file] for file in before if file != "config.json"} == {
        file: before[file] for file in before if file != "config.json"
    }


# -- things that are no files -----------------------------------------------------------------------------------------

NAMES = ["config.json", "model.safetensors", "history.csv", "resume.pt", "evaluation.json", "checksums.json"]


@pytest.mark.parametrize("kind", fast_in({"pipe"}, ["pipe", "folder", "device", "dangling", "loop", "socket"]))
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_file(folder, name, kind, monkeypatch):
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        monkeypatch.chdir(folder)  # a socket's path is short
        socket.socket(socket.AF_UNIX).bind(name)
    else:
        path.symlink_to({"device": "/dev/zero", "dangling": "nowhere", "loop": name}[kind])
    for use in (lambda: ppl_vae.load(folder).evaluation, lambda: fit(folder, resume=True)):
        with suppress(PplVaeError):  # one line, as all of its kind
            use()
    fit(folder, overwrite=True)
    assert ppl_vae.load(folder).history


def test_a_folder_named_as_what_a_dead_writer_leaves(folder, resumable, tmp_path):
    copy = shutil.copytree(resumable, tmp_path / "copy")
    (copy / ".x.partial").mkdir()
    os.mkfifo(copy / ".y.partial")
    (copy / ".z.partial").symlink_to(copy / "config.json")
    fit(copy, resume=True, epochs=3)
    assert (copy / "config.json").is_file()
    assert (copy / ".x.partial").is_dir()


@pytest.mark.slow
def test_figures_that_lead_outside(folder, tmp_path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "figures").symlink_to(outside)
    for words in (["report"], ["evaluate", "--num-particles", "10", "--method", "prior", "--curve"]):
        assert command([words[0], str(folder), *words[1:], "--device", "cpu"]) == 2
        printed = capsys.readouterr().err
        assert "figures: expected a folder inside" in printed
        assert "got a link that leads out of it; try removing it" in printed
    assert not list(outside.iterdir())
    fit(folder, overwrite=True)  # removes the link, and nothing behind it
    assert outside.is_dir()


# -- what reaches the terminal ----------------------------------------------------------------------------------------

STEER = "\x1b[2J\x1b]0;owned\x07\r\u202e"


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", ["data.name", "data.spec.name", "data.digest.test", "pair.model.name", "source.data", "fit.dtype"]
)
@pytest.mark.parametrize("words", [["evaluate", "--method", "exact"], ["report"], ["sample"]])
def test_no_control_sequence_reaches_the_terminal(folder, tmp_path, capsys, place, words):
    change(folder, place, f"digits{STEER}")
    out = ["--out", str(tmp_path / "out.npz")] if words == ["sample"] else []
    command([words[0], str(folder), *words[1:], *out])
    printed = "".join(capsys.readouterr())
    assert printed
    assert not any(mark in printed for mark in STEER if not mark.isalnum() and mark in "\x1b\x07\r\u202e")


def test_a_run_that_was_received_whole_is_read(folder):
    run = ppl_vae.load(folder)
    assert len(run.evaluation) == 1
    assert same(state(run.pair), state(ppl_vae.load(folder, verify=False).pair))
