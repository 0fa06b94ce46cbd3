"""Several workers under torchrun: the numbers of one, one that writes and speaks, and an end that is clear."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from joint_fits import BATCH, EPOCHS, FITS, Counting, fit, joint, positive
from own_pairs import pair

import ppl_vae
from ppl_vae.core.errors import InputError, RunError
from ppl_vae.objectives import ELBO, BetaTCVAE
from ppl_vae.training.compatibility import check_sums
from ppl_vae.training.distributed import workers
from ppl_vae.training.distributed.gradient_sum import GradientSum
from ppl_vae.training.distributed.workers import Shard, WorkerLostError, Workers, _stoppable, joined

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")

HERE = Path(__file__).parents[2]  # where joint_fits.py stands


def torchrun(*arguments, workers=2):
    """Run a script or a module in several workers, and return what was printed and torchrun's exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300, check=False
    )


def fits(folder, *task):
    return torchrun(HERE / "joint_fits.py", folder, *task)


# --- the numbers of one process ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    done = fits(folder, "equal")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_two_workers_get_what_one_gets(together, name):
    one = fit(name)
    first, second = (torch.load(together / f"{name}-{rank}.pt") for rank in (0, 1))
    rtol = 1e-9 if name == "double" else 1e-4
    assert first["history"].keys() == one.history.keys()
    for column, values in one.history.items():
        torch.testing.assert_close(first["history"][column], values, rtol=rtol / 10, atol=0)
    for key, value in one.pair.state_dict().items():
        # Adam turns a gradient of zero up to rounding into a step of some size.
        torch.testing.assert_close(first["state"][key], value, rtol=rtol, atol=rtol / 10)
        assert torch.equal(second["state"][key], first["state"][key])
    assert second["history"] == first["history"]
    assert first["config"]["step"]["paths"] == one.config["step"]["paths"]
    assert (first["config"]["fit"]["workers"], one.config["fit"]["workers"]) == (2, 1)
    assert (first["writes"], second["writes"], one.writes) == (True, False, True)


