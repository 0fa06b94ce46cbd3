"""Find the files of a data set, and download the ones with a known checksum that are nowhere to be found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ppl_vae.core.errors import InputError

#: Names the environment variable that points at a folder of data sets: mnist/, binarized_mnist/, omniglot/, freyfaces/.
VARIABLE = "PPL_VAE_DATA"


@dataclass(frozen=True)
class Remote:
    """A file at its public address.

    Parameters
    ----------
    url : str
        Where it lies.
    checksum : str, optional
        ``md5:…`` or ``sha256:…``. A file without one is named to the user, never downloaded.
    """

    url: str
    checksum: str | None = None

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.url.rsplit("/", 1)[-1]


def cache() -> Path:
    """Return the user's cache folder, where downloads go."""
    import pooch

    return Path(pooch.os_cache("ppl_vae"))


def locate(folder: str, *forms: Sequence[str]) -> list[Path] | None:
    """Return the files of the first form that is complete: in ``PPL_VAE_DATA``, else in the cache, else None.

    Parameters
    ----------
    folder : str
        The data set's folder.
    *forms : sequences of file names
        Ways the data set may be stored, the preferred one first.

    Raises
    ------
    InputError
        If ``PPL_VAE_DATA`` is set, but is no folder.
    """
    for root in _roots():
        for form in forms:
            paths = [root / folder / name for name in form]
            if all(path.is_file() for path in paths):
                return paths
    return None


def fetch(folder: str, remotes: Sequence[Remote]) -> list[Path]:
    """Return the files of `remotes`, from ``PPL_VAE_DATA`` or the cache, else downloaded into the cache.

    A download shows a progress bar, lands under its own name only when its checksum is right, and leaves nothing behind
    when it is not or when it breaks off.

    Raises
    ------
    InputError
        If a file can neither be found nor downloaded; the text says which file to put where.
    """
    found = locate(folder, [remote.name for remote in remotes])
    return found if found is not None else [_download(folder, remote) for remote in remotes]


def _download(folder: str, remote: Remote) -> Path:
    import pooch
    from requests import RequestException

    target = cache() / folder / remote.name
    places = f"{target.parent} (or into {folder}/ in the folder that {VARIABLE} names)"
    hint = f"putting {remote.name} from {remote.url} into {places}"
    if remote.checksum is None:
        raise InputError(f"{folder}/{remote.name}", expected="a file of this name", got="none", hint=hint)
    try:
        with _Progress(remote.name) as progress:
            downloader = pooch.HTTPDownloader(progressbar=progress)
            path = pooch.retrieve(
                remote.url, known_hash=remote.checksum, fname=remote.name, path=target.parent, downloader=downloader
            )
    except RequestException as error:
        got = f"no answer ({type(error).__name__})"
        raise InputError(f"{folder}/{remote.name}", expected="a download", got=got, hint=hint) from error
    except ValueError as error:  # pooch has removed the file
        got = "one with another checksum, refused"
        raise InputError(f"{folder}/{remote.name}", expected="the published file", got=got, hint=hint) from error
    except OSError as error:
        got = f"{error.strerror or error}"
        raise InputError(str(target), expected="to write the download", got=got, hint=hint) from error
    return Path(path)


def _roots() -> list[Path]:
    named = os.environ.get(VARIABLE)
    if not named:
        return [cache()]
    root = Path(named).expanduser()
    if not root.is_dir():
        raise InputError(VARIABLE, expected="a folder of data sets", got=repr(named))
    return [root, cache()]


class _Progress:
    """The progress bar that pooch drives (`total`, `update`, `reset`, `close`), drawn by rich."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(name, total=None)
        self.total = 0

    def update(self, size: int) -> None:
        """Count `size` more bytes."""
        self._bar.update(self._task, total=self.total or None, advance=size)

    def reset(self) -> None:
        """Start again at 0."""
        self._bar.reset(self._task)

    def close(self) -> None:
        """Draw the end."""
        self._bar.refresh()

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
