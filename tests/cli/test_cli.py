"""The command: every success path on tiny settings, every mistake by its line and exit code, stopping and going on."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file

import ppl_vae
from ppl_vae import zoo
from ppl_vae.cli import run
from ppl_vae.cli.app import PROGRAM, app
from ppl_vae.cli.usage import as_typed
from ppl_vae.core.errors import InputError
from ppl_vae.guides import LinearGaussian
from ppl_vae.models import PPCA
from ppl_vae.pairs.pair import Pair

COMMANDS = ("list", "demo", "fit", "evaluate", "sample", "report")
TINY = ("--epochs", "2", "--latent-dim", "2", "--device", "cpu", "--compile", "off")


def output_of(capsys, *arguments, code=0):
    """Run a command, check its exit code, and return what it printed; on failure, the one line on standard error."""
    assert run(arguments) == code
    out, err = capsys.readouterr()
    if code == 0:
        assert not err
        return out
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    return err.rstrip("\n")


def start(*arguments, **options):
    """Start the command in a process of its own, which Ctrl-C interrupts."""
    # Tests run in the background of a shell ignore Ctrl-C, and a child inherits that; a handler of ours it does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "ppl_vae", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"}, **options,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Return a folder with runs ``vae`` and ``ppca`` in it, fitted to digits for two epochs."""
    folder = tmp_path_factory.mktemp("runs")
    assert run(["fit", "vae", "--run-dir", str(folder / "vae"), "--hidden", "8", *TINY]) == 0
    assert run(["fit", "ppca", "--run-dir", str(folder / "ppca"), *TINY]) == 0
    return folder


