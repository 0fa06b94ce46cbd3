"""Whether a recording agrees with its program: both are run on the same data, and their results compared.

    |r_i - p_i| <= t max_j |p_j|       recorded r, computed p; t is 1,000 units of rounding, or 5 % if that is less

A larger difference is compared with the program's sensitivity: the change of its results where its parameters are moved
by one unit of rounding, at random. A difference over thirty times as large is not rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.compile.foreach import differences, largest_sizes
from ppl_vae.core.errors import one_line

Results = Mapping[str, Tensor | None]

#: Units of rounding by which two computations of a result may differ, and the largest share of the result.
UNITS, LARGEST = 1000.0, 0.05

#: Largest ratio of a difference to the change of a result under rounding of the parameters.
FACTOR = 30.0

_EPSILON = {"tf32": 2.0**-10, "bf16": 2.0**-8}


def other_rows(values: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of the same shapes that hold the first half of their rows, each row twice, as other data."""
    index = torch.arange(len(values[0]), device=values[0].device) // 2
    return [value[index] for value in values]


def differing(
    recorded: Results,
    computed: Results,
    again: Callable[[bool], Results] | None = None,
    *,
    precision: str = "float32",
    share: float = 0.0,
) -> str:
    """Return, as text, the first result in which a recording differs from the program beyond rounding; empty if none.

    Parameters
    ----------
    recorded, computed : mapping of str to Tensor or None
        Results by name; None where the program has no such result, as a parameter may have no gradient.
    again : callable, optional
        Returns `computed` once more, from the same random state; for True of parameters moved by a unit of rounding.
    precision : {"float32", "tf32", "bf16"}
        Of matrix products.
    share : float
        Share of a result's elements that may differ: those decided by a comparison of nearly equal numbers.
    """
    suspects = [
        name
        for name in _not_alike(recorded, computed, precision)
        if _apart(recorded.get(name), computed[name], None, precision, share)
    ]
    if not suspects:
        return ""
    if again is None:
        return f"{suspects[0]} {_apart(recorded.get(suspects[0]), computed[suspects[0]], None, precision, share)}"
    repeated = again(False)
    for name in suspects:
        if _apart(repeated.get(name), computed[name], None, precision, share):
            return f"{name} is another each time that the program is run, all else being equal"
    moved = again(True)
    for name in suspects:
        if gap := _apart(recorded.get(name), computed[name], (moved.get(name), computed[name]), precision, share):
            return f"{name} {gap}"
    return ""


def _not_alike(recorded: Results, computed: Results, precision: str) -> list[str]:
    """Return the names of results that are not equal to rounding: all in one pass, with one read-back."""
    names, pairs = [], []
    for name, p in computed.items():
        r = recorded.get(name)
        if r is not None and p is not None and p.is_floating_point() and r.shape == p.shape and p.numel():
            names.append(name)
            pairs.append((r.detach(), p.detach(), _allowed(p.dtype, precision)))
    if not names:
        return list(computed)
    rs, ps, allowed = (list(column) for column in zip(*pairs, strict=True))
    gaps = torch.stack([norm.double() for norm in largest_sizes(differences(rs, ps))])
    sizes = torch.stack([norm.double() for norm in largest_sizes(ps)])
    alike = (gaps <= torch.tensor(allowed, dtype=torch.float64, device=gaps.device) * sizes).tolist()
    found = {name for name, same in zip(names, alike, strict=True) if same}
    return [name for name in computed if name not in found]


def _allowed(dtype: torch.dtype, precision: str) -> float:
    """Return the relative difference that two computations of a result may have."""
    return min(UNITS * max(torch.finfo(dtype).eps, _EPSILON.get(precision, 0.0)), LARGEST)


def _apart(
    recorded: Tensor | None,
    computed: Tensor | None,
    rounding: tuple[Tensor | None, Tensor | None] | None,
    precision: str,
    share: float,
) -> str:
    """Return, as text, how much two results differ; empty where that is rounding."""
    if recorded is None and computed is None:
        return ""
    if recorded is None:
        return "is missing in the recording"
    if computed is None:
        return "is in the recording alone"
    if recorded.shape != computed.shape:
        return f"is of shape {tuple(recorded.shape)} in the recording, {tuple(computed.shape)} in the program"
    if not computed.is_floating_point():
        return "" if torch.equal(recorded, computed) else "is another"
    r, p = recorded.detach().double().flatten(), computed.detach().double().flatten()
    same = (r == p) | (r.isnan() & p.isnan())
    gap = torch.where(same, 0.0, (r - p).abs().nan_to_num(torch.inf, posinf=torch.inf))
    finite = p[p.isfinite()].abs()
    size = float(finite.max()) if len(finite) else 0.0
    allowed = _allowed(computed.dtype, precision) * size
    if rounding is not None and rounding[0] is not None and rounding[1] is not None:
        noise = (rounding[0].detach().double() - rounding[1].detach().double()).abs()
        allowed = max(allowed, FACTOR * float(noise.nan_to_num(0.0, posinf=0.0).max()))
    if int((gap > allowed).sum()) <= share * len(gap):
        return ""
    worst = int(gap.argmax())
    return f"is {float(r[worst]):.6g} in the recording, {float(p[worst]):.6g} in the program"


@contextmanager
def moved_by_rounding(module: nn.Module, precision: str = "float32") -> Iterator[None]:
    """Move every floating parameter of `module` by one unit of rounding, up or down at random, and restore it."""
    parameters = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    kept = [parameter.detach().clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            signs = torch.randint(0, 2, parameter.shape, generator=generator, device="cpu").mul(2).sub(1).to(parameter)
            unit = max(torch.finfo(parameter.dtype).eps, _EPSILON.get(precision, 0.0))
            parameter.mul_(1 + unit * signs)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def drawn_differently(after: Mapping[str, Any], device: torch.device) -> str:
    """Return a message if the random state is not `after`, that of the program; always empty on a GPU."""
    same = device.type != "cpu" or torch.equal(torch.get_rng_state(), after["random"])
    return "" if same else "it draws other random numbers"


def broken_off(error: Exception) -> str:
    """Return a message for a recording that raised an error."""
    return f"it broke off ({one_line(error, 120)})"
