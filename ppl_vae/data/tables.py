"""Tables of other libraries as arrays with the names of their columns: DataFrames and sparse matrices.

They are known by the module of their class, so that none of these libraries has to be there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_vae.core.errors import InputError

_FRAMES = ("pandas", "polars")


@dataclass(frozen=True)
class Table:
    """An array (N, D) with the names of its D columns."""

    values: np.ndarray
    columns: tuple[str, ...]


def is_table(source: Any) -> bool:
    """Return whether `source` is a DataFrame or a sparse matrix."""
    return _is_frame(source) or _is_sparse(source)


def read_table(source: Any) -> Mapping[str, Any]:
    """Return a DataFrame or a sparse matrix as x; a column named y is the label, as in a ``.csv``.

    Raises
    ------
    InputError
        As `plain` does.
    """
    if not _is_frame(source):
        return {"x": plain("x", source)}
    names = [str(name) for name in source.columns]
    if "y" not in names:
        return {"x": plain("x", source)}
    label = names.index("y")
    columns = [_column(source, place) for place in range(len(names))]
    x = np.stack([column for place, column in enumerate(columns) if place != label], 1) if len(names) > 1 else None
    if x is None:
        raise InputError("x", expected="columns beside y", got="none")
    return {"x": Table(x, tuple(name for name in names if name != "y")), "y": columns[label]}


def plain(name: str, value: Any) -> Any:
    """Return a DataFrame as a `Table`, a sparse matrix as an array, and anything else as it is.

    Raises
    ------
    InputError
        For a column that holds other than finite numbers, named; a sparse matrix that memory cannot hold as a dense
        one; and an AnnData, whose counts may lie in more than one place.
    """
    if _is_frame(value):
        columns = [_column(value, place) for place in range(len(value.columns))]
        if not columns:
            raise InputError(name, expected="at least one column", got="none")
        return Table(np.stack(columns, 1), tuple(str(column) for column in value.columns))
    if _is_sparse(value):
        return _dense(name, value)
    if _library(value) == "anndata" and hasattr(value, "X"):
        hint = "{'x': adata.X}, or {'x': adata.layers['counts']} for counts that X no longer holds"
        raise InputError(name, expected="an array of numbers", got="an AnnData", hint=hint)
    return value


def _library(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _is_frame(value: Any) -> bool:
    return _library(value) in _FRAMES and hasattr(value, "columns") and hasattr(value, "to_numpy")


def _is_sparse(value: Any) -> bool:
    return type(value).__module__.startswith("scipy.sparse") and hasattr(value, "toarray")


def _column(frame: Any, place: int) -> np.ndarray:
    """Return a column as numbers; columns of the same name are distinguished by position."""
    name = str(frame.columns[place])
    column = frame.iloc[:, place] if hasattr(frame, "iloc") else frame[:, place]
    array = np.asarray(column.to_numpy())
    if array.dtype.kind not in "fiub":
        got = f"values of type {column.dtype}"
        hint = "leaving it out or filling its gaps, df.astype(float), or pd.get_dummies(df) for words"
        raise InputError(f"column {name!r}", expected="numbers", got=got, hint=hint)
    bad = ~np.isfinite(array) if array.dtype.kind == "f" else np.zeros(len(array), dtype=bool)
    if bad.any():
        row = int(bad.argmax())
        got = f"{array[row]:.6g} in row {row} (of {len(array)}, counted from 0; {int(bad.sum())} such)"
        hint = "leaving those rows out, or imputing them"
        raise InputError(f"column {name!r}", expected="finite values", got=got, hint=hint)
    return array


def _dense(name: str, value: Any) -> np.ndarray:
    rows, columns = value.shape
    size = rows * columns * max(value.dtype.itemsize, 8)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # no POSIX
        memory = size
    if size > memory:
        got = f"{rows:,} rows and {columns:,} columns, {size / 1e9:,.1f} GB as a dense one"
        hint = "fewer columns, such as those that vary most"
        raise InputError(name, expected="a matrix that memory can hold as a dense one", got=got, hint=hint)
    return np.asarray(value.toarray())
