"""A fit that is killed, however often and whenever, and goes on, gives the very bytes of one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from killed_fits import EPOCHS, INTERRUPTED
from own_pairs import batch, pair

import ppl_vae
from ppl_vae.objectives import ELBO


def killed(folder, kills, compile, number):
    """Run `killed_fits.py` in a process of its own and return what it tells."""
    script = Path(__file__).with_name("killed_fits.py")
    command = [sys.executable, str(script), str(folder), str(kills), compile, number]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_same_bytes(folder):
    for name in ("model.safetensors", "history.csv"):
        assert (folder / "killed" / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
    left = {path.name for path in (folder / "killed").iterdir()}
    assert left == {path.name for path in (folder / "whole").iterdir()}  # no half-written file stays behind


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "compile"), [(20, "off"), (8, "graph")])
def test_killed_at_random_moments(tmp_path, kills, compile):
    told = killed(tmp_path, kills, compile, "SIGKILL")
    assert told["last"] == 0
    assert told["reached"] == sorted(told["reached"])  # nothing that was saved is lost
    # A machine that stalls may let some end before their moment; most must have been killed on the way.
    in_the_middle = [n for n, code in zip(told["reached"], told["codes"], strict=True) if code == -signal.SIGKILL]
    assert len(in_the_middle) >= 0.6 * kills, told
    assert {n for n in in_the_middle if 0 < n < EPOCHS}, told
    assert_same_bytes(tmp_path)


@pytest.mark.slow
def test_interrupted_from_the_keyboard(tmp_path):
    told = killed(tmp_path, 4, "off", "SIGINT")
    assert told["last"] == 0
    assert INTERRUPTED in told["codes"], told
    assert set(told["codes"]) <= {INTERRUPTED, 0}
    assert_same_bytes(tmp_path)


class Interrupting(ELBO):
    """The bound of a user who presses Ctrl-C in a certain step."""

    recordable = False
    press = 0

    def differentiable_loss(self, model, guide, **kwargs):
        Interrupting.press -= 1
        if Interrupting.press == 0:
            raise KeyboardInterrupt
        return super().differentiable_loss(model, guide, **kwargs)


@pytest.mark.parametrize("step", [1, 3, 4, 8])  # three steps to an epoch
def test_interrupt_keeps_the_last_whole_epoch(tmp_path, step):
    def fit(mine, epochs, **options):
        return ppl_vae.fit(
            mine, batch(20), batch_size=8, epochs=epochs, objective=Interrupting(), progress=False, **options
        )

    Interrupting.press = step
    mine, folder = pair(), tmp_path / "run"
    start = {name: value.clone() for name, value in mine.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        fit(mine, 5, run_dir=folder, checkpoint_seconds=1000)
    done = (step - 1) // 3
    kept = ppl_vae.load(folder, pair=pair(1))
    assert len(kept.history.get("epoch", [])) == done
    whole = fit(pair(), done).pair.state_dict() if done else start
    for state in (mine.state_dict(), kept.pair.state_dict()):
        assert all(torch.equal(state[name], whole[name]) for name in whole)
    last = fit(pair(1), 5, run_dir=folder, resume=True)
    reference = fit(pair(), 5)
    assert last.history == reference.history
    assert torch.equal(*(run.pair.model.net.weight for run in (last, reference)))
