"""A fit that is killed, however often and whenever: nothing is lost, and it goes on to the very bits of one left alone.

Two hundred kills at random moments, and one right before each change to the folder.
"""

from __future__ import annotations

import random
import signal
from itertools import count

import pytest
import torch
from killed_fits import (
    EPOCHS,
    INTERRUPTED,
    Fit,
    command,
    dying,
    estimate,
    estimates,
    make_data,
    moments,
    record,
    saved,
    start,
    start_command,
    stop,
    wait,
    witness,
)

import ppl_vae

pytestmark = pytest.mark.slow

PATIENCE = 3
#: Seconds over which moments are spread: from the start of a process to its first checkpoint, and from one to the next.
STARTING = {"off": 0.3, "graph": 1.0}
AN_EPOCH = 0.04
A_ROUND = 6  # kills, at most, of one fit


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "numbers.csv")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data):
    """Return the witness of a fit, made once."""
    made = {}

    def of(fit):
        if (fit.compile, fit.patience) not in made:
            made[fit.compile, fit.patience] = witness(fit, tmp_path_factory.mktemp("witness"))
        return made[fit.compile, fit.patience]

    return of


def reached(folder, seen):
    """Return how many epochs `load` finds, -1 before the first checkpoint; its parameters must be theirs."""
    try:
        run = ppl_vae.load(folder)
    except ppl_vae.RunError as error:
        return -1 if "\n" not in str(error) else pytest.fail(f"expected one line, got {error}")
    epochs = len(run.history.get("epoch", []))
    assert run.history == seen.history_of(epochs)
    assert_same(run.pair.state_dict(), seen.kept(epochs))
    return epochs


def assert_same(state, other):
    assert state.keys() == other.keys()
    assert [name for name in state if not torch.equal(state[name], other[name])] == []


def assert_whole(folder, seen, evaluation=()):
    """See that a fit that came to its end is the one that was left alone, and that nothing half-written stays."""
    run = ppl_vae.load(folder)
    assert run.history == seen.history
    assert_same(run.pair.state_dict(), seen.kept(len(seen.history["epoch"])))
    assert estimates(folder) == list(evaluation)
    assert [path.name for path in folder.rglob("*.partial")] == []


def begin(door, fit, folder):
    if door == "command":
        return start_command(*fit.words(folder))
    return start(fit.from_python if door == "python" else fit.from_shell, folder)


def attack(folder, door, fit, seen, seed, kills):
    """Kill a fit in `folder` at so many random moments, then let it end; return how many kills met it running."""
    numbers, met, before, evaluation = random.Random(seed), 0, -1, []
    for epochs, part in moments(seed, kills, len(seen.history["epoch"])):
        early = epochs < 0 or numbers.random() < 0.25  # as it starts, or goes on, or records its steps
        target = -1 if early else max(epochs, saved(folder) + 1)
        process = begin(door, fit, folder)
        seconds = part * (STARTING[fit.compile] if early else AN_EPOCH)
        code = stop(process, lambda target=target: saved(folder) >= target, seconds)
        if code == 0:  # too fast for this moment, and there is none after it
            break
        assert code == -signal.SIGKILL
        met += 1
        at_least = max(before, saved(folder) or -1)  # without an epoch in it, the first checkpoint may not be whole
        before = reached(folder, seen)
        assert before >= at_least  # nothing that was saved is lost
        if before >= 0:
            assert estimates(folder) == evaluation
            if numbers.random() < 0.3:
                run = ppl_vae.load(folder)
                run.record(estimate(run.pair, met))
                evaluation.append(met)
    assert wait(begin(door, fit, folder)) == 0
    assert_whole(folder, seen, evaluation)
    return met


