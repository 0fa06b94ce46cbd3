"""A run: a folder that holds everything about one fit, and the object that stands for it.

    config.json  environment.json  history.csv  timing.csv  model.safetensors  resume.pt  evaluation.json
    checksums.json  figures/  report.html

Everything is plain and written atomically; loading never executes what it loads, and verifies checksums.
A resumed fit starts from `resume.pt` alone, and a run is read from `model.safetensors`, which has the history in it, so
that a kill between two files leaves no inconsistent state.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ppl_vae.core import files
from ppl_vae.core.checks import as_path, check_like
from ppl_vae.core.errors import InputError, RunError, one_line
from ppl_vae.pairs.description import load_state, rebuild_pair
from ppl_vae.pairs.pair import Pair, as_pair
from ppl_vae.pairs.renamed import renamed
from ppl_vae.training.run_folder import checksums
from ppl_vae.training.run_folder.files import History, columns_from_csv, model_from_bytes
from ppl_vae.training.run_folder.schema import CONFIG, ENVIRONMENT, EVALUATIONS, checked

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
        return checked(EVALUATIONS, files.read_json(path), path) if path and path.exists() else []

    def record(self, result: Any) -> None:
        """Add a log-likelihood estimate (anything with ``to_json``) to ``evaluation.json``.

        Estimates that several processes record at once are all kept.

        Raises
        ------
        InputError
            If the run has no folder.
        RunError
            If the folder cannot be written to or the disk is full; what was recorded before stays.
        """
        check_like("result", result, ("to_json",), "a log-likelihood estimate", "ppl_vae.log_likelihood(…)")
        if self.directory is None:
            raise InputError(
                "run", expected="a run folder to write to", got="a fit without one", hint="fit(…, run_dir=…)"
            )
        if self.writes:
            with files.locked(self.directory):
                content = files.to_json([*self.evaluation, result.to_json()])
                checksums.Checksums(self.directory).write({"evaluation.json": content})

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, device and command of the fit, as in ``environment.json``."""
        path = self.directory / "environment.json" if self.directory else None
        if path is None or not path.exists():
            return environment(self.pair.device)
        return checked(ENVIRONMENT, files.read_json(path), path)


def load(directory: str | os.PathLike[str], pair: Any = None, *, verify: bool = True) -> Run:
    """Read a run folder back.

    Parameters
    ----------
    directory : path
        The run folder.
    pair : Pair, optional
        A pair to fill with the run's parameters. Needed where the run's own classes cannot be rebuilt from plain
        arguments: functions, AutoGuides, and classes not marked with `ppl_vae.config.configurable`.
    verify : bool
        Whether to verify the checksums that were written with the files. Without it, files that were changed
        by hand are read as they are.

    Raises
    ------
    RunError
        If the folder is missing, half-written, or its files are broken or were changed.
    InputError
        If `pair` is not the pair that was fitted, or is needed and not given.
    """
    given = as_pair(pair) if pair is not None else None
    return read(directory, lambda config, folder: given or rebuild_pair(config["pair"], folder), verify=verify)


def read(
    directory: str | os.PathLike[str], build: Callable[[dict[str, Any], Path], Pair], *, verify: bool = True
) -> Run:
    """Read a run folder back into the pair that `build` makes of its settings; see `load`."""
    folder = as_path("directory", directory)
    config = read_config(folder, verify=verify)
    if not (folder / "model.safetensors").exists():
        raise RunError(
            f"{folder}: expected model.safetensors; got a run stopped before its first checkpoint; try fitting again"
        )
    contents = {name: _content(folder / name) for name in ("model.safetensors", "history.csv", "timing.csv")}
    try:
        state, history = model_from_bytes(contents["model.safetensors"])
        copy, timing = (columns_from_csv(contents[name].decode()) for name in ("history.csv", "timing.csv"))
    except (ValueError, LookupError, OverflowError, SafetensorError) as error:
        raise RunError(f"{folder}: expected whole files; got {one_line(error)}; try fit with resume=True") from error
    if verify:
        about = [name for name in ("environment.json", "evaluation.json") if (folder / name).exists()]
        checksums.check(folder, contents | {name: files.read_bytes(folder / name) for name in about})
    sizes, described = {name: list(tensor.shape) for name, tensor in state.items()}, config["pair"]["state"]
    pair = build(config | {"pair": config["pair"] | {"state": sizes}}, folder)
    if renamed(pair, sizes) != renamed(pair, described):  # names may have changed between two files
        raise RunError(f"{folder}: expected parameters of the sizes in config.json; got others; try another copy of it")
    load_state(pair, state, folder)
    pair.eval()
    return Run(pair, config, copy if history is None else history, folder, timing)


def _content(path: Path) -> bytes:
    """Read one of the files that every checkpoint writes."""
    if not path.exists():
        raise RunError(f"{path.parent}: expected whole files; got no {path.name}; try fit with resume=True")
    return files.read_bytes(path)


def read_config(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """Return what ``config.json`` holds.

    Raises
    ------
    RunError
        If it is missing, broken, changed, or not that of a run.
    """
    path = folder / "config.json"
    content = files.read_bytes(path)
    config = files.parse_json(content, path)
    if not isinstance(config, dict) or not config.keys() >= SECTIONS:
        raise RunError(f"{path}: expected the settings of a fit; got others; try another folder")
    if verify:
        checksums.check(folder, {path.name: content})
    return checked(CONFIG, config, path)


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


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
