"""A model of x given a label, from the shell: labels to sample of, and those of other data to evaluate on."""

import numpy as np
import pytest
import torch

import ppl_vae
from ppl_vae import Pair, zoo
from ppl_vae.cli import run as command
from ppl_vae.guides import ConditionalNormal
from ppl_vae.models import CVAE


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.data.load("digits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The run of a CVAE of the digits given their labels."""
    place = tmp_path_factory.mktemp("labels") / "cvae"
    words = "fit cvae --epochs 1 --latent-dim 2 --hidden 8 --device cpu --compile off --run-dir"
    assert command([*words.split(), str(place)]) == 0
    return place


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ("", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]),
        ("--label 3", [3] * 12),
        ("--label 7 --label 2-4", [7, 2, 3, 4] * 3),
        ("--label 0-9 --mean", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]),
    ],
)
def test_samples_of_labels_in_turn(words, labels, folder, tmp_path):
    out = tmp_path / "s.npz"
    assert command(["sample", str(folder), "--n", "12", "--out", str(out), *words.split()]) == 0
    drawn = np.load(out)
    assert drawn["c"].tolist() == labels
    if "--mean" in words:
        pair = ppl_vae.load(folder).pair
        expected = pair.decode({"z": torch.from_numpy(drawn["z"])}, c=torch.tensor(labels))["x"]
        torch.testing.assert_close(torch.from_numpy(drawn["x"]), expected)


@pytest.mark.parametrize("label", ["10", "8-11", "4-2", "-1", "three", "1,2"])
def test_a_label_that_there_is_not(label, folder, capsys):
    assert command(["sample", str(folder), "--label", label]) == 2
    assert capsys.readouterr().err == (
        f"error: --label: expected labels 0 to 9, one or a range; got '{label}'; try --label 0, or --label 0-9\n"
    )


def test_models_that_are_given_no_labels(digits, tmp_path, capsys):
    pair = zoo.build("vae", digits.spec, latent_dim=2, hidden=(4,))
    vae = ppl_vae.fit(pair, digits, epochs=1, run_dir=tmp_path / "vae")
    assert command(["sample", str(vae.directory), "--label", "3"]) == 2
    assert capsys.readouterr().err == (
        "error: --label: expected a model that is given labels; got VAE, which takes none; try a run of cvae\n"
    )
    pair = Pair(CVAE(64, 2, c_shape=5, hidden=(4,)), ConditionalNormal(64, 2, c_shape=5, hidden=(4,)))
    data = {"x": digits.train["x"][:20], "c": torch.zeros(20, 5)}
    numbers = ppl_vae.fit(pair, data, epochs=1, run_dir=tmp_path / "numbers")
    assert command(["sample", str(numbers.directory), "--out", str(tmp_path / "s.npz")]) == 2
    said = capsys.readouterr().err
    assert "expected a model of x alone, or given labels; got one given c of shape (5,); try run.pair.generate" in said
    assert not (tmp_path / "s.npz").exists()


def test_other_data_bring_their_labels(folder, tmp_path, capsys):
    words = ["evaluate", str(folder), "--num-particles", "10", "--data"]
    assert command([*words, "digits"]) == 0
    printed = capsys.readouterr().out
    assert "log p(x | c) = " in printed
    assert "the data are those of the fit" in printed
    assert command([*words, "linear-gaussian"]) == 2
    assert "labels of linear-gaussian: expected a whole-numbered y; got none" in capsys.readouterr().err
