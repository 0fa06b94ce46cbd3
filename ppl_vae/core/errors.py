"""Errors a user can act on: one line that says what was expected, what was got, and what to try.

Every error of the library derives from `PplVaeError`; the command line prints its one line and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PplVaeError(Exception):
    """Root of every error the library raises on purpose; its text is one line, without control characters."""

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))


class InputError(PplVaeError, ValueError):
    """Something handed to the library does not fit.

    The text reads ``what: expected …; got …; try …``; parts that were not given are left out.

    Parameters
    ----------
    what : str
        The thing at fault, named as the user knows it (an argument, a site, a file).
    expected, got, hint : str, optional
        The parts of the line; `hint` is what to try.
    """

    def __init__(self, what: str, *, expected: str = "", got: str = "", hint: str = "") -> None:
        parts = [f"expected {expected}"] if expected else []
        parts += [f"got {got}"] if got else []
        parts += [f"try {hint}"] if hint else []
        # Pyro's trace makes a program's error anew, with the shapes of its sites appended: it stays one line.
        text = f"{what}: {'; '.join(parts)}" if parts else _without_shapes(what)
        super().__init__(" ".join(text.split()))


class PairError(InputError):
    """A model and a guide do not form a pair over the same latent sites."""


class NonFiniteError(PplVaeError, ArithmeticError):
    """A value in a computation was NaN or infinite; the text names the first such site."""


class RunError(PplVaeError, OSError):
    """A run folder cannot be read or written."""


def shown(value: object, length: int = 80) -> str:
    """Return the `repr` of any value in one line of at most `length` characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of somebody else's `__repr__`, or of an integer with too many digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= length else text[: length - 1] + "…"


def one_line(error: BaseException, length: int = 300) -> str:
    """Return what an error says in one line of at most `length` characters, without the shapes that Pyro appends."""
    return " ".join(_without_shapes(str(error)).split())[:length]


def printable(text: str) -> str:
    """Return `text` with control characters escaped: what a file holds must not steer the terminal it is printed on."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _without_shapes(text: str) -> str:
    return text.partition("Trace Shapes:")[0]


def unknown_name(kind: str, name: object, known: Iterable[str]) -> InputError:
    """Return the error for an unknown name, with the nearest known one suggested.

    Parameters
    ----------
    kind : str
        What was named, such as ``"data set"``.
    name : object
        What the user wrote.
    known : iterable of str
        The names there are.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name if isinstance(name, str) else shown(name), names, n=1, cutoff=0.4)
    return InputError(
        f"unknown {kind}",
        expected=f"one of {', '.join(names)}",
        got=shown(name),
        hint=repr(near[0]) if near else "",
    )
