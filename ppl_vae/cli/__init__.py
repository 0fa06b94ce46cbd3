"""The command ``ppl-vae``.

It exits with 0 on success, with 2 and one line on standard error on the user's mistake, and with 130 on Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

import typer

from ppl_vae.cli import discover, fitting, using
from ppl_vae.cli.app import PROGRAM, StoppedError, app, silence, typed
from ppl_vae.cli.usage import UsageError, as_typed, usage_line
from ppl_vae.core.errors import PplVaeError

__all__ = ["main", "run"]

#: The modules whose commands make up the application, by the order of `ppl-vae --help`.
COMMANDS = (discover, fitting, using)

STOPPED = "stopped; what was saved before is kept: go on with the same command"


def main() -> None:
    """Run the command that the process was called with, and exit."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        What stands after ``ppl-vae``; by default the process's own.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    typed.set(tuple(words))
    command = typer.main.get_command(app)
    before, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        code = command.main(words, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except PplVaeError as error:
        return _fail(2, f"error: {as_typed(str(error))}")
    except UsageError as error:
        return _fail(2, f"error: {usage_line(error)}")
    except StoppedError as stopped:
        return _fail(130, str(stopped))
    except (KeyboardInterrupt, typer.Abort):
        return _fail(130, STOPPED)
    except (BrokenPipeError, SystemExit) as error:
        cause = error.__context__ if isinstance(error, SystemExit) else error  # typer exits when nobody reads its help
        if not isinstance(cause, BrokenPipeError):
            raise
        silence()
        return 0
    finally:
        warnings.formatwarning = before
    if code == 130:  # typer's word for Ctrl-C outside a command of ours
        return _fail(130, STOPPED)
    return int(code or 0)


def _warning(message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object) -> str:
    """Return a warning as one line, in the words of the command line, without the place in the code that gave it."""
    return f"warning: {as_typed(' '.join(str(message).split()))}\n"


def _fail(code: int, line: str) -> int:
    line = " ".join(line.split())
    if "WORLD_SIZE" in os.environ:  # slow to import
        from ppl_vae.training.distributed.workers import is_first_to_say

        if not is_first_to_say(line):
            return code
    print(line, file=sys.stderr)
    return code
