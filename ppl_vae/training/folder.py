"""The folder of a run while its fit goes on: entered by one fit at a time, checkpointed atomically, resumed from."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ppl_vae import files
from ppl_vae.errors import InputError, RunError
from ppl_vae.runs import read_config, write_columns
from ppl_vae.workers import Workers


class RunFolder:
    """The files of a run while it is being written; a context that keeps the folder to one fit at a time.

    Of several workers the first one reads and writes; the others get what it reads, and its errors.
    """

    def __init__(self, directory: str | os.PathLike[str], workers: Workers | None = None) -> None:
        self.path = Path(directory)
        self.workers = workers or Workers()
        self.seconds = 0.0  # that were spent on recording before
        self._lock: int | None = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        """Let others write to the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def start(self, config: dict[str, Any], environment: dict[str, Any], *, resume: bool) -> dict[str, Any] | None:
        """Enter the folder; return the state to resume from, or None for a fresh start.

        Raises
        ------
        InputError
            If it holds a run and `resume` is false, or holds a run with other settings.
        RunError
            If it cannot be written to or its files are broken.
        """
        state, self.seconds = self.workers.first(lambda: (self._enter(config, environment, resume), self.seconds))
        return state

    def _enter(self, config: dict[str, Any], environment: dict[str, Any], resume: bool) -> dict[str, Any] | None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path}: expected a folder; got a file; try another run_dir")
        present = (self.path / "config.json").exists()
        if present and not resume:
            raise InputError(
                f"run_dir {self.path}",
                expected="a new folder",
                got="one that holds a run",
                hint="resume=True or another folder",
            )
        if present:
            self._lock = files.lock(self.path)
            old = read_config(self.path)
            self._same(old, config)
            self.seconds = float(old.get("step", {}).get("seconds", 0.0))
            files.remove_partial(self.path)
            return self._read_state()
        if self.path.exists() and any(item.suffix in (".safetensors", ".pt") for item in self.path.iterdir()):
            raise RunError(f"{self.path}: expected a run folder; got one without config.json; try another folder")
        files.write_json(self.path / "environment.json", environment)
        self._lock = files.lock(self.path)
        files.write_json(self.path / "config.json", config)
        return None

    def checkpoint(self, state: dict[str, Any], result: dict[str, Tensor]) -> None:
        """Write the state to resume from, then the files a reader looks at."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        files.write_bytes(self.path / "resume.pt", buffer.getvalue())
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in result.items()}
        files.write_bytes(self.path / "model.safetensors", safetensors.torch.save(plain))
        write_columns(self.path / "history.csv", state["history"])
        write_columns(self.path / "timing.csv", state["timing"])

    def update_config(self, config: dict[str, Any]) -> None:
        """Write the settings of a resumed run (its number of epochs may have grown)."""
        self.workers.first(lambda: files.write_json(self.path / "config.json", config))

    def _same(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        """Raise, naming the first setting that differs; the number of epochs may, unless the schedule spans them."""
        for section in ("pair", "objective", "data", "fit"):
            before, after = old[section], new[section]
            free = {"device", "workers"} | ({"epochs"} if new["fit"]["schedule"] == "constant" else set())
            for name in after:
                if before.get(name) != after[name] and not (section == "fit" and name in free):
                    where, was, now = first_difference(f"{section} {name}", before.get(name), after[name])
                    raise InputError(
                        f"run_dir {self.path}",
                        expected=f"{where} {short(was)} as in its config.json",
                        got=short(now),
                        hint="the same settings, or another folder",
                    )

    def _read_state(self) -> dict[str, Any] | None:
        path = self.path / "resume.pt"
        if not path.exists():  # killed before the first checkpoint: nothing to go on from
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or not {"model", "optimizer", "random", "history"} <= state.keys():
                raise ValueError("a file that is not one")
            return state
        except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
            raise RunError(
                f"{path}: expected a whole checkpoint; got {' '.join(str(error).split())[:120]}; try another run_dir"
            ) from error


def first_difference(where: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    """Return the innermost setting in which two descriptions differ, and its two values."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in [*was, *now]:
            if was.get(name) != now.get(name):
                plain = where if name in ("description", "arguments", "state") else f"{where} {name}"
                return first_difference(plain, was.get(name), now.get(name))
    return where, was, now


def short(value: Any) -> str:
    """Return `value` as it can stand in a line."""
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "…"
