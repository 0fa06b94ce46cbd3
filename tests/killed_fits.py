"""Fits and estimates in processes that can be killed, and what an undisturbed fit of the same settings goes through.

Processes are forked from a server that has imported everything and computed nothing: a kill costs no import, and none
of them inherits a thread of autograd's.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import ppl_vae

SERVER = multiprocessing.get_context("forkserver")
#: What a fit imports on its way, beside what these do.
SERVER.set_forkserver_preload(
    [
        *(
            "ppl_vae.fit",
            "ppl_vae.zoo",
            "ppl_vae.cli.source",
            "ppl_vae.training.fit",
            "ppl_vae.evaluation.marginal_likelihood",
        ),
        *("torch._dynamo", "torch._inductor.fx_passes.dedupe_symint_uses", "torch.distributed", "torch.onnx"),
        *("torch.fx.experimental.proxy_tensor", "torch.profiler", "torch.utils.serialization", "numpy.ctypeslib"),
    ]
)

EPOCHS = 12
STEPS = 4  # in an epoch
INTERRUPTED = 130
Process = multiprocessing.process.BaseProcess | subprocess.Popen


@dataclass(frozen=True)
class Fit:
    """Settings of a fit of PPCA to the numbers of a file."""

    data: Path
    compile: Literal["off", "graph"] = "off"
    patience: int | None = None
    epochs: int = EPOCHS

    def from_python(self, folder: Path | None, **options: Any) -> ppl_vae.Run:
        """Fit by the API."""
        data = ppl_vae.data.from_tensors(self.data, name=self.data.stem)
        pair = ppl_vae.zoo.build("ppca", data.spec, seed=0, latent_dim=2)
        if made := options.get("optimizer"):
            options |= {"optimizer": lambda parameters, lr: made(pair, parameters, lr)}
        options |= {"epochs": self.epochs, "compile": self.compile, "patience": self.patience, "device": "cpu"}
        options |= {"batch_size": 16, "lr": 0.2, "kl_warmup": 2.0, "clip_norm": 5.0}
        return ppl_vae.fit(pair, data, run_dir=folder, resume=True, checkpoint_seconds=0, progress=False, **options)

    def words(self, folder: Path) -> list[str]:
        """Return the same as a command."""
        options = {"epochs": self.epochs, "compile": self.compile, "device": "cpu", "latent-dim": 2, "batch-size": 16}
        options |= {"lr": 0.2, "kl-warmup": 2.0, "clip-norm": 5.0, "checkpoint-seconds": 0, "data": self.data}
        options |= {"run-dir": folder} | ({"patience": self.patience} if self.patience else {})
        return ["fit", "ppca", "--resume", *(word for name in options for word in (f"--{name}", str(options[name])))]

    def from_shell(self, folder: Path) -> None:
        """Fit by the command's own function."""
        command(*self.words(folder))


def command(*words: str) -> None:
    """Run `ppl-vae` with these words, silently, and exit as it does."""
    from ppl_vae import cli

    sys.argv[1:] = words
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        cli.main()


def make_data(path: Path) -> Path:
    """Write 80 rows of numbers, 64 of them to train on, and return where they are."""
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(80, 2)) @ numbers.normal(size=(2, 6)) + 0.5 * numbers.normal(size=(80, 6))
    np.savetxt(path, x, delimiter=",", header="a,b,c,d,e,f", comments="")
    return path


# -- the witness ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Witness:
    """The parameters and the history of a fit that was left alone and had no folder."""

    states: list[dict[str, Tensor]]  # after 0, 1, … epochs
    history: dict[str, list[float]]
    patience: int | None

    def kept(self, epochs: int) -> dict[str, Tensor]:
        """Return the parameters that the fit stands for after so many epochs."""
        bounds = self.history["validation_bound"][:epochs]
        return self.states[bounds.index(max(bounds)) + 1 if self.patience and bounds else epochs]

    def history_of(self, epochs: int) -> dict[str, list[float]]:
        """Return the history of so many epochs."""
        return {name: column[:epochs] for name, column in self.history.items()} if epochs else {}


