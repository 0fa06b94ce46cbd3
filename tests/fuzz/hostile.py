"""Values that a public call is not made for: each by name, so that a drawn call can be printed and made again."""

import datetime as dt
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

ROWS, D = 12, 4


class _Ill:
    """An object that cannot even be printed."""

    def __repr__(self):
        raise RuntimeError("no repr")


#: Numbers, scalars of other libraries, text, containers and objects.
PLAIN = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "0": lambda: 0,
    "-1": lambda: -1,
    "2.5": lambda: 2.5,
    "1e308": lambda: 1e308,
    "2**31": lambda: 2**31,
    "10**12": lambda: 10**12,
    "2**63": lambda: 2**63,
    "10**400": lambda: 10**400,
    "10**5000": lambda: 10**5000,
    "1j": lambda: 1j,
    "np.float64(0.5)": lambda: np.float64(0.5),
    "np.float32(nan)": lambda: np.float32("nan"),
    "np.int64(3)": lambda: np.int64(3),
    "np.uint8(3)": lambda: np.uint8(3),
    "np.bool_(True)": lambda: np.bool_(True),
    "np.str_('tanh')": lambda: np.str_("tanh"),
    "np.datetime64": lambda: np.datetime64("2020-01-01"),
    "np.array(2.0)": lambda: np.array(2.0),
    "np.array([1.0])": lambda: np.array([1.0]),
    "tensor(1.0)": lambda: torch.tensor(1.0),
    "tensor(3)": lambda: torch.tensor(3),
    "tensor(nan)": lambda: torch.tensor(float("nan")),
    "tensor([1, 2])": lambda: torch.tensor([1, 2]),
    "''": lambda: "",
    "text": lambda: "no such thing",
    "two lines": lambda: "one\ntwo\x1b[31m",
    "NUL": lambda: "a\0b",
    "long text": lambda: "long" * 5000,
    "bytes": lambda: b"bytes",
    "[]": list,
    "()": lambda: (),
    "[1, 2]": lambda: [1, 2],
    "[None]": lambda: [None],
    "(-1, 0)": lambda: (-1, 0),
    "[['a'], 1]": lambda: [["a"], 1],
    "{}": dict,
    "{'x': 1}": lambda: {"x": 1},
    "{1: 2}": lambda: {1: 2},
    "{'x': {'y': None}}": lambda: {"x": {"y": None}},
    "{None}": lambda: {None},
    "range(3)": lambda: range(3),
    "iterator": lambda: iter([1, 2]),
    "object()": object,
    "unprintable": _Ill,
    "int": lambda: int,
    "len": lambda: len,
    "lambda": lambda: lambda *_, **__: None,
    "error": lambda: ValueError("x"),
    "date": lambda: dt.date(2020, 1, 1),
    "Path": lambda: Path("no such file.csv"),
    "torch": lambda: torch,
    "torch.float32": lambda: torch.float32,
    "torch.device('meta')": lambda: torch.device("meta"),
    "'meta'": lambda: "meta",
    "Linear": lambda: torch.nn.Linear(2, 2),
    "Generator": torch.Generator,
}


#: Types of torch, those without operations among them.
DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2", "bool", "complex64",
        "int8", "int32", "uint8", "uint16", "uint64",
    )
}  # fmt: skip


def _of(dtype, *shape):
    return torch.ones(shape or (ROWS, D)).to(dtype)


#: Arrays of a kind, a shape or with values that do not fit.
ARRAYS = {
    "no rows": lambda: torch.zeros(0, D),
    "no columns": lambda: torch.zeros(ROWS, 0),
    "one row": lambda: torch.zeros(1, D),
    "other width": lambda: torch.zeros(ROWS, D + 1),
    "other length": lambda: torch.zeros(ROWS + 3, D),
    "vector": lambda: torch.zeros(ROWS),
    "rank 3": lambda: torch.zeros(ROWS, D, 2),
    "rank 7": lambda: torch.zeros(1, 1, 1, 1, 1, 2, D),
    "NaN": lambda: torch.full((ROWS, D), float("nan")),
    "inf": lambda: torch.full((ROWS, D), float("inf")),
    "1e38": lambda: torch.full((ROWS, D), 3e38),
    "-999": lambda: torch.full((ROWS, D), -999.0),
    "labels -1": lambda: torch.full((ROWS,), -1),
    "labels 10**12": lambda: torch.full((ROWS,), 10**12),
    "labels 0.5": lambda: torch.full((ROWS,), 0.5),
    **{name: partial(_of, dtype) for name, dtype in DTYPES.items()},
    "sparse": lambda: _of(torch.float32).to_sparse(),
    "sparse CSR": lambda: _of(torch.float32).to_sparse_csr(),
    "meta": lambda: torch.zeros(ROWS, D, device="meta"),
    "quantised": lambda: torch.quantize_per_tensor(_of(torch.float32), 0.1, 0, torch.quint8),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "with gradient": lambda: torch.ones(ROWS, D, requires_grad=True) * 2,
    "expanded": lambda: torch.ones(1, D).expand(ROWS, D),
    "masked": lambda: np.ma.masked_less(np.full((ROWS, D), -999.0), 0),
    "masked, none": lambda: np.ma.masked_array(np.ones((ROWS, D))),
    "np.float64": lambda: np.ones((ROWS, D)),
    "np.float16": lambda: np.ones((ROWS, D), np.float16),
    "np.longdouble": lambda: np.ones((ROWS, D), np.longdouble),
    "np.uint64": lambda: np.full((ROWS, D), 2**63, np.uint64),
    "np.complex128": lambda: np.ones((ROWS, D), complex),
    "np.object": lambda: np.array([[None] * D] * ROWS, object),
    "np.str": lambda: np.array([["a"] * D] * ROWS),
    "np.datetime64": lambda: np.full((ROWS, D), np.datetime64("2020-01-01")),
    "np.record": lambda: np.zeros(ROWS, [("a", float), ("b", int)]),
    "read-only": lambda: np.broadcast_to(np.float32(1.0), (ROWS, D)),
    "big endian": lambda: np.ones((ROWS, D), ">f4"),
    "backwards": lambda: np.ones((ROWS, D))[::-1],
    "lists": lambda: [[1.0] * D] * ROWS,
    "unequal lists": lambda: [[1.0], [1.0, 2.0]],
    "of objects": lambda: [[object()]],
}

HOSTILE = {**PLAIN, **{f"array: {name}": make for name, make in ARRAYS.items()}}


def _values(made):
    return made.map(lambda value: (repr(value), lambda: value))


#: A hostile value: its name, and a function that makes it.
values = st.one_of(
    st.sampled_from(sorted(HOSTILE)).map(lambda name: (name, HOSTILE[name])),
    _values(st.integers()),
    _values(st.floats()),
    _values(st.text(max_size=6)),
    _values(st.binary(max_size=4)),
    _values(st.lists(st.integers(-2, 5) | st.floats(-1, 2) | st.none() | st.text(max_size=3), max_size=3)),
    _values(st.dictionaries(st.text(max_size=3), st.integers(-1, 3) | st.none(), max_size=2)),
)

#: The same among the entries of a batch.
arrays = st.sampled_from(sorted(HOSTILE)).map(lambda name: (name, HOSTILE[name]))
