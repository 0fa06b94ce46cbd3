"""A run: a folder that holds everything about one fit, and the object that stands for it.

    config.json  environment.json  history.csv  timing.csv  model.safetensors  resume.pt  evaluation.json  figures/
    report.html

Everything is plain and written atomically; loading never executes what it loads. `resume.pt` is the one file that a
resumed fit starts from, so no kill between two files can leave a state that never was.
"""

from __future__ import annotations

import csv
import io
import os
import platform
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ppl_vae import files
from ppl_vae.config import describe, is_known, rebuild
from ppl_vae.errors import InputError, RunError
from ppl_vae.pair import Pair, as_pair

History = dict[str, list[float]]

#: What ``config.json`` is about.
SECTIONS = {"pair", "objective", "data", "fit"}


@dataclass(repr=False)
class Run:
    """One fit of a pair: what `ppl_vae.fit` returns and `ppl_vae.load` reads back.

    Attributes
    ----------
    pair : Pair
        The fitted pair.
    config : dict
        Settings, pair, objective and data, as in ``config.json``.
    history : dict of str to list of float
        Columns over epochs; bounds in nats per datum, higher is better.
    directory : Path or None
        The run folder, if there is one.
    timing : dict of str to list of float
        Seconds per epoch, kept apart because they differ from run to run.
    writes : bool
        Whether this process writes to the folder: of several workers that fitted together, the first one alone does.
    """

    pair: Pair
    config: dict[str, Any]
    history: History
    directory: Path | None = None
    timing: History = field(default_factory=dict)
    writes: bool = True

    def __repr__(self) -> str:
        epochs = len(self.history.get("epoch", []))
        last = {name: column[-1] for name, column in self.history.items() if column and name.endswith("bound")}
        bounds = ", ".join(f"{name} {value:.3f}" for name, value in last.items())
        names = f"{type(self.pair.model).__name__}, {type(self.pair.guide).__name__}"
        return f"Run({names}: {epochs} epochs; {bounds} nats per datum; {self.directory or 'no folder'})"

    @property
    def evaluation(self) -> list[dict[str, Any]]:
        """The log-likelihood estimates recorded with the run, oldest first."""
        path = self.directory / "evaluation.json" if self.directory else None
        return files.read_json(path) if path and path.exists() else []

    def record(self, result: Any) -> None:
        """Add a log-likelihood estimate (anything with ``to_json``) to ``evaluation.json``.

        Raises
        ------
        InputError
            If the run has no folder.
        """
        if self.directory is None:
            raise InputError(
                "run", expected="a run folder to write to", got="a fit without one", hint="fit(…, run_dir=…)"
            )
        if self.writes:
            files.write_json(self.directory / "evaluation.json", [*self.evaluation, result.to_json()])

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, device and command of the fit, as in ``environment.json``."""
        path = self.directory / "environment.json" if self.directory else None
        return files.read_json(path) if path and path.exists() else environment(self.pair.device)


def load(directory: str | os.PathLike[str], pair: Any = None) -> Run:
    """Read a run folder back.

    Parameters
    ----------
    directory : path
        The run folder.
    pair : Pair, optional
        A pair to fill with the run's parameters. Needed where the run's own classes cannot be rebuilt from plain
        arguments: functions, AutoGuides, and classes not marked with `ppl_vae.config.configurable`.

    Raises
    ------
    RunError
        If the folder is missing, half-written, or its files are broken.
    InputError
        If `pair` is not the pair that was fitted, or is needed and not given.
    """
    folder = Path(directory)
    config = read_config(folder)
    path = folder / "model.safetensors"
    if not path.exists():
        raise RunError(
            f"{folder}: expected model.safetensors; got a run stopped before its first checkpoint; try fitting again"
        )
    try:
        state = safetensors.torch.load(path.read_bytes())
        history, timing = read_columns(folder / "history.csv"), read_columns(folder / "timing.csv")
    except (OSError, ValueError, IndexError, csv.Error, safetensors.SafetensorError) as error:
        raise RunError(
            f"{folder}: expected whole files; got {' '.join(str(error).split())}; try fit with resume=True"
        ) from error
    pair = as_pair(pair) if pair is not None else rebuild_pair(config["pair"], folder)
    load_state(pair, state, folder)
    pair.eval()
    return Run(pair, config, history, folder, timing)


def read_config(folder: Path) -> dict[str, Any]:
    """Return what ``config.json`` holds.

    Raises
    ------
    RunError
        If it is missing, broken, or not that of a run.
    """
    config = files.read_json(folder / "config.json")
    if not isinstance(config, dict) or not config.keys() >= SECTIONS:
        raise RunError(f"{folder / 'config.json'}: expected the settings of a fit; got others; try another folder")
    return config


def describe_pair(pair: Pair) -> dict[str, Any]:
    """Return what identifies a pair: its classes, the arguments they were built with where known, and its shapes."""
    return {
        role: {"name": type(module).__qualname__, "description": describe(module)}
        for role, module in (("model", pair.model), ("guide", pair.guide))
    } | {"state": {name: list(tensor.shape) for name, tensor in pair.state_dict().items()}}


def rebuild_pair(description: dict[str, Any], folder: Path) -> Pair:
    """Build the pair that `describe_pair` described, with fresh parameters."""
    for role in ("model", "guide"):
        known, name = description[role]["description"], description[role]["name"]
        if known is None or not is_known(known):
            raise InputError(
                f"{folder}",
                expected=f"a pair to fill, since the {role} {name} cannot be rebuilt from plain arguments here",
                got="no pair",
                hint=f"ppl_vae.load({str(folder)!r}, pair=…), or @ppl_vae.config.configurable on the class",
            )
    known = description["model"]["description"]
    with torch.random.fork_rng(devices=[]):
        model = rebuild(known)
        return Pair(model, rebuild(description["guide"]["description"], built=(known, model)))


def load_state(pair: Pair, state: dict[str, Tensor], origin: Path | str) -> None:
    """Fill `pair` with `state`, adopting its floating type.

    Raises
    ------
    InputError
        If names or shapes differ: `state` belongs to another pair.
    """
    mine = {name: tuple(tensor.shape) for name, tensor in pair.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if mine != theirs:
        name = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))[0]
        raise InputError(
            f"{origin}",
            expected=f"the pair that was fitted, with {name} {theirs.get(name, 'absent')}",
            got=f"{name} {mine.get(name, 'absent')}",
            hint="the run's own pair (after pair.check(batch), if its guide makes parameters when it first runs), or "
            "another run folder",
        )
    floating = [tensor.dtype for tensor in state.values() if tensor.is_floating_point()]
    if floating:
        pair.to(floating[0])
    pair.load_state_dict(state)


def environment(device: torch.device) -> dict[str, Any]:
    """Return the versions, the device and the command, for ``environment.json``."""
    packages = ("ppl-vae", "pyro-ppl", "torch", "numpy", "arviz", "scikit-learn")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "command": " ".join(sys.argv),
    }


def write_columns(path: Path, columns: History) -> None:
    """Write columns of numbers as CSV; `repr` keeps every bit of a float."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*([repr(value) for value in column] for column in columns.values()), strict=True))
    files.write_text(path, text.getvalue())


def read_columns(path: Path) -> History:
    """Read what `write_columns` wrote."""
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    columns: History = {name: [float(row[i]) for row in rows] for i, name in enumerate(header)}
    if "epoch" in columns:
        columns["epoch"] = [int(value) for value in columns["epoch"]]
    return columns


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
