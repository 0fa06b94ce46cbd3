"""Fit, be killed, go on: ``python killed_fits.py FOLDER KILLS COMPILE SIGNAL`` prints what happened as JSON.

Fits run in forks of this process, which has imported everything, so that a kill costs no import. `FOLDER/whole` is left
to run; `FOLDER/killed` is killed at `KILLS` random moments, and goes on each time.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from pairs import PAIRS

import ppl_vae

EPOCHS = 60
INTERRUPTED = 130


def fit(folder, compile):
    model, guide = PAIRS["ppca-linear"].build()
    pair = ppl_vae.Pair(model, guide)
    data = PAIRS["ppca-linear"].batch(60)
    options = {"lr": 0.02, "kl_warmup": 30, "schedule": "cosine", "clip_norm": 1.0, "compile": compile}
    where = {"run_dir": folder, "resume": True, "checkpoint_seconds": 0, "progress": False}
    ppl_vae.fit(pair, data, epochs=EPOCHS, batch_size=16, **options, **where)


def start(folder, compile):
    """Fit in a fork of this process, and return its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            fit(folder, compile)
            code = 0
        except KeyboardInterrupt:
            code = INTERRUPTED
        finally:
            os._exit(code)
    return child


def epochs(folder):
    """How many epochs the checkpoint holds."""
    path = folder / "resume.pt"
    return len(torch.load(path, weights_only=True)["history"].get("epoch", [])) if path.exists() else 0


def saved(folder):
    """How many epochs the history tells, read without disturbing the fit; -1 before there is one."""
    path = folder / "history.csv"
    return path.read_text().count("\n") - 1 if path.exists() else -1


def wait(child, seconds=60.0, until=lambda: False):
    """Wait for a fork to end, and return its exit code, or None once so many seconds are over, or `until` is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    return None


def main(folder, kills, compile, number):
    """Run the fit that is left alone, then the one that is not."""
    folder, number = Path(folder), signal.Signals[number]
    # Tests run in the background of a shell ignore the keyboard's signal, and this process inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fit(folder / "warm", compile)  # what torch imports on first use, it imports here
    started = time.monotonic()
    assert wait(start(folder / "whole", compile)) == 0
    whole = time.monotonic() - started
    random.seed(0)
    reached, codes = [], []
    # By how far the fit has come and not by the clock, so that a busy machine moves no kill to before or after it.
    for target in sorted(random.randrange(EPOCHS - 20) for _ in range(int(kills))):
        child = start(folder / "killed", compile)
        code = wait(child, until=lambda target=target: saved(folder / "killed") >= target)
        if code is None:
            code = wait(child, random.uniform(0.0, 2 * whole / EPOCHS))
        if code is None:
            os.kill(child, number)
            code = wait(child)
        codes.append(code)
        reached.append(epochs(folder / "killed"))
    code = wait(start(folder / "killed", compile))
    print(json.dumps({"codes": codes, "reached": reached, "last": code, "seconds": whole}))


if __name__ == "__main__":
    main(*sys.argv[1:])
