"""Formats of the files of a run: columns of numbers as CSV, and parameters together with the history up to them.

The header of ``model.safetensors`` has the history too, so that parameters and history are of the same checkpoint even
if the process was killed between two files; ``history.csv`` is its copy for other programs.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

from ppl_vae.core.checks import plain

History = dict[str, list[float]]


def columns_to_csv(columns: History) -> str:
    """Return columns of numbers as CSV; `repr` keeps every bit of a float."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*([repr(plain(value)) for value in column] for column in columns.values()), strict=True))
    return text.getvalue()


def columns_from_csv(text: str) -> History:
    """Read what `columns_to_csv` returned.

    Raises
    ------
    ValueError
        If it is something else.
    """
    header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"rows of other lengths than {len(header)}")
    columns: History = {name: [float(row[i]) for row in rows] for i, name in enumerate(header)}
    if "epoch" in columns:
        if columns["epoch"] != list(range(1, len(rows) + 1)):
            raise ValueError("epochs that are not numbered from 1 on")
        columns["epoch"] = list(range(1, len(rows) + 1))
    return columns


def model_to_bytes(state: Mapping[str, Tensor], history: History) -> bytes:
    """Return the content of ``model.safetensors``: parameters by name, and the history in its header."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    return safetensors.torch.save(tensors, {"history": columns_to_csv(history)})


def model_from_bytes(content: bytes) -> tuple[dict[str, Tensor], History | None]:
    """Read what `model_to_bytes` returned; a file of a version that wrote none has no history.

    Raises
    ------
    ValueError, SafetensorError
        If it is something else.
    """
    state = safetensors.torch.load(content)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    return state, columns_from_csv(header["history"]) if "history" in header else None
