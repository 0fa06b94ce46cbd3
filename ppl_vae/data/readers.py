"""Read a user's arrays from ``.npz``, ``.npy``, ``.csv`` or a torch data set, with one line on whatever is wrong."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from ppl_vae.core.errors import InputError, shown
from ppl_vae.data.tables import Table

#: What reads a file of another kind, for the user to call.
_ELSEWHERE = {
    ".h5ad": "adata = anndata.read_h5ad(path), then data.from_tensors({'x': adata.X})",
    ".h5": "h5py.File(path)[name][:], then data.from_tensors(x)",
    ".hdf5": "h5py.File(path)[name][:], then data.from_tensors(x)",
    ".parquet": "data.from_tensors(pandas.read_parquet(path))",
    ".feather": "data.from_tensors(pandas.read_feather(path))",
    ".xlsx": "data.from_tensors(pandas.read_excel(path))",
    ".tsv": "data.from_tensors(pandas.read_csv(path, sep='\\t'))",
    ".mtx": "data.from_tensors(scipy.io.mmread(path))",
    ".mat": "scipy.io.loadmat(path)[name], then data.from_tensors(x)",
    ".pt": "torch.load(path), then data.from_tensors(x)",
    ".pkl": "data.from_tensors(pandas.read_pickle(path))",
}
_SPARSE = {"data", "format", "shape"}  # arrays of a file that scipy.sparse.save_npz wrote

# What the parsers of NumPy, SciPy, gzip, zip and PNG raise on a file that is truncated or of another kind.
_DAMAGE = (
    OSError, EOFError, ValueError, KeyError, IndexError, TypeError, SyntaxError, NotImplementedError,
    zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@contextmanager
def reading(path: Path, kind: str, hint: str = "") -> Iterator[None]:
    """Turn whatever a parser raises on a missing, damaged or foreign file into one line that names it.

    Raises
    ------
    InputError
        If the body raises what parsers raise.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(str(path), expected=kind, got="no such file", hint=hint) from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(str(path), expected=f"a readable {kind}", got=reason, hint=hint) from error


def read_file(source: str | PathLike[str]) -> Mapping[str, Any]:
    """Return the named arrays of a file, by its ending.

    Raises
    ------
    InputError
        If the file is missing, damaged, of an unknown kind, or holds something other than numbers.
    """
    path = Path(source)
    known = {".npz": _read_npz, ".npy": _read_npy, ".csv": _read_csv}
    reader = known.get(path.suffix.lower())
    if reader is None:
        expected, hint = f"a file ending in {', '.join(known)}", _ELSEWHERE.get(path.suffix.lower(), "")
        raise InputError(str(path), expected=expected, got=shown(path.suffix), hint=hint)
    with reading(path, f"{path.suffix.lower()} file"):
        return reader(path)


def read_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Return arrays of an ``.npz`` file, all of them or those named; nothing in it is executed."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise ValueError("not a zip archive")
    with np.load(path, allow_pickle=False) as archive:
        missing = [name for name in names if name not in archive]
        if missing:
            raise ValueError(f"no array {missing[0]!r} among {', '.join(archive.files)}")
        return {name: archive[name] for name in names or archive.files}


def _read_npz(path: Path) -> Mapping[str, Any]:
    arrays = read_npz(path)
    if arrays.keys() >= _SPARSE:
        from scipy.sparse import load_npz

        return {"x": load_npz(path)}
    return {"x": next(iter(arrays.values()))} if len(arrays) == 1 else arrays


def _read_npy(path: Path) -> Mapping[str, Any]:
    return {"x": np.load(path, allow_pickle=False)}


def _read_csv(path: Path) -> Mapping[str, Any]:
    """Read comma-separated numbers; the first line is a header if it holds no number, or a cell y."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = [cell.strip() for cell in next(csv.reader(file), [])]
    if not first:
        raise InputError(str(path), expected="at least one row", got="an empty file")
    header = "y" in first or not any(_is_number(cell) for cell in first)
    names = first if header else [str(column + 1) for column in range(len(first))]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = file.readlines()[header:]
            if not any(line.strip() for line in lines):
                raise InputError(str(path), expected="at least one row", got="a header only")
            table = np.loadtxt(lines, delimiter=",", ndmin=2, comments=None, quotechar='"')
    except ValueError as error:
        _explain_csv(path, names, header)
        raise error
    label = names.index("y") if "y" in names else None
    x = table if label is None else np.delete(table, label, axis=1)
    columns = tuple(name for name in names if name != "y")
    named = Table(x, columns) if header and len(columns) == x.shape[1] else x
    return {"x": named} if label is None else {"x": named, "y": table[:, label]}


def _explain_csv(path: Path, names: list[str], header: bool) -> None:
    """Raise the line that names the first bad cell or row; NumPy counts neither lines nor columns as an editor does."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        for cells in rows:
            if not cells or (header and rows.line_num == 1):
                continue
            where = f"{path} line {rows.line_num}"
            if len(cells) != len(names):
                raise InputError(where, expected=f"{len(names)} cells", got=f"{len(cells)}")
            for name, cell in zip(names, cells, strict=True):
                if not _is_number(cell):
                    raise InputError(f"{where}, column {name}", expected="a number", got=shown(cell))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_torch(source: Dataset[Any]) -> Mapping[str, Any]:
    """Return the items of a torch data set, each x, (x, y) or a mapping, stacked.

    Raises
    ------
    InputError
        If it is empty, or an item is of another kind or shape than the first.
    """
    if isinstance(source, TensorDataset):
        return _named(source.tensors, row=0)
    items: Any = (source[row] for row in range(len(source))) if hasattr(source, "__len__") else source
    columns: dict[str, list[Tensor]] = {}
    for row, item in enumerate(items):
        named = _named(item, row)
        if row and named.keys() != columns.keys():
            raise InputError(f"item {row}", expected=f"{', '.join(columns)}, as in item 0", got=", ".join(named))
        for name, value in named.items():
            try:
                tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
            except (TypeError, ValueError, RuntimeError) as error:
                got = type(value).__name__
                raise InputError(
                    f"{name} of item {row}", expected="a tensor", got=got, hint="a transform that returns tensors"
                ) from error
            column = columns.setdefault(name, [])
            if column and column[0].shape != tensor.shape:
                expected = f"shape {tuple(column[0].shape)}, as in item 0"
                raise InputError(f"{name} of item {row}", expected=expected, got=f"{tuple(tensor.shape)}")
            column.append(tensor)
    if not columns:
        raise InputError("source", expected="at least one item", got="an empty torch Dataset")
    return {name: torch.stack(column) for name, column in columns.items()}


def _named(item: Any, row: int) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        return item
    values = tuple(item) if isinstance(item, tuple | list) else (item,)
    if not 1 <= len(values) <= 2:
        raise InputError(f"item {row}", expected="x, (x, y) or a mapping", got=f"a tuple of {len(values)}")
    return dict(zip(("x", "y"), values, strict=False))
