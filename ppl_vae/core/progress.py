"""A progress bar on a terminal, and silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar(Protocol):
    """Progress of a long computation."""

    def __call__(self, advance: float = 1, *, note: str | None = None) -> None:
        """Move on by `advance` units; `note` replaces the words at the right."""


@contextmanager
def bar(title: str, total: float, show: bool | None = None) -> Iterator[Bar]:
    """Show a bar on standard error while the block runs.

    Parameters
    ----------
    title : str
        What is being done.
    total : float
        How many units there are.
    show : bool, optional
        Whether to show it; by default, exactly on a terminal.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda advance=1, *, note=None: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, note="")

        def move(advance: float = 1, *, note: str | None = None) -> None:
            progress.advance(task, advance)
            if note is not None:
                progress.update(task, note=note)

        yield move
