"""``ppl-vae evaluate``: the estimator's options reach it, and mistakes in them are one line."""

import pytest

import ppl_vae
from ppl_vae import cli


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a VAE fitted for an epoch."""
    folder = tmp_path_factory.mktemp("evaluate") / "vae"
    words = "fit vae --data linear-gaussian --data-option num_rows=60 --epochs 1 --latent-dim 2 --hidden 4 --run-dir"
    assert cli.run([*words.split(), str(folder)]) == 0
    return folder


def output_of(capsys, *words, code=0):
    assert cli.run(list(map(str, words))) == code
    out, err = capsys.readouterr()
    return (err if code else out).strip()


def test_correction_and_curve(run, capsys):
    out = output_of(capsys, "evaluate", run, "--num-particles", 50, "--correction", "jackknife", "--curve")
    assert "(importance, K = 50, jackknife)" in out
    assert out.splitlines()[-1] == f"bound against K in {run / 'figures' / 'k-curve.png'}"
    assert (run / "figures" / "k-curve.png").read_bytes().startswith(b"\x89PNG")
    recorded = ppl_vae.load(run).evaluation[-1]
    assert recorded["correction"] == "jackknife"
    assert recorded["curve"]["num_particles"] == [1, 2, 5, 10, 20, 50]


@pytest.mark.slow
def test_annealing(run, capsys):
    words = ("--method", "ais", "--num-particles", 8, "--num-data", 3, "--annealing", "num_distributions=5")
    out = output_of(capsys, "evaluate", run, *words, "--annealing", "start=guide", "--annealing", "rungs=2")
    assert "(ais, K = 8, acceptance 0." in out
    details = ppl_vae.load(run).evaluation[-1]["details"]
    assert (details["num_distributions"], details["start"]) == (5, "guide")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--correction", "jack"), "unknown correction: expected one of jackknife, none; got 'jack'; try 'jackknife'"),
        (("--correction", "jackknife", "--num-particles", 1), "correction 'jackknife': expected at least 2 particles"),
        (("--annealing", "start=guide"), "annealing: expected method 'ais'; got 'importance'"),
        (("--method", "ais", "--annealing", "starts=guide"), "unknown annealing option: expected one of "),
        (("--method", "ais", "--curve"), "--curve: expected method 'prior' or 'importance'; got 'ais'"),
    ],
)
def test_mistakes(words, line, run, capsys):
    said = output_of(capsys, "evaluate", run, *words, code=2)
    assert line in said.replace("--annealing: ", "annealing: ").replace("--correction", "correction")
    assert "\n" not in said