# --- the library behind it --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_public_names_are_imported_when_used():
    code = """
import sys, ppl_vae
assert "torch" not in sys.modules
from ppl_vae.training.fit import fit
assert ppl_vae.fit is fit
print(*(name for name in ppl_vae.__all__ if getattr(ppl_vae, name, None) is None))
print("Pair" in dir(ppl_vae), hasattr(ppl_vae, "Pear"))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "\nTrue False\n"


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def examples(monkeypatch, capsys):
    """Return the example in the help of each command, as words after ``ppl-vae``."""
    monkeypatch.setenv("COLUMNS", "100")
    found = {}
    for command in COMMANDS:
        lines = output_of(capsys, command, "--help").splitlines()
        (line,) = (line.strip() for line in lines if line.strip().startswith("Example:"))
        program, *found[command] = shlex.split(line.removeprefix("Example:"))
        assert program == PROGRAM
    return found


@pytest.mark.slow
def test_every_command_has_an_example(examples, capsys):
    group = typer.main.get_command(app)
    assert list(group.commands) == list(COMMANDS)
    for command, words in examples.items():
        assert words[0] == command
        with group.commands[command].make_context(command, words[1:]):
            pass  # parsed: a word that is no option of the command would have raised
    assert "Commands" in output_of(capsys)
    assert output_of(capsys, "--version") == f"ppl-vae {ppl_vae.__version__}\n"


@pytest.mark.slow
def test_the_examples_run_one_after_another(examples, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    lines = output_of(capsys, *examples["list"])
    for name in (*zoo.names(), *ppl_vae.data.names(), *ppl_vae.likelihoods.NAMES, "elbo"):
        assert re.search(rf"^  {re.escape(name)} +\S", lines, re.MULTILINE), name
    assert "1,437 train" in output_of(capsys, *examples["fit"], "--epochs", "1")
    assert "± " in output_of(capsys, *examples["evaluate"], "--num-data", "20")
    output_of(capsys, *examples["sample"])
    output_of(capsys, *examples["report"], "--num-particles", "20")
    assert Path("samples.png").read_bytes().startswith(b"\x89PNG")
    assert Path("runs/vae/report.html").stat().st_size > 10_000


# --- what the commands do ---------------------------------------------------------------------------------------------


def test_fit_says_what_it_chose_and_records_where_all_came_from(fitted, tmp_path, capsys):
    out = output_of(capsys, "fit", "factor-analysis", "--run-dir", str(tmp_path / "fa"), *TINY)
    assert "binarization none (chosen for it; see --binarization)" in out
    assert re.search(r"validation bound -?\d+\.\d{3} nats per datum after epoch 2", out)
    assert f"next: ppl-vae evaluate {tmp_path / 'fa'}" in out
    vae, ppca = (json.loads((fitted / name / "config.json").read_text()) for name in ("vae", "ppca"))
    assert vae["source"] == {
        "pair": "vae",
        "data": "digits",
        "pair_options": {"latent_dim": 2, "hidden": [8]},
        "binarization": "fixed",
        "data_seed": 0,
        "data_options": {},
        "labels": None,
        "repeats": 1,
    }
    assert ppca["data"]["spec"]["binarization"] == "none"


def test_fit_passes_every_option_on(tmp_path, capsys):
    words = (
        "fit vae --data linear-gaussian --epochs 2 --batch-size 50 --lr 0.01 --latent-dim 2 --hidden 4,3 "
        "--likelihood normal --covariance full --objective ELBO --objective-option num_particles=2 "
        "--objective-option kl=sampled --seed 3 --device cpu --dtype float64 --schedule cosine --optimizer sgd "
        "--clip-norm 5 --kl-warmup 1 --patience 1 "
        "--compile off --data-seed 4 --data-option num_rows=200 --data-option x_dim=5 --pair-option activation=relu"
    )
    output_of(capsys, *words.split(), "--run-dir", str(tmp_path / "run"))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    fit = {
        "epochs": 2, "batch_size": 50, "lr": 0.01, "seed": 3, "device": "cpu", "dtype": "float64", "schedule": "cosine",
        "optimizer": "sgd", "clip_norm": 5.0, "kl_warmup": 1.0, "patience": 1, "compile": "off",
    }  # fmt: skip
    assert fit.items() <= config["fit"].items()
    assert {"num_particles": 2, "kl": "sampled"}.items() <= config["objective"]["description"]["arguments"].items()
    assert config["data"]["size"] == {"train": 160, "validation": 20}
    guide = config["pair"]["guide"]["description"]["arguments"]
    assert (guide["covariance"], guide["hidden"], guide["activation"]) == ("full", [4, 3], "relu")
    expected = ppl_vae.data.load("linear-gaussian", seed=4, num_rows=200, x_dim=5).train
    assert config["data"]["digest"]["train"] == expected.digest


def test_evaluate_records_both_error_bars(fitted, capsys):
    out = output_of(capsys, "evaluate", str(fitted / "vae"), "--num-particles", "30", "--seed", "5")
    said, same, _ = out.splitlines()
    number = r"-?\d+\.\d{3}"
    assert re.search(rf"log p\(x\) = {number} nats .*K = 30\), ± {number} Monte Carlo, ± {number} data sampling", said)
    assert "digits test (N = 180, binarization fixed)" in said
    assert same == "the data are those of the fit"
    loaded = ppl_vae.load(fitted / "vae")
    expected = ppl_vae.log_likelihood(loaded.pair, ppl_vae.data.load("digits"), num_particles=30, seed=5)
    assert loaded.evaluation[-1]["mean"] == expected.mean
    assert loaded.evaluation[-1]["data"]["digest"] == expected.data["digest"]


def test_evaluate_takes_the_exact_value_where_there_is_one(fitted, capsys):
    assert "(exact), ± 0.000" in output_of(capsys, "evaluate", str(fitted / "ppca"))
    out = output_of(
        capsys, "evaluate", str(fitted / "ppca"), "--method", "prior", "--num-particles", "7", "--split", "train"
    )
    assert "(prior, K = 7)" in out
    assert "digits train (N = 1,437, binarization none)" in out


def test_evaluate_says_where_the_data_are_not_those_of_the_fit(fitted, capsys):
    out = output_of(capsys, "evaluate", str(fitted / "vae"), "--num-particles", "5", "--binarization", "dynamic")
    before = ppl_vae.load(fitted / "vae").config["data"]["digest"]["train"]
    assert "caution: not the data of the fit: train digest " in out
    assert f", {before} at the fit" in out


def test_a_users_own_file_and_a_run_fitted_from_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(60, 4))
    np.savetxt("mine.csv", x, delimiter=",", header="a,b,c,d", comments="")
    output_of(capsys, "fit", "ppca", "--data", "mine.csv", *TINY)
    run_dir = tmp_path / "runs" / "ppca-mine"
    monkeypatch.chdir("/")  # the file is found again from elsewhere
    assert "mine test (N = 6" in output_of(capsys, "evaluate", str(run_dir))
    assert "caution" not in output_of(capsys, "evaluate", str(run_dir), "--split", "validation")
    (tmp_path / "mine.csv").write_text("a,b,c,d\n" + "\n".join(f"{i},{i * i % 7},1,{i % 3}" for i in range(60)))
    assert "caution: not the data of the fit" in output_of(capsys, "evaluate", str(run_dir))

    data = ppl_vae.data.from_tensors(x.astype("float32"), name="mine")
    torch.manual_seed(0)
    ppl_vae.fit(Pair(PPCA(4, 2), LinearGaussian(4, 2)), data, epochs=1, run_dir=tmp_path / "python")
    line = output_of(capsys, "evaluate", str(tmp_path / "python"), code=2)
    assert line.endswith(
        "expected a run that names its data; got one fitted from Python, which does not; try --data NAME_OR_PATH"
    )
    np.save(tmp_path / "mine.npy", x)
    assert "the data are those of the fit" in output_of(
        capsys, "evaluate", str(tmp_path / "python"), "--data", str(tmp_path / "mine.npy")
    )


def test_samples(fitted, tmp_path, capsys):
    def arrays(*options):
        out = tmp_path / "s.npz"
        output_of(capsys, "sample", str(fitted / "vae"), "--n", "5", "--out", str(out), *options)
        return dict(np.load(out))

    first, again, other, means = arrays(), arrays(), arrays("--seed", "1"), arrays("--mean")
    assert {name: value.shape for name, value in first.items()} == {"z": (5, 2), "x": (5, 64)}
    assert set(np.unique(first["x"])) <= {0.0, 1.0}
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["z"] != other["z"]).any()
    probabilities = ppl_vae.load(fitted / "vae").pair.model.decode(torch.from_numpy(means["z"])).mean
    torch.testing.assert_close(torch.from_numpy(means["x"]), probabilities)


@pytest.mark.slow
def test_third_parties_pairs(tmp_path, monkeypatch, capsys):
    class Theirs(PPCA):
        """No plain description, so only its name in the zoo can build it again."""

    def build(spec, *, latent_dim=2, sort="plain"):
        """A pair of someone else's."""
        assert sort in ("plain", "odd")
        return Pair(Theirs(spec.x_dim, latent_dim), LinearGaussian(spec.x_dim, latent_dim))

    class Entry:
        name = "theirs"
        load = staticmethod(lambda: build)

    monkeypatch.setattr(zoo, "entry_points", lambda group: [Entry] if group == zoo.GROUP else [])
    assert re.search(r"^  theirs +A pair of someone else's\.$", output_of(capsys, "list"), re.MULTILINE)
    folder = str(tmp_path / "theirs")
    words = ("fit", "theirs", "--data", "linear-gaussian", "--pair-option", "sort=odd", "--run-dir", folder)
    output_of(capsys, *words, "--epochs", "1", "--data-option", "num_rows=100")
    assert "linear-gaussian test (N = 10" in output_of(capsys, "evaluate", folder)
    assert "5 samples" in output_of(capsys, "sample", folder, "--n", "5", "--out", str(tmp_path / "s.npz"))
    output_of(capsys, "report", folder, "--out", str(tmp_path / "r.html"), "--num-particles", "10")
    assert "linear-gaussian" in (tmp_path / "r.html").read_text()


