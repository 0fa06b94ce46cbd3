"""Writing files so that a reader, or a kill at any moment, sees the old content or the new one and nothing between."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from ppl_vae.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PARTIAL = ".partial"


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: to a file beside it, flushed to disk, then renamed over it.

    Raises
    ------
    RunError
        If the folder cannot be written to or the disk is full; what was there before stays as it was.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise RunError(
            f"writing {path}: expected room and permission to write; got {error.strerror or error}; "
            "try freeing space or another folder (what was saved before is unharmed)"
        ) from error


def remove_partial(folder: Path) -> None:
    """Remove what a process killed while writing to `folder` left there."""
    for path in folder.glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


def lock(folder: Path) -> int | None:
    """Keep `folder` to this process until the descriptor that is returned is closed, or the process dies.

    Raises
    ------
    RunError
        If another process keeps it.
    """
    if fcntl is None or not folder.is_dir():
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise RunError(
            f"{folder}: expected a folder of its own for each fit; got one that another fit is writing to; "
            "try another run_dir, or wait"
        ) from error
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def write_text(path: Path, content: str) -> None:
    """Write text as UTF-8, atomically; see `write_bytes`."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically, NaN and infinities as null; see `write_bytes`."""
    write_text(path, json.dumps(_strict(content), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    RunError
        If it is missing or broken.
    """
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        message = f"{path.parent}: expected a run folder; got no {path.name} in it; try another folder"
        raise RunError(message) from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: expected a JSON file; got {' '.join(str(error).split())}; try fitting again"
        ) from error


def _strict(content: Any) -> Any:
    """Return `content` without the numbers that JSON has no form for."""
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, dict):
        return {key: _strict(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_strict(value) for value in content]
    return content