@pytest.mark.parametrize(
    ("door", "compile", "patience", "kills"),
    [
        ("python", "off", None, 42),
        ("python", "off", PATIENCE, 42),
        ("python", "graph", None, 12),
        ("python", "graph", PATIENCE, 12),
        ("shell", "off", None, 40),
        ("shell", "off", PATIENCE, 40),
        ("shell", "graph", None, 5),
        ("shell", "graph", PATIENCE, 5),
        ("command", "off", None, 2),
    ],
)
def test_killed_at_random_moments(tmp_path, data, undisturbed, door, compile, patience, kills):
    fit = Fit(data, compile, patience)
    seen, met = undisturbed(fit), 0
    assert len(seen.history["epoch"]) < EPOCHS or not patience
    for seed in range(10 * kills):  # a machine that stalls lets some fits end before their moment
        if met == kills:
            return
        met += attack(tmp_path / str(seed), door, fit, seen, seed, min(A_ROUND, kills - met))
    pytest.fail(f"expected {kills} kills of a fit that runs, got {met}")


@pytest.mark.parametrize("patience", [None, PATIENCE])
def test_killed_before_each_change_to_the_folder(tmp_path, data, undisturbed, patience):
    seen, fit = undisturbed(Fit(data, patience=patience)), Fit(data, patience=patience, epochs=2)
    before = -1
    for change in count():
        folder = tmp_path / str(change)
        code = wait(start(dying, folder, change, fit.from_python, folder))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        epochs = reached(folder, seen)
        assert epochs >= before, change
        before = epochs
        assert wait(start(fit.from_python, folder)) == 0
        assert reached(folder, seen) == 2
        assert [path.name for path in folder.rglob("*.partial")] == []
    assert before == 2
    assert change >= 2 * (2 + 3 * 2)  # settings, and at least parameters and history after each of 0, 1, 2 epochs


def test_interrupted_from_the_keyboard(tmp_path, data, undisturbed):
    fit, folder = Fit(data), tmp_path / "run"
    seen, codes = undisturbed(fit), []
    for epochs, part in moments(1, 4, EPOCHS - 4):
        target = max(epochs, saved(folder) + 1)  # a process that has not begun its work knows no Ctrl-C
        process = start(fit.from_python, folder)
        codes.append(stop(process, lambda target=target: saved(folder) >= target, part * AN_EPOCH, signal.SIGINT))
        if codes[-1] == 0:  # a machine that stalls lets a fit end before its moment, and there is none after it
            break
        assert reached(folder, seen) >= target
    assert INTERRUPTED in codes
    assert set(codes) <= {INTERRUPTED, 0}
    assert wait(start(fit.from_python, folder)) == 0
    assert_whole(folder, seen)


def test_killed_while_estimates_are_recorded(tmp_path, data, undisturbed):
    fit, folder, reported = Fit(data, epochs=2), tmp_path / "run", tmp_path / "reported"
    assert wait(start(fit.from_python, folder)) == 0
    for seed in range(20):
        numbers, before = random.Random(seed), len(estimates(folder))
        reported.write_text("")
        target = before + numbers.randrange(1, 5)
        process = start(record, folder, reported)
        assert stop(process, lambda target=target: f"{target}\n" in reported.read_text(), 0.005 * numbers.random()) < 0
        recorded = estimates(folder)
        assert recorded == list(range(len(recorded)))
        assert len(recorded) - int(reported.read_text().split()[-1]) in (0, 1)  # what was said to be recorded is
    assert wait(start(fit.from_python, folder)) == 0
    assert [path.name for path in folder.rglob("*.partial")] == []
    assert estimates(folder) == recorded


def test_killed_before_each_change_by_an_evaluation(tmp_path, data):
    fit, folder = Fit(data, epochs=1), tmp_path / "run"
    assert wait(start(fit.from_shell, folder)) == 0
    ends = []
    for change in count():
        before = ppl_vae.load(folder).evaluation
        code = wait(start(dying, folder, change, command, "evaluate", str(folder), "--device", "cpu"))
        after = ppl_vae.load(folder).evaluation
        assert after[: len(before)] == before
        ends.append((code, len(after) - len(before)))
        if code == 0:
            break
    assert ends[-1] == (0, 1)
    assert set(ends[:-1]) <= {(-signal.SIGKILL, 0), (-signal.SIGKILL, 1)}
    assert len(ends) > 2
    assert wait(start(fit.from_shell, folder)) == 0
    assert [path.name for path in folder.rglob("*.partial")] == []