@pytest.mark.slow
def test_samplers_that_cannot_be_shared_keep_the_workers_together(together):
    first, second = (torch.load(together / f"gamma-{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first["state"][name], value) for name, value in second["state"].items())
    everything = positive()["x"][:, 0].sort().values
    steps = -(-len(everything) // BATCH)
    for start in range(0, len(first["seen"]), steps):  # in each epoch, each datum is seen by one of them
        seen = torch.cat(first["seen"][start : start + steps] + second["seen"][start : start + steps])
        assert torch.equal(seen.sort().values, everything)


@pytest.mark.slow
def test_one_process_goes_on_with_the_fit_of_two(together, tmp_path):
    ahead = fit("normal recorded", run_dir=together / "normal recorded", resume=True, epochs=EPOCHS + 2)
    whole = fit("normal recorded", epochs=EPOCHS + 2)
    torch.testing.assert_close(ahead.history["train_bound"], whole.history["train_bound"], rtol=1e-5, atol=0)
    assert ahead.config["fit"]["workers"] == 1


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trouble(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trouble")
    done = fits(folder, "trouble")
    assert done.returncode == 0, done.stderr
    return folder, *(json.loads((folder / f"trouble-{rank}.json").read_text()) for rank in (0, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "other data",
            "InputError: worker 1: expected data digest train 9b46554e6fd7 as worker 0 has; got 78ec661cddd3",
        ),
        ("other seed", "InputError: worker 1: expected fit seed 0 as worker 0 has; got 1; try the same program"),
        (
            "run there",
            "expected a new folder; got one that holds a run; try resume=True, overwrite=True or another folder",
        ),
        ("other settings", "expected fit lr 0.001 as in its config.json; got 0.5"),
        ("not finite", "NonFiniteError: epoch 1, step 3: site 'z' of the guide: parameter loc has 2 of 16 values NaN"),
        ("terminated", "KeyboardInterrupt"),
        ("interrupted", "KeyboardInterrupt"),
        ("no disk", "expected room and permission to write; got Not a directory"),
    ],
)
def test_all_workers_end_alike(trouble, name, line):
    _, first, second = trouble
    assert line in first[name]
    assert second[name] == first[name]


@pytest.mark.slow
def test_the_first_worker_warns_and_all_is_as_before(trouble):
    _, first, second = trouble
    assert first["warned"].startswith("the step cannot be recorded")
    assert second["warned"] == ""
    for found in (first, second):
        assert found["handlers"]
        assert found["threads"] == []
        assert found["still there"]
        assert found["group of the program's own"] == pytest.approx(joint().history["train_bound"][-1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["terminated", "interrupted"])
def test_a_signal_to_one_worker_keeps_the_last_whole_epoch(trouble, name):
    folder, *_ = trouble
    assert (
        len(ppl_vae.load(folder / name, pair=pair(1)).history["epoch"]) == 2
    )  # three steps to an epoch, the 8th ended it
    ahead = joint(folder / name, objective=Counting(), resume=True)
    torch.testing.assert_close(ahead.history["train_bound"], joint().history["train_bound"], rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_ends_the_fit_with_a_checkpoint(tmp_path, rank):
    done = fits(tmp_path, "killed", rank)
    assert done.returncode == 1
    line = "workers: expected all 2; got one that is gone; try the same fit with resume=True, from its last checkpoint"
    assert done.stderr.count(line) == 1, done.stderr
    ahead = joint(tmp_path / "run", objective=Counting(), resume=True)
    assert ahead.history["epoch"] == [1, 2, 3, 4, 5]
    torch.testing.assert_close(ahead.history["train_bound"], joint().history["train_bound"], rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lost", "busy"])
def test_the_command_ends_soon_after_a_worker_is_killed(tmp_path, kind):
    """The other one meets the loss at the next sum or, in the middle of something long, follows torchrun's signal."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    fit = [HERE / "joint_fits.py", tmp_path, kind]
    with subprocess.Popen([*command, *map(str, fit)], stderr=subprocess.PIPE, text=True, env=environment) as running:
        try:
            marks = [tmp_path / f"pid-{rank}" for rank in (0, 1)]
            until(lambda: all(mark.is_file() and mark.read_text() for mark in marks))
            os.kill(int(marks[1].read_text()), signal.SIGKILL)
            killed = time.monotonic()
            stderr = running.communicate(timeout=120)[1]
        finally:
            running.kill()
    assert time.monotonic() - killed < 60  # 33 s in the middle of something long before; 8 s on idle cores now
    assert running.returncode == 1
    assert "forcefully exiting" not in stderr, stderr  # torchrun's own SIGKILL
    assert len(ppl_vae.load(tmp_path / "run", pair=pair(1)).history["epoch"]) == 2  # of which one step in three


def until(found, seconds=120):
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_runs_unchanged(tmp_path):
    words = ("-m", "ppl_vae", "fit", "ppca", "--epochs", "1", "--latent-dim", "2", "--device", "cpu")
    done = torchrun(*words, "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ppca", "validation", "next:"]
    assert ppl_vae.load(tmp_path / "run").config["fit"]["workers"] == 2
    again = torchrun(*words, "--run-dir", tmp_path / "run")
    mistakes = [line for line in again.stderr.splitlines() if line.startswith("error: ")]
    assert len(mistakes) == 1, again.stderr
    assert mistakes[0].endswith(
        "expected a new folder; got one that holds a run; try --resume, --overwrite or another folder"
    )
    assert again.stderr.count("exitcode  : 2") + again.stderr.count("exitcode  : -15") == 2


# --- parts ------------------------------------------------------------------------------------------------------------


class Two(Workers):
    """The first of two workers, whose sums and exchanges are with the other one given."""

    def __init__(self, other):
        super().__init__(0, 2)
        self.other = other

    def sum(self, tensor):
        return tensor.add_(self.other(tensor))


def test_gradients_are_summed_at_once():
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (), (4,))]
    calls = []

    def other(flat):  # it has a gradient of the second parameter alone
        calls.append(len(flat))
        return torch.tensor([0.0] * 6 + [5.0] + [0.0] * 4 + [10.0, 0.0] + [0.0, 1.0, 0.0][: max(0, len(flat) - 13)])

    add = GradientSum(Two(other), parameters)
    parameters[0].grad = torch.ones(2, 3)
    assert add(torch.tensor(1.0)) == 11.0
    assert torch.equal(parameters[0].grad, torch.ones(2, 3))
    assert parameters[1].grad == 5.0
    assert parameters[2].grad is None  # no worker ever had one
    parameters[0].grad, parameters[1].grad, parameters[2].grad = None, torch.tensor(2.0), torch.full((4,), 3.0)
    assert add(2.0) == 12.0
    assert torch.equal(parameters[0].grad, torch.zeros(2, 3))
    assert parameters[1].grad == 7.0
    assert torch.equal(parameters[2].grad, torch.full((4,), 3.0))
    assert calls == [16, 16]
    add(0.0)
    assert calls[-1] == 13  # all parameters have had a gradient: nothing more is asked


def test_a_worker_alone_does_nothing_of_the_kind(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as alone:
        assert (alone.rank, alone.count, alone.is_first) == (0, 1, True)
        assert alone.shard(5) == Shard.whole(5)
        assert alone.device("cuda:7") == "cuda:7"
        assert alone.gather("x") == ["x"]
        alone.align([torch.ones(1)], torch.device("cpu"))
    assert not torch.distributed.is_initialized()


def test_signals_are_noted_and_handed_on(monkeypatch):
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        two = Two(None)
        with _stoppable(two):
            os.kill(os.getpid(), signal.SIGTERM)
            assert two.stop == signal.SIGTERM
            assert not came
        assert came == [signal.SIGTERM]  # the fit was over before it looked
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
        with pytest.raises(WorkerLostError), _stoppable(Two(None)):
            raise WorkerLostError
        os.kill(os.getpid(), signal.SIGTERM)  # torchrun's, for this very loss
        assert came == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_no_exchange_follows_stops_the_worker_by_itself(monkeypatch):
    monkeypatch.setattr(workers, "GRACE", 0.1)
    before = signal.getsignal(signal.SIGTERM)
    two, ended = Two(None), []

    def busy():
        with _stoppable(two):
            os.kill(os.getpid(), signal.SIGTERM)
            assert two.stop == signal.SIGTERM
            time.sleep(20)

    def saving():
        with _stoppable(two):
            os.kill(os.getpid(), signal.SIGTERM)
            try:
                two.interrupt()  # followed in time
            finally:
                time.sleep(0.3)  # a checkpoint is written
                ended.append(True)

    for program in (busy, saving):
        with pytest.raises(KeyboardInterrupt):
            program()
        assert signal.getsignal(signal.SIGTERM) is before
    assert ended


def test_a_promise_of_workers_without_a_place_to_meet(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    expected = "WORLD_SIZE=2: expected RANK, MASTER_ADDR and MASTER_PORT beside it in the environment; got no RANK, "
    with pytest.raises(InputError, match=expected), joined():
        pass


def test_workers_that_do_not_meet(monkeypatch):
    environment = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "no port"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=r"workers: expected 2 to meet; got .*; try torchrun --standalone"), joined():
        pass


def sees(monkeypatch, name, *seen, ours=True):
    """The device of each worker, of those that see GPUs so called, or the error of all."""
    monkeypatch.delenv("PPL_VAE_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = []
    for rank, mine in enumerate(seen):
        monkeypatch.setattr(torch.cuda, "device_count", lambda mine=mine: len(mine))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i, mine=mine: SimpleNamespace(uuid=mine[i]))
        worker = Workers(rank, len(seen), ours=ours)

        def gather(value, mine=mine):
            assert value == (list(mine) if name != "cpu" else [])
            return [list(theirs) if name != "cpu" else [] for theirs in seen]

        monkeypatch.setattr(worker, "gather", gather)
        try:
            found.append(worker.device(name))
        except InputError as error:
            found.append(str(error))
    return found if len(set(found)) > 1 or "expected" not in found[0] else found[0]


@pytest.mark.parametrize(
    ("name", "seen", "devices"),
    [
        ("auto", ["AB", "AB"], ["cuda:0", "cuda:1"]),  # torchrun
        ("cuda", ["ABCD", "ABCD"], ["cuda:0", "cuda:1"]),
        ("auto", ["AB", "AB", "CD", "CD"], ["cuda:0", "cuda:1"] * 2),  # on two machines
        ("auto", ["A", "B", "C", "D"], ["cuda:0"] * 4),  # SLURM: one GPU per task
        ("cuda:0", ["A", "B"], ["cuda:0"] * 2),
        ("cuda:1", ["AB", "CD"], ["cuda:1"] * 2),
        ("cpu", ["A", "A"], ["cpu"] * 2),
        ("auto", ["", ""], ["auto"] * 2),
    ],
)
def test_each_worker_has_its_gpu(monkeypatch, name, seen, devices):
    assert sees(monkeypatch, name, *seen) == devices


def test_a_group_of_the_programs_own_may_share_a_gpu_that_is_named(monkeypatch):
    assert sees(monkeypatch, "cuda:0", "AB", "AB", ours=False) == ["cuda:0"] * 2


@pytest.mark.parametrize(
    ("name", "seen", "count"),
    [
        ("auto", ["A", "A"], 1),
        ("cuda:0", ["AB", "AB"], 2),
        ("auto", ["A", ""], 1),
        ("auto", ["A", "AB"], 2),
        ("cuda:1", ["A", "B"], 2),
    ],
)
def test_too_few_gpus(monkeypatch, name, seen, count):
    line = f"device: expected a GPU for each of the 2 workers that fit together; got '{name}' and {count}; try {count} "
    assert sees(monkeypatch, name, *seen).startswith(line)


@pytest.mark.parametrize(
    ("objective", "got"), [(ELBO(free_bits=0.1), "ELBO with free bits"), (BetaTCVAE(33), "BetaTCVAE")]
)
def test_what_looks_at_a_whole_batch_takes_one_worker(objective, got):
    check_sums(objective, 1)
    with pytest.raises(InputError, match=f"one whose loss is a sum over the data; got {got}; try one worker"):
        check_sums(objective, 2)
