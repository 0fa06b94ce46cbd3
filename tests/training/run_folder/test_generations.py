"""What a run folder keeps, whatever comes: kills between two files, other writers, changed bytes, runs in the way."""

import json
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from run_folders import contents, fit, ours, same, state
from tiers import fast_in

import ppl_vae
from ppl_vae import InputError, RunError
from ppl_vae.core import files
from ppl_vae.training.run_folder import checksums
from ppl_vae.training.run_folder.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


# -- one generation ---------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What ends a fit between two writes, as a kill would: nothing of the library catches it."""


@pytest.mark.parametrize("moment", fast_in({6}, range(14)))
def test_parameters_and_history_are_of_one_epoch_wherever_a_kill_comes(folder, tmp_path, monkeypatch, moment):
    epochs = {0: state(ours())}  # by epoch, the parameters an undisturbed fit has
    for number in range(1, 4):
        epochs[number] = state(fit(tmp_path / str(number), epochs=number).pair)
    write, left = files.write_bytes, [moment + 3]  # the first three are checksums, environment and settings

    def write_until_killed(path, content):
        if not left[0]:
            raise Killed
        left[0] -= 1
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", write_until_killed)
        with pytest.raises(Killed):
            fit(folder, epochs=3)
    if not (folder / "model.safetensors").exists():
        assert moment < 3
        with pytest.raises(RunError, match="before its first checkpoint"):
            ppl_vae.load(folder)
    elif not (folder / "timing.csv").exists():
        with pytest.raises(
            RunError, match=r"expected whole files; got no (history|timing).csv; try fit with resume=Tr"
        ):
            ppl_vae.load(folder)
    else:
        run = ppl_vae.load(folder)
        assert same(state(run.pair), epochs[len(run.history.get("epoch", []))])
    last = fit(folder, epochs=3, resume=True)
    assert same(state(last.pair), epochs[3])
    assert ppl_vae.load(folder).history == last.history


def test_runs_of_before_there_were_checksums_load(folder):
    """Such a folder has no checksums, and no history in the header of its parameters."""
    run = fit(folder)
    (folder / "checksums.json").unlink()
    path = folder / "model.safetensors"
    import safetensors.torch

    path.write_bytes(safetensors.torch.save(safetensors.torch.load(path.read_bytes())))
    back = ppl_vae.load(folder)
    assert back.history == run.history
    assert same(state(back.pair), state(run.pair))
    assert len(fit(folder, resume=True, epochs=3).history["epoch"]) == 3


def test_a_missing_checkpoint_is_refused_and_nothing_is_lost(folder):
    fit(folder)
    (folder / "resume.pt").unlink()
    before = contents(folder)
    line = (
        r"resume.pt: expected the checkpoint to go on from; got none beside model.safetensors; try another run_dir, or"
    )
    with pytest.raises(RunError, match=line):
        fit(folder, resume=True, epochs=9)
    with pytest.raises(InputError, match="got one that holds a run"):
        fit(folder)
    assert contents(folder) == before


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_numbers_of_numpy_leave_a_run_that_can_be_read(folder):
    numbers = {"history": {"epoch": [np.int64(1), 2], "lr": [np.float64(1e-3), np.float32(0.5)]}, "timing": {}}
    RunFolder(folder).checkpoint(numbers, {"a": torch.zeros(2)})
    assert (folder / "history.csv").read_text() == "epoch,lr\n1,0.001\n2,0.5\n"
    files.write_json(folder / "a.json", {"a": [np.float64(1.5), np.int64(2), np.bool_(True), np.float32("nan")]})
    assert files.read_json(folder / "a.json") == {"a": [1.5, 2, True, None]}


# -- checksums --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "history.csv", "timing.csv", "config.json", "environment.json"])
def test_a_flipped_byte_is_seen_wherever_it_is(folder, name):
    run = fit(folder)
    whole = (folder / name).read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 40)):
        changed = bytearray(whole)
        changed[position] ^= 4
        (folder / name).write_bytes(changed)
        with pytest.raises(RunError) as caught:
            ppl_vae.load(folder)
        assert "\n" not in str(caught.value)
    (folder / name).write_bytes(whole)
    assert same(state(ppl_vae.load(folder).pair), state(run.pair))


