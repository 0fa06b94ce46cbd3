"""Conditional data: of each datum, what is to be predicted stays x, and what is known of it becomes c.

given_labels       c = y                          p(x | label)
given_quadrants    c = the picture in part        p(missing pixels | visible pixels)     (Sohn et al. 2015, section 5.1)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_shape
from ppl_vae.data.spec import Spec
from ppl_vae.data.split import Dataset, Split, whole

#: What stands in c for a pixel that is not given; no grey value, so that it differs from a black one.
HIDDEN = -1.0


def given_labels(data: Dataset) -> Dataset:
    """Return `data` with its labels y also as the condition c, (N,) int64.

    Raises
    ------
    InputError
        If the data have no labels.
    """
    whole(data)
    if data.spec.num_classes is None or "y" not in data.train:
        raise InputError(f"labels of {data.name}", expected="a whole-numbered y", got="none", hint='{"x": x, "y": y}')
    return _changed(data, data.spec, lambda split: {**split, "c": split["y"]})


def given_quadrants(data: Dataset, given: int) -> Dataset:
    """Return pictures in part: x the pixels to be predicted, c the picture with these at `HIDDEN`.

    Parameters
    ----------
    data : Dataset
        Pictures, x (N, D) with D = channels * height * width.
    given : {1, 2, 3}
        How many quadrants one sees, clockwise from the lower left: that one; the left half; all but the lower right.

    Returns
    -------
    Dataset
        x (N, D') with D' about D (4 - given) / 4, in the picture's order, and c (N, D); the rest, such as y, as it was.

    Raises
    ------
    InputError
        For another number of quadrants, data that are no pictures, and dynamic binarisation, whose fresh draws of x
        would not be those of c.
    """
    whole(data)
    spec = data.spec
    if spec.image_shape is None:
        raise InputError("quadrants", expected="data with an image shape", got=spec.name, hint="image_shape=(1, H, W)")
    if spec.binarization == "dynamic":
        raise InputError("quadrants", expected="binarization 'none' or 'fixed'", got="'dynamic'", hint="'fixed'")
    hidden = hidden_pixels(spec.image_shape, given)

    def of_hidden(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return None if values is None else tuple(value for value, here in zip(values, hidden, strict=True) if here)

    part = replace(
        spec,
        name=f"{spec.name} given {given} of 4 quadrants",
        x_shape=(int(hidden.sum()),),
        image_shape=None,
        columns=of_hidden(spec.columns),
        shift=of_hidden(spec.shift),
        scale=of_hidden(spec.scale),
    )

    def cut(split: Split) -> dict[str, Tensor]:
        x = split["x"].flatten(1)
        here = hidden.to(x.device)
        return {**split, "x": x[:, here], "c": x.masked_fill(here, HIDDEN)}

    return _changed(data, part, cut)


def hidden_pixels(image_shape: Sequence[int], given: int) -> Tensor:
    """Return which pixels one does not see where so many quadrants are given: boolean, (D,); see `given_quadrants`."""
    given = integer_at_least("given", given, 1, expected="1, 2 or 3 quadrants", maximum=3)
    shape = as_shape("image_shape", image_shape)
    if len(shape) != 3:
        raise InputError("image_shape", expected="(channels, height, width)", got=str(shape))
    lower, right = (torch.arange(size, device="cpu") >= size // 2 for size in shape[1:])
    lower = lower[:, None]
    seen = (lower & ~right, ~lower & ~right, ~lower & right)[:given]
    return (~torch.stack(seen).any(0)).expand(shape).flatten()


def whole_pictures(x: Tensor, c: Tensor, image_shape: Sequence[int], given: int) -> Tensor:
    """Return c (..., D) with x (..., D') in the place of the pixels that are not given."""
    pictures = c.expand(*x.shape[:-1], -1).clone()
    pictures[..., hidden_pixels(image_shape, given).to(c.device)] = x
    return pictures


def _changed(data: Dataset, spec: Spec, change: Callable[[Split], Mapping[str, Tensor]]) -> Dataset:
    parts = {
        role: Split(change(split), spec, role=role, intensities=split._intensities)
        for role, split in data.splits.items()
    }
    return Dataset(parts["train"], parts.get("validation"), parts["test"], data.truth)
