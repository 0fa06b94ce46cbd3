"""A user's own data: from tensors, arrays, files or a torch data set to a `Dataset`, and any mapping to a `Split`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from ppl_vae.core.checks import check_kind, integer_at_least, number, one_of
from ppl_vae.core.checks import plain as plain_number
from ppl_vae.core.errors import InputError, shown
from ppl_vae.core.shapes import NUMBERS, as_shape
from ppl_vae.data.binarization import binarize
from ppl_vae.data.own import pictures, units
from ppl_vae.data.own.checks import are_counts, as_tensors, known, numbers, require_counts, require_grid, require_unit
from ppl_vae.data.readers import read_file, read_torch
from ppl_vae.data.seeding import generator
from ppl_vae.data.spec import BINARIZATIONS, Spec, Support
from ppl_vae.data.split import Dataset, Role, Split
from ppl_vae.data.tables import Table, is_table, plain, read_table

_SUPPORTS = ("real", "unit", "binary", "count")


def from_tensors(
    source: Any,
    *,
    name: str = "own",
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
    shuffle: bool = True,
    seed: int = 0,
    binarization: str = "none",
    support: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
    channels: str | None = None,
    levels: int | None = None,
    standardise: bool | Spec = False,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Make a data set of the user's own numbers.

    Parameters
    ----------
    source : mapping, Tensor, ndarray, DataFrame, sparse matrix, path or torch Dataset
        ``{"x": x, "y": y}``, or x alone, or a ``.npz`` / ``.npy`` / ``.csv`` file, or a torch `Dataset` of x, (x, y) or
        mappings. x is (N, D) or (N, ...), y is (N,). In a ``.csv`` or a DataFrame (pandas, polars) a column named y is
        the label and the rest is x, whose names `Spec.columns` keeps. Sparse matrices of SciPy become dense.
    name : str
        Name of the data set.
    splits : tuple of three numbers
        Shares of train, validation and test that sum to 1, or numbers of rows. No validation where its entry is 0.
    shuffle : bool
        Whether rows are mixed, by `seed`, before they are split; False keeps the order (time series).
    seed : int
        Seed of the split and of the binarisation.
    binarization : {"none", "fixed", "dynamic"}
        How grey values in [0, 1] become binary.
    support : {"real", "unit", "binary", "count"}, optional
        Where x lies; by default the smallest that holds all its values. Bytes of pictures are then divided by 255;
        where whole numbers may be bytes or counts, this says which.
    image_shape : (channels, height, width), optional
        How to lay one x out as a picture.
    channels : {"first", "last"}, optional
        Where the channels of pictures stand in x; by default inferred from the shapes. x is kept with channels first.
    levels : int, optional
        Number of grey levels. Whole-numbered x in 0..levels-1 is divided by levels-1; other x must lie on that grid.
    standardise : bool or Spec
        Whether each coordinate of real x is brought to mean 0 and standard deviation 1, by those of the training data;
        `Spec.shift` and `Spec.scale` keep them. With the spec of standardised data (those of a fit), by theirs.
        log p(x) is then that of standardised x: `Spec.log_scale` relates it to the units given.
    dtype : torch.dtype
        Floating type of the tensors.

    Raises
    ------
    InputError
        If the source or one of its values does not fit; the text names the argument and the first bad row.

    Warns
    -----
    UserWarning
        Where pictures of bytes are divided by 255, and where real x is of large scale and not standardised.
    """
    one_of("binarization", binarization, BINARIZATIONS)
    check_kind("name", name, str, "a name")
    check_kind("dtype", dtype, torch.dtype, "a floating type of torch", "torch.float32")
    if dtype not in NUMBERS or not dtype.is_floating_point:
        raise InputError("dtype", expected="a floating type of torch", got=str(dtype), hint="torch.float32")
    given = _mapping(source)
    if "x" not in given:
        raise InputError("data", expected="a tensor named 'x'", got=", ".join(map(repr, given)) or "nothing")
    given, columns = _without_columns(given)
    x, image_shape = pictures.channels_first(
        numbers("x", given["x"], keep_bytes=True), _checked_shape(image_shape), channels
    )
    if standardise is not False:
        _check_standardise(standardise, support, levels, binarization)
        x, support = x.double(), "real"
    elif levels is not None:
        levels = integer_at_least("levels", levels, 2, expected="a whole number >= 2")
        x = pictures.grey_levels(x, levels)
    elif support is None:
        x, levels = pictures.told_apart(x, image_shape is not None)
    tensors = as_tensors({**given, "x": x}, None if standardise is not False else dtype)
    if binarization != "none":
        require_unit("x", tensors["x"], "for binarisation", "x / x.max(), or binarization='none'")
    if "x" in tensors and tensors["x"].dim() < 2:  # one number for each datum is for programs that say so: a mapping
        raise InputError(
            "x", expected="shape (N, D) or (N, ...)", got=f"{tuple(tensors['x'].shape)}", hint="x[:, None]"
        )
    spec = _infer(tensors, name, support=support, image_shape=image_shape, levels=levels, columns=columns)

    size = len(tensors["x"])
    counts = _counts(splits, size)
    order = (
        torch.randperm(size, generator=generator(seed, "split"), device="cpu")
        if shuffle
        else torch.arange(size, device="cpu")
    )
    rows: dict[Role, Tensor] = dict(
        zip(("train", "validation", "test"), order[: sum(counts)].split([*counts]), strict=True)
    )
    train = tensors["x"][rows["train"]]
    if standardise is not False:
        spec = units.as_fitted(spec, standardise) if isinstance(standardise, Spec) else units.fitted(spec, train)
        tensors["x"] = spec.standardise(tensors["x"])
        tensors = as_tensors(tensors, dtype)
    else:
        units.warn_of_scale(spec, train)
    parts = {
        role: Split({key: tensor[index] for key, tensor in tensors.items()}, spec, role=role)
        for role, index in rows.items()
        if len(index)
    }
    return binarize(Dataset(parts["train"], parts.get("validation"), parts["test"]), binarization, seed)


