"""The command on a user's own files: counts, standardised numbers, bytes, columns of other names."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import ppl_vae
from ppl_vae.cli import run
from ppl_vae.cli.usage import as_typed

TINY = ("--epochs", "2", "--latent-dim", "2", "--device", "cpu", "--compile", "off")
RANDOM = np.random.default_rng(0)
COUNTS = RANDOM.poisson(np.exp(RANDOM.normal(size=(200, 1)) + np.linspace(-1, 2, 6)))
REAL = np.column_stack([5e4 + 2e4 * RANDOM.normal(size=200), 3 + RANDOM.normal(size=200)])


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, x, header in (("counts", COUNTS, "a,b,c,d,e,f"), ("real", REAL, "income,age"), ("byte", COUNTS, "")):
        x = np.where(x == x.max(), 255, x.clip(max=254)) if name == "byte" else x
        np.savetxt(f"{name}.csv", x, delimiter=",", header=header, comments="", fmt="%.9g")
    np.savez("exposed.npz", x=COUNTS, exposure=np.full(200, 2.5))
    return tmp_path


def output_of(capsys, *words, code=0):
    assert run([word for part in words for word in (part.split() if isinstance(part, str) else part)]) == code
    out, err = capsys.readouterr()
    assert (err.count("\n"), "Traceback" in err) == (int(code > 0), False)
    return out if code == 0 else err.rstrip("\n")


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["poisson", "negative-binomial", "negative-binomial-decoder"])
def test_counts_from_file_to_report(likelihood, files, capsys):
    output_of(capsys, f"fit vae --data counts.csv --likelihood {likelihood} --run-dir run", TINY)
    config = ppl_vae.load("run").config
    assert config["data"]["spec"]["support"] == "count"
    assert config["data"]["spec"]["columns"] == ["a", "b", "c", "d", "e", "f"]
    assert "counts test (N = 20" in output_of(capsys, "evaluate run --num-particles 20")
    output_of(capsys, "sample run --n 30 --out s.npz")
    x = np.load("s.npz")["x"]
    assert ((x >= 0) & (x == x.round())).all()
    output_of(capsys, "report run --num-particles 20")
    page = (files / "run" / "report.html").read_text()
    assert "Left out" not in page
    drawn = {path.name for path in (files / "run" / "figures").iterdir()}
    assert {"marginals-x.png", "reconstructions-x.png", "scatter-x.png"} <= drawn


@pytest.mark.slow
def test_counts_have_a_likelihood_by_default_and_may_have_an_exposure(files, capsys):
    output_of(capsys, "fit vae --data counts.csv --run-dir run", TINY)
    arguments = ppl_vae.load("run").config["pair"]["model"]["description"]["arguments"]
    assert arguments["likelihood"]["class"] == "ppl_vae.nn.likelihoods.counts.NegativeBinomial"
    output_of(capsys, "fit count-vae --data exposed.npz --likelihood poisson --run-dir exposed", TINY)
    assert "log p(x | exposure)" in output_of(capsys, "evaluate exposed --num-particles 20")
    output_of(capsys, "report exposed --num-particles 20")
    assert "Left out" not in (files / "exposed" / "report.html").read_text()
    line = output_of(capsys, "fit count-vae --data counts.csv", TINY, code=2)
    assert line.startswith("error: exposure: expected one number above 0 per datum; got none; try")


@pytest.mark.slow
def test_standardised_numbers_stay_so(files, capsys):
    units = r"x is standardised, and log p\(x\) is that of standardised x; .* log p = log p\(x\) - (\S+) nats"
    said = re.search(
        units, output_of(capsys, "fit ppca --data real.csv --standardise --run-dir run", TINY, "--latent-dim 1")
    )
    spec = ppl_vae.data.Spec.from_json(ppl_vae.load("run").config["data"]["spec"])
    assert float(said[1]) == pytest.approx(np.log(spec.scale).sum(), abs=1e-3)
    out = output_of(capsys, "evaluate run")
    assert re.search(units, out)
    assert "real standardised test" in out
    assert "the data are those of the fit" in out
    output_of(capsys, "sample run --n 2000 --out s.npz")
    x = np.load("s.npz")["x"]
    model = ppl_vae.load("run").pair.model
    expected = np.array(spec.shift) + np.array(spec.scale) * model.bias.detach().numpy()
    assert (np.abs(x.mean(0) - expected) < 5 * x.std(0) / 2000**0.5).all()
    # Other data are brought to the units of the fit, not to their own.
    np.savetxt("other.csv", 10 * REAL, delimiter=",", header="income,age", comments="")
    output_of(capsys, "evaluate run --data other.csv")
    x = ppl_vae.data.from_tensors(10 * REAL, standardise=spec, name="other").test
    own = ppl_vae.load("run").evaluation[-1]
    assert own["data"]["digest"] == x.digest
    line = output_of(capsys, "evaluate run --data digits", code=2)
    assert line.startswith("error: --data: expected a file, in the units of 'real standardised', which the fit stand")


def test_columns_of_another_order_are_refused(files, capsys):
    output_of(capsys, "fit ppca --data real.csv --standardise --run-dir run", TINY, "--latent-dim 1")
    output_of(capsys, "fit ppca --data counts.csv --run-dir counted", TINY)
    np.savetxt("swapped.csv", REAL[:, ::-1], delimiter=",", header="age,income", comments="")
    np.savetxt("turned.csv", COUNTS, delimiter=",", header="a,c,b,d,e,f", comments="")
    for words, place in (("run --data swapped.csv", "'income' in place 1"), ("counted --data turned.csv", "'b' in pl")):
        line = output_of(capsys, f"evaluate {words}", code=2)
        assert line.startswith(f"error: columns: expected {place}"), line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "fit vae --data real.csv --standardise --likelihood poisson",
            "error: x: expected values in the support of its likelihood (whole numbers 0, 1, 2, ...); got ",
        ),
        (
            "fit vae --data byte.csv",
            "error: x: expected a choice whether whole numbers are grey levels or counts; got whole numbers 0 to "
            "255; try --data-option levels=256, which divides by 255, or --data-option support=count",
        ),
        ("fit vae --data counts.csv --data-option channels=last", "error: channels: expected pictures, x (N, C, H, W)"),
        ("fit vae --data counts.csv --likelihood poison", "error: unknown likelihood: expected one of bernoulli,"),
        (
            "fit vae --data cells.h5ad",
            "error: cells.h5ad: expected a file ending in .npz, .npy, .csv; got '.h5ad'; try ",
        ),
    ],
)
def test_mistakes(words, line, files, capsys):
    (files / "cells.h5ad").write_bytes(b"\x89HDF")
    assert output_of(capsys, words, TINY, code=2).startswith(line)


@pytest.mark.slow
def test_a_warning_is_one_line_in_the_words_of_the_command(files):
    words = [
        sys.executable,
        "-m",
        "ppl_vae",
        *("fit", "ppca", "--data", "real.csv", "--run-dir", "run"),
        *TINY,
        "--latent-dim",
        "1",
    ]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    assert re.fullmatch(
        r"warning: x: expected coordinates of order one, .* income .*; try --standardise\n", done.stderr
    )
    assert as_typed("x: a; try levels=3 or support='count'") == (
        "x: a; try --data-option levels=3 or --data-option support=count"
    )
