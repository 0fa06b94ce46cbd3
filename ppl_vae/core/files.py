"""Writing files so that a reader, or a kill at any moment, sees the old content or the new one and nothing between."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppl_vae.core.checks import plain
from ppl_vae.core.errors import RunError, one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PARTIAL = ".partial"
_DEEPEST = 100  # levels of lists and mappings in a JSON file
_PATIENCE = 60.0  # seconds that a writer waits for another one
_NOT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)  # a pipe without a writer would be waited for


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
        handle, temporary = _temporary(path)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            if fcntl is not None:
                os.replace(temporary, path)  # while it is still locked, so that nobody removes it as a dead writer's
        if fcntl is None:
            os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"writing {path}: expected room and permission to write; got {error.strerror or error}; "
        "try freeing space or another folder (what was saved before is unharmed)"
    )


def _temporary(path: Path) -> tuple[int, str]:
    """Return a new file beside `path`, locked for as long as it is open."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL)
        if fcntl is None:
            return handle, name
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)  # `remove_partial` came between the two lines above


def remove_partial(folder: Path) -> None:
    """Remove what processes that were killed while writing to `folder` left there, and nothing of those that live."""
    for path in folder.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | _NOT_WAITING | getattr(os, "O_NOFOLLOW", 0))
            try:
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    if fcntl is not None:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            finally:
                os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder, unless it is there.

    Raises
    ------
    RunError
        If there is something else, or it cannot be made.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: expected a folder; got a file; try another run_dir")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there.

    Raises
    ------
    RunError
        If it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"removing {path}: expected permission to; got {error.strerror or error}; try another folder"
        ) from error


def inside(folder: Path, name: str) -> Path:
    """Return the sub-folder `name` of `folder` to write to.

    Raises
    ------
    RunError
        If it is a link that leads out of `folder`.
    """
    path = folder / name
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise RunError(f"{path}: expected a folder inside {folder}; got a link that leads out of it; try removing it")
    return path


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Run while no other process runs such a block for `folder`: it reads a file there, changes it and writes it.

    Raises
    ------
    RunError
        If the folder cannot be written to, or another process keeps it for a minute.
    """
    path = folder / ".lock"
    if fcntl is None:
        yield
        return
    make_folder(folder)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _NOT_WAITING | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        _wait(handle, path)
        yield
    finally:
        os.close(handle)


def _wait(handle: int, path: Path) -> None:
    """Lock an open file; one that its file system cannot lock stays unlocked."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise RunError(
                    f"{path.parent}: expected writers to take turns; got one that writes for a minute; try again, or "
                    "ending that process"
                ) from error
            time.sleep(0.01)
        except OSError:
            return None


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


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, atomically; see `to_json` and `write_bytes`."""
    write_bytes(path, to_json(content))


def to_json(content: Any) -> bytes:
    """Return `content` as indented JSON, NaN and infinities as null, NumPy's numbers as plain ones."""
    return (json.dumps(_strict(content), indent=2, allow_nan=False) + "\n").encode()


def read_bytes(path: Path) -> bytes:
    """Read a file whole.

    Raises
    ------
    RunError
        If it is missing, cannot be read, or is no file but a folder, a pipe or a device.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _NOT_WAITING | getattr(os, "O_BINARY", 0))
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise RunError(f"{path}: expected a file; got a folder, a pipe or a device; try another run folder")
            with os.fdopen(handle, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(handle)
    except (FileNotFoundError, NotADirectoryError):
        message = f"{path.parent}: expected a run folder; got no {path.name} in it; try another folder"
        raise RunError(message) from None
    except RunError:
        raise
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: expected a file to read; got {one_line(error)}; try another folder") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    RunError
        If it is missing or broken.
    """
    return parse_json(read_bytes(path), path)


def parse_json(content: bytes, path: Path) -> Any:
    """Return what a JSON file holds.

    Raises
    ------
    RunError
        If it is broken, or has more than 100 levels, which what reads it further would not survive.
    """
    try:
        parsed = json.loads(content.decode())
        level = [parsed]
        for _ in range(_DEEPEST):
            level = [item for each in level if isinstance(each, dict | list) for item in _items(each)]
        if level:
            raise RecursionError
    except RecursionError:
        raise RunError(f"{path}: expected a JSON file; got more than {_DEEPEST} levels; try fitting again") from None
    except ValueError as error:
        raise RunError(f"{path}: expected a JSON file; got {one_line(error)}; try fitting again") from error
    return parsed


def _items(content: dict[str, Any] | list[Any]) -> list[Any]:
    return list(content.values()) if isinstance(content, dict) else content


def _strict(content: Any) -> Any:
    """Return `content` without the numbers that JSON has no form for."""
    content = plain(content)
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, dict):
        return {key: _strict(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_strict(value) for value in content]
    return content