def as_split(data: Any, *, name: str = "own", role: Role = "test") -> Split:
    """Return `data` as a split: itself if it is one, else a mapping of tensors with its spec inferred.

    Tensors keep their device and floating type. Where none is called x, the spec describes the first.

    Raises
    ------
    InputError
        If `data` is a whole data set, or not a mapping of tensors with equally many rows and finite values.
    """
    if isinstance(data, Split):
        return data
    if isinstance(data, Dataset):
        parts = " or ".join(f"data.{part}" for part in data.splits)
        raise InputError("data", expected="one split", got=f"the whole data set {data.name!r}", hint=parts)
    if not isinstance(data, Mapping):
        raise InputError("data", expected="a split or a mapping of tensors", got=type(data).__name__, hint='{"x": x}')
    arrays, columns = _without_columns(data)
    if "x" in arrays:
        _refuse_bytes(numbers("x", arrays["x"], keep_bytes=True))
    tensors = as_tensors(arrays)
    return Split(tensors, _infer(tensors, name, columns=columns), role=role)


def _mapping(source: Any) -> Mapping[str, Any]:
    """Return the named arrays of any kind of source."""
    if isinstance(source, Split | Dataset):
        raise InputError(
            "source", expected="the user's own numbers", got=shown(source.spec.name), hint="using it as it is"
        )
    if isinstance(source, Mapping):
        return source
    if isinstance(source, Tensor | np.ndarray | Table):
        return {"x": source}
    if is_table(source):
        return read_table(source)
    if isinstance(source, str | PathLike):
        return read_file(source)
    if isinstance(source, torch.utils.data.Dataset):
        return read_torch(source)
    plain("source", source)
    kinds = "a mapping of tensors, a tensor, an array, a DataFrame, a path or a torch Dataset"
    raise InputError("source", expected=kinds, got=type(source).__name__)


def _refuse_bytes(x: Tensor) -> None:
    """Raise for bytes: whether they are grey levels or counts cannot be inferred."""
    if x.dtype == torch.uint8 and x.numel() and bool((x > 1).any()):
        hint = "x / 255 for pictures, x.float() for counts, or data.from_tensors"
        raise InputError("x", expected="grey levels in [0, 1], or counts", got=f"bytes 0 to {int(x.max())}", hint=hint)


