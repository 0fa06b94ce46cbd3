"""Checksums of the files of a run, so that later changes of their bytes are detected.

    checksums.json    name of a file -> its SHA-256, then that of the content it replaces, if any

A new checksum is written before its file, and the old one is kept beside it until then: killed at any moment, every
file has a checksum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ppl_vae.core import files
from ppl_vae.core.errors import RunError

FILE = "checksums.json"

_FORM = TypeAdapter(dict[str, list[str]])


class Checksums:
    """Writer of the files of one run folder, their checksums first.

    Several processes may write to one folder, so each call of `write` stands inside `files.locked`.

    Parameters
    ----------
    folder : Path
        The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written: dict[str, str] = {}

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write files, each whole or not at all, in the order given.

        Raises
        ------
        RunError
            As `files.write_bytes` does: the old files then remain, and agree with their checksums.
        """
        known = read(self.folder)
        now = {name: digest(content) for name, content in contents.items()}
        for name in contents:
            before = self._written.get(name) or _on_disk(self.folder / name, known.get(name, []))
            known[name] = list(dict.fromkeys([now[name], *before.split()]))
        files.write_json(self.folder / FILE, known)
        for name, content in contents.items():
            files.write_bytes(self.folder / name, content)
            self._written[name] = now[name]


def digest(content: bytes) -> str:
    """Return the SHA-256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read(folder: Path) -> dict[str, list[str]]:
    """Return the checksums of a run's files; empty for a run of a version that wrote none.

    Raises
    ------
    RunError
        If the file that holds them is broken.
    """
    if not (folder / FILE).exists():
        return {}
    try:
        return _FORM.validate_python(files.read_json(folder / FILE), strict=True)
    except ValidationError:
        raise RunError(
            f"{folder / FILE}: expected lists of checksums by file; got others; try removing it, if the run is trusted"
        ) from None


def check(folder: Path, contents: Mapping[str, bytes], hint: str = "another copy of it, or verify=False") -> None:
    """Compare what was read from files of a run with their checksums, which are read after the files themselves.

    Raises
    ------
    RunError
        If the bytes of a file are not those that were written.
    """
    known = read(folder)
    for name, content in contents.items():
        if name in known and digest(content) not in known[name]:
            raise RunError(
                f"{folder}: expected whole files; got {name} with other bytes than were written (SHA-256); try {hint}"
            )


def _on_disk(path: Path, known: list[str]) -> str:
    """Return the checksum of what a file holds, one of those `known` for it; empty if there is none."""
    if len(known) < 2:
        return known[0] if known else ""
    return digest(files.read_bytes(path)) if path.exists() else ""
