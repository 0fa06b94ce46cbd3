"""Naming the first value of a pair that is not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.core.types import Program
from ppl_vae.pairs import sites as traces
from ppl_vae.pairs.observations import bad_parameter


def first_bad_site(programs: tuple[Program, Program], arguments: dict[str, Tensor]) -> str | None:
    """Return a description of the first site that is not finite, the guide's before the model's, or None.

    Of each site, the parameters of its distribution, its value and its log probability are checked, in that order.
    """
    with torch.no_grad():
        run = traces.trace_pair(*programs, (), arguments)
    for program, sites in (("guide", run.guide), ("model", run.model)):
        for name, site in sites.items():
            if outside := bad_parameter(site):
                parameter, wanted, got = outside
                return f"site {name!r} of the {program}: parameter {parameter}, which is to be {wanted}, has {got}"
            for what, value in _parts(site):
                bad = int((~torch.isfinite(value)).sum())
                if bad:
                    return f"site {name!r} of the {program}: {what} has {bad} of {value.numel()} values NaN or infinite"
    return None


def first_bad_parameter(module: nn.Module, *, gradient: bool = False) -> str | None:
    """Return the name of the first parameter that is not finite (or whose gradient is not), or None."""
    for name, parameter in module.named_parameters():
        value = parameter.grad if gradient else parameter
        if value is not None and not bool(torch.isfinite(value).all()):
            return name
    return None


def _parts(site: Any) -> Any:
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    for name in getattr(fn, "arg_constraints", {}):
        parameter = fn.__dict__.get(name)  # not a lazy property, such as Bernoulli's probs beside its logits
        if isinstance(parameter, Tensor):
            yield f"parameter {name}", parameter
    yield "its draw" if not site["is_observed"] else "its observed value", site["value"]
    yield "its log probability", traces.log_prob(site)
