"""Programs that fit all rows of their data and no others: how many these are, and why."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_vae.core.errors import InputError


@dataclass(frozen=True)
class Whole:
    """What ties a pair's programs to all rows at once.

    Attributes
    ----------
    rows : int
        How many rows they fit.
    what : str
        What in them does, as an error names it: ``"parameter 'loc'"``.
    why : str
        What it does: ``"it has a row for each datum"``.
    hint : str
        What to change in the programs, so that they fit any rows.
    """

    rows: int
    what: str
    why: str
    hint: str

    def check(self, rows: int) -> None:
        """Raise for a batch of another number of rows."""
        if rows != self.rows:
            raise InputError(
                self.what,
                expected=f"{self.rows} rows, as {self.why}",
                got=f"{rows} rows",
                hint=f"those, or {self.hint}",
            )


def with_parameters(rows: int, name: str) -> Whole:
    """Return why programs fit no other rows: a parameter, or an automatic guide's latent, has a row for each."""
    return Whole(rows, f"parameter {name!r}", "it has a row for each datum", "a guide that computes it from the data")


def with_plate(rows: int, name: str) -> Whole:
    """Return why programs fit no other rows: the size of a plate is a number."""
    return Whole(rows, f"plate {name!r}", "its size is that number", "the length of an argument as its size")


def without_plate(rows: int, name: str) -> Whole:
    """Return why programs take all rows at once: sites observe single data outside of any plate."""
    return Whole(rows, f"site {name!r}", "it observes data outside of any plate", "pyro.plate around it")
