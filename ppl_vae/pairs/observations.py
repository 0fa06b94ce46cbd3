"""What a batch may hold: finite values of one length, each observed by the site of its name and in its support."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from pyro.distributions import (
    Categorical,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    TransformedDistribution,
)
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.core.errors import InputError, PairError
from ppl_vae.core.types import Batch, Program
from ppl_vae.nn.modalities import mask_name
from ppl_vae.pairs.folding import Unfolded
from ppl_vae.pairs.sites import Record, Site, trace_pair

#: Rows that the programs are run on at once, where each has a support of its own.
_AT_ONCE = 1000


def check_values(batch: Batch) -> None:
    """Raise where a tensor is empty, holds NaN or infinities, or differs in length from the others."""
    lengths = {name: value.shape[0] if value.dim() else 0 for name, value in batch.items()}
    for name, length in lengths.items():
        if length == 0:
            raise InputError(f"{name}", expected="at least one datum", got=f"shape {tuple(batch[name].shape)}")
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError("batch", expected="tensors of one leading length", got=found)
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


def check_sites(run: Record) -> None:
    """Raise for the first site of model or guide with a parameter or a value that its distribution does not allow."""
    for program, sites in run.programs.items():
        for name, site in sites.items():
            check_parameters(name, site, program)
            if _is_finite(site["value"]):
                _check_value(name, site)


def _check_value(name: str, site: Site, start: int = 0) -> None:
    """Raise for values of a site outside the support of their distribution; masked ones may be anything."""
    good = inside(site["fn"], site["value"])
    if not bool(good.all()) and not _hidden(good, [site["mask"], getattr(site["fn"], "_mask", None)]):
        _raise_outside(name, site["fn"], site["value"], good, start)


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def check_parameters(name: str, site: Site, program: str) -> None:
    """Raise where a parameter of a site's distribution violates its constraint, such as a negative scale."""
    if bad := bad_parameter(site):
        parameter, wanted, got = bad
        raise PairError(
            f"site {name!r}",
            expected=f"a {parameter} that is {wanted} in the {program}",
            got=got,
            hint=".exp() of what the network gives, or softplus" if "0" in wanted or "positive" in wanted else "",
        )


def bad_parameter(site: Site) -> tuple[str, str, str] | None:
    """Return the first parameter that violates its constraint: its name, the constraint and the value, as text.

    Masked elements may have any value; values that are not finite are reported elsewhere.
    """
    fn, masks = site["fn"], [site["mask"]]
    while hasattr(fn, "base_dist"):
        masks.append(getattr(fn, "_mask", None))
        fn = fn.base_dist
    for name, constraint in getattr(fn, "arg_constraints", {}).items():
        value = fn.__dict__.get(name)  # not a lazy property, such as Bernoulli's probs beside its logits
        if not isinstance(value, Tensor) or constraints.is_dependent(constraint) or not _is_finite(value):
            continue
        good = constraint.check(value.detach())
        if bool(good.all()) or _hidden(good, masks):
            continue
        described = str(constraint).removesuffix("()").removeprefix("GreaterThan").strip("()")
        wanted = "positive" if constraint is constraints.positive else described
        lowest, highest = float(value.detach().min()), float(value.detach().max())
        return name, wanted, f"{int((~good).sum())} of {good.numel()} outside, in [{lowest:.4g}, {highest:.4g}]"
    return None


def _hidden(good: Tensor, masks: list[Any]) -> bool:
    """Return whether masks hide all elements that are not good."""
    for mask in masks:
        if mask is None or mask is True:
            continue
        hidden = ~torch.as_tensor(mask, device=good.device)
        while hidden.dim() < good.dim():
            hidden = hidden.unsqueeze(-1)
        if bool((good | hidden).all()):
            return True
    return False


def check_supports(sites: Mapping[str, Site], arguments: dict[str, Tensor], programs: tuple[Program, Program]) -> None:
    """Raise for observed values of the batch outside the support of their distribution.

    Where the support is the same for all rows, the values are compared with it directly; else the programs are run on
    all rows.
    """
    by_row = []
    for name, site in sites.items():
        inner = isinstance(site["fn"], Unfolded)  # plates inside a datum may stand in any order
        if name not in arguments or inner or _differs_by_row(site["fn"]):
            by_row.append(name)
        if name in arguments and not inner:
            mask = arguments.get(mask_name(name))  # hidden values may be anything
            shown = arguments[name] if mask is None else arguments[name][mask]
            check_support(name, site["fn"], shown, by_shape=name in by_row)
    size = len(next(iter(arguments.values())))
    for start in range(0, size if by_row else 0, _AT_ONCE):
        rows = {name: value[start : start + _AT_ONCE] for name, value in arguments.items()}
        run = trace_pair(*programs, (), rows)
        for name in by_row:
            _check_value(name, run.model[name], start)


def _differs_by_row(fn: Any) -> bool:
    """Return whether the support of a distribution depends on its parameters, as a binomial's on its total count."""
    while isinstance(fn, Independent | ExpandedDistribution | MaskedDistribution):
        fn = fn.base_dist
    if isinstance(fn, Categorical | TransformedDistribution):  # of as many values, or of one image, for all rows
        return False
    return isinstance(inspect.getattr_static(type(fn), "support", None), constraints.dependent_property)


def check_support(name: str, fn: Any, value: Tensor, *, by_shape: bool = False) -> None:
    """Raise for values of another shape than the likelihood's or, but with `by_shape`, outside its support."""
    want, have = tuple(fn.event_shape), tuple(value.shape[value.dim() - len(fn.event_shape) :])
    if want != have or value.dim() != len(want) + 1:
        raise InputError(name, expected=f"shape (N, {', '.join(map(str, want))})", got=str(tuple(value.shape)))
    if by_shape:
        return
    good = inside(fn, value)
    if not bool(good.all()):
        _raise_outside(name, fn, value, good, 0)


def _raise_outside(name: str, fn: Any, value: Tensor, good: Tensor, start: int) -> NoReturn:
    row = int((~good).nonzero()[0, 0]) if good.dim() else 0
    raise InputError(
        name,
        expected=f"values in the support of its likelihood ({support_name(fn)})",
        got=f"{int((~good).sum())} rows outside, the first row {start + row} with values in "
        f"[{float(value[row].min()):.4g}, {float(value[row].max()):.4g}]",
        hint="another likelihood"
        + (", or binarization='fixed' for grey values" if _is_grey(value) else ", or other units of the data"),
    )


def inside(fn: Any, value: Tensor) -> Tensor:
    """Return which values lie in the support of a distribution; all of them where it does not define one."""
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
