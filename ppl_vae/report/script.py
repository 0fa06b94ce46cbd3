"""What a script prints, kept as Markdown where ``--record`` asks for it: command, date, seed, device, versions, output.

A script's ``main`` has `RECORD` among its parser's parents, is decorated with `recorded`, and returns seed and device::

    @recorded
    def main(argv=None):
        parser = argparse.ArgumentParser(parents=[RECORD])
        ...
        return {"seed": options.seed, "device": run.config["fit"]["device"]}
"""

from __future__ import annotations

import argparse
import functools
import inspect
import io
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from datetime import date
from pathlib import Path
from typing import Any, TextIO

from ppl_vae.core import files
from ppl_vae.training.options import find_device
from ppl_vae.training.run_folder.run import environment

Main = Callable[[Sequence[str] | None], Mapping[str, Any]]

#: The option, to be a parent of a script's own parser, where it is shown by ``--help``.
RECORD = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
RECORD.add_argument(
    "--record",
    nargs="?",
    type=Path,
    const=Path(),
    metavar="FILE",
    help="keep what is printed, with command, seed and versions; by default in results/, beside the script",
)

PACKAGES = ("torch", "pyro-ppl", "scikit-learn", "ppl-vae")

INTRODUCTION = (
    "A section for each command, the newest first, written by `--record`; one of the same command is replaced."
)


class _Tee(io.StringIO):
    """Text that is shown as it is written, and kept."""

    def __init__(self, shown: TextIO) -> None:
        super().__init__()
        self._shown = shown

    def write(self, text: str) -> int:
        self._shown.write(text)
        return super().write(text)

    def flush(self) -> None:
        self._shown.flush()

    def isatty(self) -> bool:
        return self._shown.isatty()


def recorded(main: Main) -> Main:
    """Return `main`, which then prints its command, time, seed, device and versions, and keeps all of it on demand.

    Parameters
    ----------
    main : callable
        Takes the arguments of the command line (by default the process's own), of which ``--record`` is taken out, and
        returns ``seed`` and ``device``, the latter as `fit` takes it.
    """
    script = Path(inspect.getfile(main))

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> Mapping[str, Any]:
        option, arguments = RECORD.parse_known_args(argv)
        command = shlex.join(["python", f"{script.parent.name}/{script.name}", *arguments])
        printed, started = _Tee(sys.stdout), time.perf_counter()
        with redirect_stdout(printed):
            made = main(arguments)
        about = _about(made, time.perf_counter() - started)
        print(f"\n`{command}`: " + ", ".join(f"{name} {value}" for name, value in about.items()))
        if option.record is not None:
            path = script.parent / "results" / f"{script.stem}.md" if option.record == Path() else option.record
            _keep(path, script.name, command, about, printed.getvalue())
        return made

    return run


def _about(made: Mapping[str, Any], seconds: float) -> dict[str, str]:
    """Return what figures depend on, by name."""
    found = environment(find_device(made["device"]))
    return {
        "date": date.today().isoformat(),
        "seconds": f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}",
        "seed": str(made["seed"]),
        **{name: str(found[name]) for name in ("device", "threads", "python", *PACKAGES)},
    }


def _keep(path: Path, title: str, command: str, about: Mapping[str, str], printed: str) -> None:
    """Write the section of a command to a file of such sections: in the place of an earlier one, else before all."""
    heading = f"## `{command}`"
    table = [about, ["---"] * len(about), about.values()]
    rows = "\n".join(f"| {' | '.join(row)} |" for row in table)
    printed = printed.strip("\n")
    section = f"{heading}\n\n{rows}\n\n```text\n{printed}\n```\n"
    before = path.read_text(encoding="utf-8") if path.exists() else f"# {title}\n\n{INTRODUCTION}\n"
    parts = re.split(r"^(?=## )", before, flags=re.MULTILINE)
    kept = [part.strip() + "\n" for part in parts[1:] if not part.startswith(heading + "\n")]
    at = next((n for n, part in enumerate(parts[1:]) if part.startswith(heading + "\n")), 0)
    kept.insert(at, section)
    files.write_bytes(path, "\n".join([parts[0].strip() + "\n", *kept]).encode())