def watch(fit: Fit, path: Path) -> None:
    """Write to `path` what `fit` goes through, as an optimiser sees it that looks after each epoch's last step."""
    states: list[dict[str, Tensor]] = []
    steps = 0

    def make(pair: ppl_vae.Pair, parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
        def look(*_: object) -> None:
            nonlocal steps
            if steps % STEPS == 0:
                states.append({name: value.detach().clone() for name, value in pair.state_dict().items()})
            steps += 1

        optimizer = torch.optim.Adam(parameters, lr=lr, fused=True)
        look()
        optimizer.register_step_post_hook(look)
        return optimizer

    run = fit.from_python(None, optimizer=make)
    torch.save({"states": states, "history": run.history}, path)


def witness(fit: Fit, folder: Path) -> Witness:
    """Let `fit` run undisturbed, in a process like those that are killed, and return what it went through."""
    path = folder / f"witness-{fit.compile}-{fit.patience}.pt"
    assert wait(start(watch, fit, path)) == 0
    return Witness(**torch.load(path, weights_only=True), patience=fit.patience)


# -- processes --------------------------------------------------------------------------------------------------------


def _work(work: Callable[..., object], *arguments: object) -> None:
    torch.set_num_threads(1)
    # Tests run in the background of a shell ignore the keyboard's signal, and processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work(*arguments)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def start(work: Callable[..., object], *arguments: object) -> Process:
    """Do `work` in a process of its own."""
    process = SERVER.Process(target=_work, args=(work, *arguments), daemon=True)
    process.start()
    return process


def start_command(*words: str) -> Process:
    """Run ``python -m ppl_vae``."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "ppl_vae", *words], stdout=subprocess.DEVNULL, env=environment)


def wait(process: Process, seconds: float = 120.0, until: Callable[[], bool] = lambda: False) -> int | None:
    """Return the exit code of a process that ends, or None once so many seconds are over, or `until` is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        code = process.poll() if isinstance(process, subprocess.Popen) else process.exitcode
        if code is not None:
            return code
        time.sleep(0.001)
    return None


def stop(process: Process, until: Callable[[], bool], seconds: float, number: int = signal.SIGKILL) -> int | None:
    """Send a signal so many seconds after `until` is true, and return the exit code."""
    code = wait(process, until=until)
    if code is None:
        code = wait(process, seconds)
    if code is None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(process.pid or 0, number)
        code = wait(process)
    return code


def saved(folder: Path) -> int:
    """How many epochs the history has, read without disturbing the fit; -1 before there is one."""
    path = folder / "history.csv"
    return path.read_text().count("\n") - 1 if path.exists() else -1


def moments(seed: int, count: int, epochs: int) -> list[tuple[int, float]]:
    """Return moments of a fit in order: so many epochs saved, and a part of the next one, or of what comes before."""
    numbers = random.Random(seed)
    return sorted((numbers.randrange(-1, epochs), numbers.random()) for _ in range(count))


# -- writing ----------------------------------------------------------------------------------------------------------

CHANGES = {"os.rename", "os.remove", "os.link", "os.symlink", "os.truncate", "os.rmdir"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def dying(folder: Path, change: int, work: Callable[..., object], *arguments: object) -> None:
    """Do `work`, and be killed right before the change number `change`, from 0 on, to what lies in `folder`."""
    left = change

    def look(event: str, given: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in CHANGES and not (event == "open" and given[2] & WRITING):
            return
        paths = [str(value) for value in given if isinstance(value, str | Path)]
        if any(path.startswith(f"{folder}{os.sep}") for path in paths):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(look)
    work(*arguments)


# -- estimates --------------------------------------------------------------------------------------------------------


def estimate(pair: ppl_vae.Pair, number: int) -> ppl_vae.LogLikelihood:
    """Return an estimate that is known by its seed."""
    return replace(ppl_vae.log_likelihood(pair, {"x": torch.zeros(2, 6)}, method="exact"), seed=number)


def estimates(folder: Path) -> list[int]:
    """Return the numbers of the estimates that are recorded with a run."""
    return [recorded["seed"] for recorded in ppl_vae.load(folder).evaluation]


def record(folder: Path, path: Path) -> None:
    """Record estimates without end, and write to `path` how many are."""
    run = ppl_vae.load(folder)
    first = estimate(run.pair, 0)
    with path.open("w", buffering=1) as file:
        for number in range(len(run.evaluation), 100_000):
            run.record(replace(first, seed=number))
            print(number + 1, file=file)
