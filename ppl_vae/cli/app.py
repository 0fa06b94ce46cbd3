"""The typer application, and what its commands share. Nothing slow is imported here, so that ``--help`` is not slow."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated

import typer

from ppl_vae.cli.usage import Commands
from ppl_vae.core.errors import printable

PROGRAM = "ppl-vae"

#: The words after the program's name, as they were typed.
typed: ContextVar[tuple[str, ...]] = ContextVar("typed", default=())

app = typer.Typer(
    cls=Commands,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class StoppedError(Exception):
    """Ctrl-C; the text says what is kept and how to go on."""


@contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[None]:
    """Turn Ctrl-C inside the block into `StoppedError`."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(f"stopped: {kept()}") from None


def say(line: str = "", *, styled: bool = False) -> None:
    """Print a line or several, without control characters unless `styled`, which is for text of our own.

    That nobody reads them any more is no reason to stop the work.
    """
    try:
        print(line if styled else "\n".join(map(printable, line.split("\n"))), flush=True)
    except BrokenPipeError:
        silence()


def silence() -> None:
    """Send whatever is still to be printed nowhere: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def again(*more: str) -> str:
    """Return this very command as one would type it again, with `more` at its end unless it is there."""
    words = typed.get()
    return shlex.join([PROGRAM, *words, *(word for word in more if word not in words)])


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Variational autoencoders as probabilistic programs: fit a model and its guide, estimate log p(x) with error bars.

    Start with [bold]ppl-vae demo[/bold]; [bold]ppl-vae COMMAND --help[/bold] shows an example of each command.
    """
    if version:
        from ppl_vae import __version__

        say(f"{PROGRAM} {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(context.get_help(), styled=True)