@pytest.mark.slow
def test_a_flipped_byte_of_the_checkpoint_is_seen(folder):
    fit(folder)
    whole = (folder / "resume.pt").read_bytes()
    for position in range(0, len(whole), len(whole) // 40):
        changed = bytearray(whole)
        changed[position] ^= 4
        (folder / "resume.pt").write_bytes(changed)
        with pytest.raises(RunError, match=r"expected (whole files|a whole checkpoint|an? ).*; try"):
            fit(folder, resume=True, epochs=3)


def test_files_changed_by_hand_are_read_where_that_is_asked_for(folder):
    fit(folder)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"name": "small"', '"name": "smaller"'))
    line = (
        r"expected whole files; got config.json with other bytes than were written \(SHA-256\); try another copy of it"
    )
    with pytest.raises(RunError, match=line + ", or verify=False"):
        ppl_vae.load(folder)
    assert ppl_vae.load(folder, verify=False).config["data"]["name"] == "smaller"


@pytest.mark.parametrize("text", ["{", "[]", '{"config.json": "abc"}', '{"config.json": [1]}'])
def test_checksums_that_are_none(folder, text):
    fit(folder)
    (folder / "checksums.json").write_text(text)
    with pytest.raises(RunError, match=r"checksums.json: expected .*; got .*; try "):
        ppl_vae.load(folder)
    ppl_vae.load(folder, verify=False)


# -- several writers --------------------------------------------------------------------------------------------------


class Estimate:
    """Something to record."""

    def __init__(self, seed):
        self.seed = seed

    def to_json(self):
        numbers = dict.fromkeys(("num_particles", "mean", "standard_error", "data_standard_error"))
        data = {"name": "small", "role": "test", "size": 3, "binarization": "none", "digest": "0"}
        return {"method": "exact", "seed": self.seed, "caution": "", "data": data} | numbers


def record(folder, seeds):
    run = ppl_vae.load(folder)
    for seed in seeds:
        run.record(Estimate(seed))


def test_estimates_recorded_at_once_are_all_kept(folder):
    fit(folder)
    runs = [ppl_vae.load(folder) for _ in range(4)]
    starts = range(0, 40, 10)
    threads = [
        threading.Thread(target=lambda run=run, start=start: [run.record(Estimate(start + i)) for i in range(8)])
        for run, start in zip(runs, starts, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seeds = [each["seed"] for each in ppl_vae.load(folder).evaluation]
    assert sorted(seeds) == [start + number for start in starts for number in range(8)]
    assert [seed for seed in seeds if seed < 10] == list(range(8))  # each writer's own in their order


@pytest.mark.slow
def test_estimates_recorded_by_several_processes_are_all_kept(folder):
    fit(folder)
    start = multiprocessing.get_context("spawn")
    processes = [start.Process(target=record, args=(folder, range(first, first + 10))) for first in (0, 10, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(each["seed"] for each in ppl_vae.load(folder).evaluation) == list(range(30))


def hold_a_partial_file(folder, ready):
    handle, _ = files._temporary(folder / "evaluation.json")
    ready.set()
    time.sleep(600)
    os.close(handle)


@pytest.mark.slow
def test_what_a_living_writer_has_open_is_left_alone(folder):
    fit(folder)
    start = multiprocessing.get_context("spawn")
    ready = start.Event()
    writer = start.Process(target=hold_a_partial_file, args=(folder, ready), daemon=True)
    writer.start()
    assert ready.wait(60)
    fit(folder, resume=True)
    assert len(list(folder.glob("*.partial"))) == 1
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    fit(folder, resume=True)
    assert not list(folder.glob("*.partial"))


def test_an_estimate_that_does_not_fit_the_disk_leaves_the_ones_before(folder, monkeypatch):
    run = fit(folder)
    run.record(Estimate(1))

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="No space left on device"):
            run.record(Estimate(2))
    assert [each["seed"] for each in ppl_vae.load(folder).evaluation] == [1]
    run.record(Estimate(3))
    assert [each["seed"] for each in ppl_vae.load(folder).evaluation] == [1, 3]


def test_a_fit_that_enters_late_finds_the_run(folder, monkeypatch):
    """Between its look at the folder and its lock another fit has come and gone."""
    lock = files.lock

    def lock_late(path):
        monkeypatch.setattr(files, "lock", lock)
        fit(folder, seed=5)
        return lock(path)

    monkeypatch.setattr(files, "lock", lock_late)
    with pytest.raises(InputError, match="got one that holds a run"):
        fit(folder, seed=6)
    assert ppl_vae.load(folder).config["fit"]["seed"] == 5


def test_a_writer_that_never_ends_is_named(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.setattr(files, "_PATIENCE", 0.05)
    with (
        files.locked(folder),
        pytest.raises(RunError, match=r"expected writers to take turns; got one that writes for .*; try again, or"),
        files.locked(folder),
    ):
        pass


# -- runs in the way --------------------------------------------------------------------------------------------------


def test_overwrite_starts_anew(folder):
    first = fit(folder, seed=1)
    first.record(Estimate(1))
    (folder / "figures").mkdir()
    (folder / "figures" / "old.png").write_bytes(b"old")
    (folder / "notes.txt").write_text("mine")
    second = fit(folder, seed=2, overwrite=True)
    assert second.config["fit"]["seed"] == ppl_vae.load(folder).config["fit"]["seed"] == 2
    assert second.evaluation == []
    assert not (folder / "figures").exists()
    assert (folder / "notes.txt").read_text() == "mine"
    assert not same(state(first.pair), state(second.pair))
    fit(folder.with_name("new"), overwrite=True)  # where nothing is in the way it changes nothing


def test_overwrite_leaves_the_run_until_all_is_checked(folder):
    fit(folder)
    before = contents(folder)
    for wrong in (
        {"lr": -1.0},
        {"given": {"x": torch.zeros(20, 3)}},
        {"patience": 3, "given": {"x": torch.zeros(9, 8)}},
    ):
        with pytest.raises(InputError):
            fit(folder, overwrite=True, **wrong)
    with pytest.raises(InputError, match="overwrite: expected resume or overwrite; got both; try one of them"):
        fit(folder, overwrite=True, resume=True)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "name", fast_in({"resume.pt"}, ["config.json", "resume.pt", "model.safetensors", "history.csv"])
)
def test_overwrite_of_a_broken_run(folder, name):
    fit(folder)
    (folder / name).write_bytes(b"\x00")
    with pytest.raises((RunError, InputError)):
        fit(folder)
    fit(folder, overwrite=True)
    ppl_vae.load(folder)


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_a_fit_that_died_in_its_first_epoch_is_not_in_the_way(folder, monkeypatch, how):
    from ppl_vae.training.trainer import Trainer

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            fit(folder, lr=0.5)
    assert (folder / "resume.pt").exists()
    assert fit(folder, lr=0.01, **how).config["fit"]["lr"] == 0.01
    assert len(ppl_vae.load(folder).history["epoch"]) == 2


def test_checksums_stay_true_after_a_kill_between_two_files(tmp_path, monkeypatch):
    writer = checksums.Checksums(tmp_path)
    for number in range(3):
        writer.write({"a": b"a%d" % number, "b": b"b%d" % number})
    write = files.write_bytes

    def not_b(path, content):
        if path.name == "b":
            raise Killed
        write(path, content)

    for number in (7, 8, 9):  # killed again and again, by a process of its own each time
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_bytes", not_b)
            with pytest.raises(Killed):
                checksums.Checksums(tmp_path).write({"a": b"a%d" % number, "b": b"b%d" % number})
        found = contents(tmp_path)
        assert (found["a"], found["b"]) == (b"a%d" % number, b"b2")
        checksums.check(tmp_path, {name: found[name] for name in ("a", "b")})
    with pytest.raises(RunError):
        checksums.check(tmp_path, {"a": b"a0"})
    assert all(len(known) <= 2 for known in json.loads((tmp_path / "checksums.json").read_text()).values())