def test_a_broken_third_party_hides_nobody(monkeypatch, capsys):
    class Entry:
        name, value = "broken", "their.module:build"

        @staticmethod
        def load():
            raise ImportError("no module named their")

    monkeypatch.setattr(zoo, "entry_points", lambda group: [Entry])
    out = output_of(capsys, "list")
    assert re.search(r"^  broken +cannot be loaded: no module named their$", out, re.MULTILINE)
    assert re.search(r"^  vae +Variational autoencoder", out, re.MULTILINE)
    with pytest.raises(
        InputError, match=r"pair 'broken': expected their\.module:build to import; got no module named their"
    ):
        zoo.build("broken", ppl_vae.data.load("digits").spec)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("fot", "unknown command: expected one of demo, … got 'fot'; try 'fit'"),
        ("--foo", "unknown option: expected one of 'ppl-vae'; got '--foo'; try 'ppl-vae --help'"),
        ("fit", "PAIR: expected a value; got none; try 'ppl-vae fit --help'"),
        ("fit vae --epoch 3", "unknown option: expected one of 'ppl-vae fit'; got '--epoch'; try '--epochs'"),
        ("fit vae --epochs x", "--epochs: expected a valid integer; got 'x'; try 'ppl-vae fit --help'"),
        ("fit vae more", "ppl-vae fit: expected no further argument; got 'more'; try 'ppl-vae fit --help'"),
        (
            "fit vaee",
            "unknown pair: expected one of autoencoder, count-vae, cvae, factor-analysis, hierarchical, m1m2, m2, "
            "ppca, vae; got 'vaee'; try 'vae'",
        ),
        ("fit vae --epochs 0", "--epochs: expected a whole number, 1 or more; got 0"),
        ("fit vae --lr 0", "--lr: expected a positive number; got 0.0; try --lr 1e-3"),
        ("fit vae --latent-dim 0", "--latent-dim: expected an integer >= 1; got 0"),
        ("fit vae --hidden 9,x", "--hidden: … got '9,x'; try --hidden 200,200"),
        ("fit vae --device cuda:77", "--device: … got 'cuda:77'; try --device auto or --device cpu"),
        ("fit vae --dtype float16", "unknown dtype: … got 'float16'; try 'float64'"),
        ("fit vae --schedule cosin", "unknown learning-rate schedule: … got 'cosin'; try 'cosine'"),
        ("fit vae --objective elb", "unknown objective: … got 'elb'; try 'elbo'"),
        ("fit vae --objective-option particles=2", "unknown option of elbo: … got 'particles'; try 'num_particles'"),
        ("fit ppca --hidden 20", "unknown option of ppca: expected one of latent_dim; got 'hidden'"),
        ("fit vae --pair-option foo", "--pair-option: expected KEY=VALUE; got 'foo'; try --pair-option KEY=VALUE"),
        ("fit vae --likelihood bernouli", "unknown likelihood: … got 'bernouli'; try 'bernoulli'"),
        ("fit vae --data digts", "unknown data set: … got 'digts'; try 'digits'"),
        ("fit vae --data no.csv", "no.csv: expected .csv file; got no such file"),
        ("fit vae --binarization dynamik", "unknown binarization: … got 'dynamik'; try 'dynamic'"),
        ("fit vae --data sprites --binarization fixed", "--binarization of sprites: expected 'none'; got 'fixed'"),
        ("fit vae --data-option rows=3", "options of digits: expected none; got 'rows'"),
        ("evaluate no", "no: expected a run folder; got no config.json in it; try another folder"),
        ("sample no", "no: expected a run folder; got no config.json in it; try another folder"),
        ("report no", "no: expected a run folder; got no config.json in it; try another folder"),
        ("evaluate {vae} --method importanc", "unknown method: … got 'importanc'; try 'importance'"),
        ("evaluate {vae} --method exact", "--method 'exact': … got VAE; try --method importance"),
        ("evaluate {vae} --num-particles 0", "--num-particles: … got 0; try --num-particles 1000"),
        ("evaluate {vae} --split tst", "unknown split: … got 'tst'; try 'test'"),
        ("evaluate {vae} --num-data 181", "--num-data: expected 1 to 180, the rows of the test split; got 181"),
        ("sample {vae} --n 0", "--n: expected a whole number, 1 or more; got 0; try --n 64"),
        ("sample {vae} --out s.jpg", "--out: … got 's.jpg'; try --out samples.png"),
        ("fit vae --run-dir {vae}", "--run-dir {vae}: … a run; try --resume, --overwrite or another folder"),
        ("fit vae --resume --run-dir {ppca}", "--run-dir {ppca}: expected pair … try the same settings, …"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(words, line, fitted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    places = {name: str(fitted / name) for name in ("vae", "ppca")}
    said = output_of(capsys, *(word.format(**places) for word in words.split()), code=2)
    assert re.fullmatch(re.escape("error: " + line.format(**places)).replace("…", ".*"), said), said
    assert said.count("; got ") == 1
    assert not Path("runs").exists()


def test_mistakes_with_data_and_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(30, 3))
    np.save("plain.npy", x)
    x[4, 1] = np.nan
    np.save("nan.npy", x)
    Path("half").mkdir()
    Path("half/config.json").write_text('{"pair": ')
    Path("other").mkdir()
    Path("other/config.json").write_text("{}")
    Path("file").write_text("")
    output_of(capsys, "fit", "ppca", "--data", "plain.npy", "--run-dir", "run", "--epochs", "1", "--latent-dim", "1")
    expected = {
        "fit ppca --data nan.npy": "error: x",
        "fit vae --data plain.npy --data-option shape=3": "error: unknown data option of a file: ",
        "fit vae --data plain.npy --architecture conv": "error: --architecture 'conv': expected data with an",
        "fit vae --data plain.npy --run-dir file": "error: file: expected a folder; got a file",
        "sample run --out s.png": "error: --out: expected data with an image shape, for .png; got plain;",
        "sample run --out file/s.npz": "error: writing file/s.npz: expected room and permission to write; got ",
        "evaluate half": "error: half/config.json: expected a JSON file; got ",
        "evaluate other": "error: other/config.json: expected the settings of a fit; got others",
    }  # fmt: skip
    for words, line in expected.items():
        assert output_of(capsys, *words.split(), code=2).startswith(line), words


def test_advice_is_given_in_the_words_of_the_command_line():
    line = (
        "num_particles: expected 1 or more; got 'seed=3; seed=4'; try num_particles=1000, resume=True or patience=None"
    )
    assert as_typed("run: got other bytes; try verify=False") == "run: got other bytes; try --no-verify"
    assert as_typed(line) == (
        "--num-particles: expected 1 or more; got 'seed=3; seed=4'; "
        "try --num-particles 1000, --resume or leaving --patience out"
    )
    assert as_typed("epoch 3: NaN in site 'x'; try a smaller lr, clip_norm, or dtype='float64'") == (
        "epoch 3: NaN in site 'x'; try a smaller lr, --clip-norm, or --dtype float64"
    )


@pytest.mark.slow
def test_a_reader_that_goes_away_does_no_harm(tmp_path):
    for words in (["list"], ["fit", "--help"], ["fit", "ppca", "--run-dir", str(tmp_path / "run"), "--epochs", "1"]):
        process = start(*words)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0
    assert ppl_vae.load(tmp_path / "run").history["epoch"] == [1]


# --- stopping and going on --------------------------------------------------------------------------------------------

LONG = ["fit", "ppca", "--epochs=150", "--latent-dim=2", "--batch-size=512", "--compile=off", "--device=cpu"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run([*LONG, "--run-dir", str(folder)]) == 0
    return folder


def stop(folder, how):
    """Start a fit that checkpoints every epoch, stop it after three of them, and return (exit code, standard error)."""
    process = start(*LONG, "--run-dir", str(folder), "--checkpoint-seconds", "0")
    deadline = time.monotonic() + 60
    while not (folder / "history.csv").exists() or (folder / "history.csv").read_text().count("\n") < 4:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def same(one, other):
    weights, expected = (load_file(folder / "model.safetensors") for folder in (one, other))
    return (
        weights.keys() == expected.keys()
        and all(torch.equal(weights[name], expected[name]) for name in expected)
        and (one / "history.csv").read_text() == (other / "history.csv").read_text()
    )


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(uninterrupted, tmp_path, capsys):
    folder = tmp_path / "run"
    code, err = stop(folder, signal.SIGINT)
    assert code == 130
    said = re.fullmatch(r"stopped: (\d+) epochs are kept in (.*); go on with: (.*)\n", err)
    assert said, err
    assert 3 <= int(said[1]) < 150
    assert len(ppl_vae.load(folder).history["epoch"]) == int(said[1])
    program, *words = shlex.split(said[3])
    assert program == PROGRAM
    assert words[-1] == "--resume"
    output_of(capsys, *words)
    assert same(folder, uninterrupted)


@pytest.mark.slow
def test_a_killed_fit_goes_on_to_the_same_numbers(uninterrupted, tmp_path, capsys):
    folder = tmp_path / "run"
    code, _ = stop(folder, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not same(folder, uninterrupted)
    output_of(capsys, *LONG, "--run-dir", str(folder), "--resume")
    assert same(folder, uninterrupted)


ESTIMATE = "ppl_vae.evaluation.marginal_likelihood"


@pytest.mark.parametrize(
    ("words", "target", "line"),
    [
        ("fit vae", "ppl_vae.data.load", "stopped: nothing was fitted yet; start again with: ppl-vae fit vae"),
        ("evaluate {vae}", f"{ESTIMATE}.log_likelihood", "stopped: no estimate was recorded … evaluate {vae}"),
        ("sample {vae}", "ppl_vae.cli.sampling.write", "stopped: no samples were written; … ppl-vae sample {vae}"),
        ("report {vae}", "ppl_vae.report.run_report", "stopped: no report was written; … ppl-vae report {vae}"),
        ("list", "ppl_vae.zoo.names", "stopped; what was saved before is kept: go on with the same command"),
    ],
)  # fmt: skip
def test_ctrl_c_anywhere_is_one_line(words, target, line, fitted, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(target, interrupt)
    vae = str(fitted / "vae")
    said = output_of(capsys, *words.format(vae=vae).split(), code=130)
    assert re.fullmatch(re.escape(line.format(vae=vae)).replace("…", ".*"), said), said
