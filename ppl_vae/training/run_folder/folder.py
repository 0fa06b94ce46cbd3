"""The folder of a run during its fit: locked for one fit at a time, checkpointed atomically, resumed from."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.core import files
from ppl_vae.core.errors import InputError, RunError, one_line
from ppl_vae.pairs.pair import Pair
from ppl_vae.training.distributed.workers import Workers
from ppl_vae.training.run_folder import checksums
from ppl_vae.training.run_folder.files import columns_to_csv, model_to_bytes
from ppl_vae.training.run_folder.run import read_config
from ppl_vae.training.run_folder.schema import CHECKPOINT, checked
from ppl_vae.training.run_folder.upgrade import upgraded_config

#: Files of a run, by the order in which they are removed where another one takes its place.
FILES = (
    "evaluation.json", "report.html", "figures", "model.safetensors", "resume.pt", "history.csv", "timing.csv",
    "environment.json", "checksums.json", "config.json",
)  # fmt: skip


class RunFolder:
    """The files of a run while it is being written; a context that keeps the folder to one fit at a time.

    Of several workers the first one reads and writes; the others get what it reads, and its errors.
    """

    def __init__(self, directory: str | os.PathLike[str], workers: Workers | None = None) -> None:
        self.path = Path(directory)
        self.workers = workers or Workers()
        self.seconds = 0.0  # spent on recording before this session
        self._checksums = checksums.Checksums(self.path)
        self._lock: int | None = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        """Let others write to the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def start(
        self,
        config: dict[str, Any],
        environment: dict[str, Any],
        pair: Pair,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> dict[str, Any] | None:
        """Enter the folder for a fit of `pair`; return the state to resume from, or None for a fresh start.

        A folder without an epoch holds no run: a fresh start takes its place.

        Raises
        ------
        InputError
            If it holds a run and neither `resume` nor `overwrite` is true, or a run with other settings is resumed.
        RunError
            If it cannot be written to or its files are broken.
        """
        state, self.seconds = self.workers.first(
            lambda: (self._enter(config, environment, pair, resume, overwrite), self.seconds)
        )
        return state

    def _enter(
        self, config: dict[str, Any], environment: dict[str, Any], pair: Pair, resume: bool, overwrite: bool
    ) -> dict[str, Any] | None:
        files.make_folder(self.path)
        self._lock = files.lock(self.path)  # before the first look: another fit may be about to enter
        files.remove_partial(self.path)
        if os.path.lexists(self.path / "config.json"):
            if resume:
                state, old = self._read_state(), upgraded_config(read_config(self.path), pair)
                difference = _difference(old, config)
                if difference is None:
                    if state is not None:
                        self.seconds = float((old.get("step") or {}).get("seconds", 0.0))
                        return state
                elif state is not None and state["history"]:
                    where, was, now = difference
                    raise InputError(
                        f"run_dir {self.path}",
                        expected=f"{where} {short(was)} as in its config.json",
                        got=short(now),
                        hint="the same settings, or another folder",
                    )
            elif not overwrite and self._holds_epochs():
                raise InputError(
                    f"run_dir {self.path}",
                    expected="a new folder",
                    got="one that holds a run",
                    hint="resume=True, overwrite=True or another folder",
                )
            self._clear()
        elif any(item.suffix in (".safetensors", ".pt") for item in self.path.iterdir()):
            raise RunError(f"{self.path}: expected a run folder; got one without config.json; try another folder")
        self._write({"environment.json": files.to_json(environment), "config.json": files.to_json(config)})
        return None

    def _holds_epochs(self) -> bool:
        """Return whether anything in the folder would be lost by starting anew; unreadable files count."""
        if (self.path / "evaluation.json").exists():
            return True
        try:
            state = self._read_state()
        except RunError:
            return True
        return state is not None and bool(state["history"])

    def _clear(self) -> None:
        """Remove the run that the folder holds; the files that identify it as a run go last."""
        for name in FILES:
            files.remove(self.path / name)

    def _write(self, contents: dict[str, bytes]) -> None:
        with files.locked(self.path):
            self._checksums.write(contents)

    def restore(self, state: dict[str, Any], restore: Callable[[dict[str, Any]], None]) -> None:
        """Resume from the state that `start` returned, by calling `restore`.

        Raises
        ------
        RunError
            If it is not a state of this fit.
        """
        try:
            restore(state)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise RunError(
                f"{self.path / 'resume.pt'}: expected a checkpoint of this fit; got {one_line(error, 120)}; "
                "try another run_dir, or overwrite=True"
            ) from error

    def checkpoint(self, state: dict[str, Any], result: dict[str, Tensor]) -> None:
        """Write the state to resume from, then the files a reader looks at."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._write(
            {
                "resume.pt": buffer.getvalue(),
                "model.safetensors": model_to_bytes(result, state["history"]),
                "history.csv": columns_to_csv(state["history"]).encode(),
                "timing.csv": columns_to_csv(state["timing"]).encode(),
            }
        )

    def update_config(self, config: dict[str, Any]) -> None:
        """Write the settings of a resumed run (its number of epochs may have grown)."""
        self.workers.first(lambda: self._write({"config.json": files.to_json(config)}))

    def _read_state(self) -> dict[str, Any] | None:
        path = self.path / "resume.pt"
        if not path.exists():
            if (self.path / "model.safetensors").exists():
                raise RunError(
                    f"{path}: expected the checkpoint to go on from; got none beside model.safetensors; "
                    "try another run_dir, or overwrite=True"
                )
            return None  # killed before the first checkpoint: nothing to go on from
        content = files.read_bytes(path)
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
            raise RunError(
                f"{path}: expected a whole checkpoint; got {one_line(error, 120)}; try another run_dir"
            ) from error
        checksums.check(self.path, {path.name: content}, hint="another run_dir, or overwrite=True")
        return checked(CHECKPOINT, state, path)


def _difference(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """Return the first setting in which two fits differ, and its two values.

    The number of epochs may differ, unless the schedule spans them.
    """
    free = {"device", "workers"} | ({"epochs"} if new["fit"]["schedule"] == "constant" else set())
    for section in ("pair", "objective", "data", "fit"):
        before, after = old[section], new[section]
        for name in after:
            if before.get(name) != after[name] and not (section == "fit" and name in free):
                return first_difference(f"{section} {name}", before.get(name), after[name])
    return None


def first_difference(where: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    """Return the innermost setting in which two descriptions differ, and its two values."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in [*was, *now]:
            if was.get(name) != now.get(name):
                plain = where if name in ("description", "arguments", "state") else f"{where} {name}"
                return first_difference(plain, was.get(name), now.get(name))
    return where, was, now


def short(value: Any) -> str:
    """Return `value` shortened to fit into one line."""
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "…"