def _without_columns(given: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Return the tables of other libraries among the arrays as arrays, and the names of the columns of x."""
    found, columns = dict(given), None
    for name, value in given.items():
        value = value if isinstance(value, Table) else plain(str(name), value)
        if isinstance(value, Table):
            columns = value.columns if name == "x" else columns
            value = value.values
        found[name] = value
    return found, columns


def _checked_shape(image_shape: Any) -> pictures.ImageShape | None:
    if image_shape is not None and not isinstance(image_shape, list | tuple):
        raise InputError("image_shape", expected="(channels, height, width)", got=shown(image_shape))
    return None if image_shape is None else as_shape("image_shape", image_shape)  # type: ignore[return-value]


def _check_standardise(standardise: Any, support: str | None, levels: int | None, binarization: str) -> None:
    """Raise unless it is an answer, and of real data."""
    if not isinstance(standardise, bool | Spec):
        raise InputError("standardise", expected="True, False or the spec of standardised data", got=shown(standardise))
    for option, value in (("support", support), ("levels", levels), ("binarization", binarization)):
        if value not in (None, "real", "none"):
            raise InputError("standardise", expected="real data", got=f"{option}={value!r}", hint="standardise=False")


def _infer(
    tensors: Mapping[str, Tensor],
    name: str,
    *,
    support: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
    levels: int | None = None,
    columns: tuple[str, ...] | None = None,
) -> Spec:
    x = tensors.get("x", next(iter(tensors.values())))
    x_shape = tuple(x.shape[1:])
    if support is None:
        support = "binary" if bool(((x == 0) | (x == 1)).all()) else "real"
        support = "unit" if support == "real" and bool(((x >= 0) & (x <= 1)).all()) else support
        support = "count" if support == "real" and are_counts(x) else support
    elif one_of("support", support, _SUPPORTS) == "count":
        require_counts("x", x)
    elif support != "real":
        require_unit("x", x, f"for support {support!r}")
    if support == "binary":
        require_grid("x", x, 2)
        levels = 2
    elif levels is not None:
        require_grid("x", x, levels)
    if image_shape is None and len(x_shape) == 3 and pictures.layout(x_shape) == "first":
        image_shape = (x_shape[0], x_shape[1], x_shape[2])
    elif image_shape is not None and (len(image_shape) != 3 or math.prod(image_shape) != math.prod(x_shape)):
        expected = f"(channels, height, width) with {math.prod(x_shape)} values, as x {x_shape} has"
        raise InputError("image_shape", expected=expected, got=f"{tuple(image_shape)}")
    y = tensors.get("y")
    labels = y[known(tensors)] if y is not None and y.dtype == torch.int64 and y.dim() == 1 else None
    checked: Support = support  # type: ignore[assignment]
    return Spec(
        name=name,
        x_shape=x_shape,
        support=checked,
        image_shape=None if image_shape is None else (image_shape[0], image_shape[1], image_shape[2]),
        num_classes=int(labels.max()) + 1 if labels is not None and len(labels) else None,
        levels=levels,
        columns=columns,
    )


def _counts(splits: tuple[float, float, float], size: int) -> tuple[int, int, int]:
    """Return the rows of train, validation and test; every share above 0 gets at least one."""
    expected = "three shares (train, validation, test) that sum to 1, or three numbers of rows; train and test above 0"
    try:
        parts = [plain_number(part) for part in splits]
        train, validation, test = (number("splits", part) for part in parts)
    except (TypeError, ValueError) as error:
        raise InputError("splits", expected=expected, got=shown(splits)) from error
    if not (train > 0 and validation >= 0 and test > 0):
        raise InputError("splits", expected=expected, got=shown(splits))
    if all(isinstance(part, int) for part in parts):
        if sum(parts) > size:
            raise InputError("splits", expected=f"at most the {size} rows of the data", got=shown(splits))
        return int(train), int(validation), int(test)
    if not math.isclose(train + validation + test, 1.0, abs_tol=1e-6):
        raise InputError("splits", expected=expected, got=shown(splits))
    held_out = [max(1, round(share * size)) if share else 0 for share in (validation, test)]
    if sum(held_out) >= size:
        raise InputError("x", expected=f"more rows than {sum(held_out)} to split", got=f"{size}", hint="fewer splits")
    return size - sum(held_out), held_out[0], held_out[1]
