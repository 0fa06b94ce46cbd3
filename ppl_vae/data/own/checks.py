"""Turn what a user hands over into tensors that later floors need not check again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.core.checks import LARGEST_INTEGER
from ppl_vae.core.errors import InputError, shown
from ppl_vae.core.shapes import check_tensor

#: More classes than any data set has: a larger label is a name or a time, and each class costs memory.
MOST_CLASSES = 1_000_000


def as_tensors(source: Mapping[str, Any], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return the checked tensors of a mapping.

    Floating tensors take `dtype` where given and keep theirs otherwise; x becomes floating; whole-numbered y of shape
    (N,) becomes int64 labels; other integers become int64.

    Raises
    ------
    InputError
        If there is nothing, or something is not an array of numbers, has no rows, differs in length from the first
        tensor, or holds NaN, an infinity or a negative label. The text names the tensor and the first bad row.
    """
    if not source:
        raise InputError("data", expected="at least one named tensor", got="an empty mapping")
    tensors: dict[str, Tensor] = {}
    for name, value in source.items():
        if not isinstance(name, str):
            raise InputError("data", expected="names as keys", got=shown(name))
        tensor = numbers(name, value)
        if tensor.dim() == 0 or tensor.numel() == 0:
            raise InputError(name, expected="at least one row", got=f"shape {tuple(tensor.shape)}")
        if name == "x":
            tensor = tensor if tensor.is_floating_point() else tensor.float()
        tensor = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        require_finite(name, tensor)
        tensors[name] = tensor
    first, size = next((name, len(tensor)) for name, tensor in tensors.items())
    for name, tensor in tensors.items():
        if len(tensor) != size:
            raise InputError(name, expected=f"{size} rows, as in {first}", got=f"{len(tensor)}")
    if "y" in tensors:
        tensors["y"] = _labels(tensors["y"], known(tensors))
    return tensors


def known(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return where labels y are to be looked at, boolean, of their shape: where ``labelled`` is True, or everywhere."""
    y, labelled = tensors["y"], tensors.get("labelled")
    masked = labelled is not None and labelled.dtype == torch.bool and labelled.shape == y.shape
    return labelled if masked and labelled is not None else torch.ones_like(y, dtype=torch.bool)


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise unless every value of `tensor` is finite; name the first row that holds another."""
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        _refuse(name, tensor, ~torch.isfinite(tensor), "finite values", "leaving those rows out, or imputing them")


def require_unit(name: str, x: Tensor, why: str, hint: str = "") -> None:
    """Raise unless every value lies in [0, 1]; name the first row that holds another."""
    outside = (x < 0) | (x > 1)
    if bool(outside.any()):
        _refuse(name, x, outside, f"values in [0, 1] {why}", hint)


def require_grid(name: str, x: Tensor, levels: int) -> None:
    """Raise unless every value is one of 0, 1/(levels-1), .., 1; name the first row that holds another."""
    steps = x * (levels - 1)
    off = ((steps - steps.round()).abs() > 1e-3) | (x < 0) | (x > 1)
    if bool(off.any()):
        _refuse(name, x, off, f"the {levels} levels 0, 1/{levels - 1}, .., 1", "another number of levels, or none")


def require_counts(name: str, x: Tensor) -> None:
    """Raise unless every value is a whole number, 0 or more; name the first row that holds another."""
    bad = (x < 0) | (x != x.round())
    if bool(bad.any()):
        _refuse(name, x, bad, "counts, whole numbers from 0 on", "support='real'")


def are_counts(x: Tensor) -> bool:
    """Return whether all values are finite whole numbers, 0 or more."""
    return bool((torch.isfinite(x) & (x >= 0)).all()) and (not x.is_floating_point() or bool((x == x.round()).all()))


def _refuse(name: str, tensor: Tensor, bad: Tensor, expected: str, hint: str) -> None:
    rows = bad.reshape(len(bad), -1).any(dim=1).nonzero()
    row = int(rows[0])
    value = tensor[row][bad[row]].reshape(-1)[0].item()
    got = f"{value:.6g} in row {row} (of {len(tensor)}, counted from 0; {len(rows)} such)"
    raise InputError(name, expected=expected, got=got, hint=hint)


def numbers(name: str, value: Any, *, keep_bytes: bool = False) -> Tensor:
    """Return an array of numbers as a tensor: floating, boolean or int64; bytes as they are with `keep_bytes`.

    Raises
    ------
    InputError
        If it is none: rows of unequal length, text, complex numbers.
    """
    if isinstance(value, Tensor):
        sparse = not (value.is_meta or value.is_nested or value.layout is torch.strided)
        tensor = value.detach().to_dense() if sparse else value.detach()
        # Kept for what is large: torch itself has no operations on unsigned integers but bytes.
        tensor = tensor.long() if tensor.dtype in (torch.uint16, torch.uint32) else tensor
    else:
        _refuse_masked(name, value)
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, RuntimeError) as error:  # rows of unequal length, or tensors without values
            raise InputError(name, expected="a rectangular array of numbers", got="rows of unequal length") from error
        if array.dtype.kind not in "fiub":
            raise InputError(name, expected="an array of numbers", got=f"values of type {array.dtype}")
        if array.dtype.kind == "u" and array.size and int(array.max()) > LARGEST_INTEGER:
            raise InputError(name, expected=f"whole numbers up to {LARGEST_INTEGER}", got=f"{array.max()}")
        floating = np.dtype(np.float64) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
        kind = {"f": floating, "b": np.dtype(bool)}.get(array.dtype.kind, np.dtype(np.int64))
        kind = np.dtype(np.uint8) if array.dtype == np.uint8 else kind
        array = np.ascontiguousarray(array, dtype=kind)
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    check_tensor(name, tensor)
    kept = tensor.is_floating_point() or tensor.dtype == torch.bool or (keep_bytes and tensor.dtype == torch.uint8)
    return tensor if kept else tensor.long()


def _refuse_masked(name: str, value: Any) -> None:
    """Raise for a masked array that hides values: they would come out as whatever stands under the mask."""
    if np.ma.is_masked(value):
        hidden = np.ma.getmaskarray(value)
        raise InputError(
            name,
            expected="values that are all there",
            got=f"a masked array, {int(hidden.sum())} of {hidden.size} values hidden",
            hint="leaving those rows out, or imputing them",
        )


def _labels(y: Tensor, known: Tensor) -> Tensor:
    if y.dim() != 1:
        return y
    if y.is_floating_point() and bool(((y != y.round()) | (y < -1)).any()):  # measurements
        return y
    y = y.long()
    if bool(((y >= MOST_CLASSES) & known).any()):
        _refuse("y", y, (y >= MOST_CLASSES) & known, f"labels 0..C-1 below {MOST_CLASSES:,}", "counting classes from 0")
    if bool(((y < 0) & known).any()):
        _refuse("y", y, (y < 0) & known, "labels 0..C-1", "a boolean mask 'labelled', or leaving those rows out")
    return y
