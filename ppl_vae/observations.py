"""What a batch may hold: finite values of one length, each observed by the site of its name and in its support."""

from __future__ import annotations

import difflib
import re
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import InputError, PairError, unknown_name
from ppl_vae.modalities import mask_name
from ppl_vae.traces import Site
from ppl_vae.types import Batch


@lru_cache  # every step has a batch of the same names
def check_left_out(left_out: frozenset[str], taken: frozenset[str], absent: frozenset[str]) -> None:
    """Raise for a tensor that no program takes, and that was meant to be taken.

    That is the mask of one that is taken, whose hidden values would count, and one whose name is close to an argument's
    that is absent, unless they differ in their numbers, as joints2d and joints3d do.
    """

    def number(name: str) -> str:
        return re.sub(r"\D", "", name)

    for name in left_out:
        if name in map(mask_name, taken):
            got, hint = "programs without one", "leaving out the rows that it hides"
            raise InputError(name, expected="a mask that the programs take", got=got, hint=hint)
        if difflib.get_close_matches(name, [other for other in absent if number(other) == number(name)], 1, 0.8):
            raise unknown_name("argument", name, absent)


def check_values(batch: Batch) -> None:
    """Raise where a tensor is empty, holds NaN or infinities, or differs in length from the others."""
    lengths = {name: value.shape[0] if value.dim() else 0 for name, value in batch.items()}
    for name, length in lengths.items():
        if length == 0:
            raise InputError(f"{name}", expected="at least one datum", got=f"shape {tuple(batch[name].shape)}")
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError("batch", expected="tensors of one leading length", got=told)
    for name, value in batch.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = ~torch.isfinite(value).flatten(1 if value.dim() > 1 else 0)
            rows = bad.any(-1) if value.dim() > 1 else bad
            raise InputError(
                name,
                expected="finite values",
                got=f"{int(bad.sum())} NaN or infinite, the first in row {int(rows.nonzero()[0])}",
                hint="removing or imputing those rows",
            )


def check_name(name: str, site: Site, few: dict[str, Tensor]) -> None:
    """Raise unless an observed site has the name of the argument that it observes."""
    for argument, value in few.items():
        if site["value"] is value and argument != name:
            raise PairError(
                f"site {name!r}",
                expected=f"the name of the argument that it observes, {argument!r}",
                got=repr(name),
                hint=f"pyro.sample({argument!r}, …, obs={argument})",
            )


def check_support(name: str, fn: Any, value: Tensor) -> None:
    """Every value the batch observes lies in the support of its likelihood."""
    want, have = tuple(fn.event_shape), tuple(value.shape[value.dim() - len(fn.event_shape) :])
    if want != have or value.dim() != len(want) + 1:
        raise InputError(name, expected=f"shape (N, {', '.join(map(str, want))})", got=str(tuple(value.shape)))
    try:
        good = inside(fn, value)
    except RuntimeError:
        return  # a support that depends on the datum: checked on the first rows instead
    if not bool(good.all()):
        row = int((~good).nonzero()[0, 0])
        raise InputError(
            name,
            expected=f"values in the support of its likelihood ({support_name(fn)})",
            got=f"{int((~good).sum())} rows outside, the first row {row} with values in "
            f"[{float(value[row].min()):.4g}, {float(value[row].max()):.4g}]",
            hint="another likelihood"
            + (", or binarization='fixed' for grey values" if _is_grey(value) else ", or other units of the data"),
        )


def inside(fn: Any, value: Tensor) -> Tensor:
    """Tell which values lie in the support of a distribution; all of them where it does not say what that is."""
    try:
        return fn.support.check(value)
    except NotImplementedError:
        return torch.ones((), dtype=torch.bool, device=value.device)


def support_name(fn: Any) -> str:
    """Return the support of a distribution in words, for an error."""
    support = fn.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return str(support).removesuffix("()")


def _is_grey(value: Tensor) -> bool:
    return bool((value >= 0).all() & (value <= 1).all())
