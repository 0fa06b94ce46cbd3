"""The exposure e of a datum, over which its counts were gathered: time, area, the size of a library of reads.

A rate of exp(h) per unit of exposure gives counts of mean e exp(h): log e is added to the logarithm of every mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError, shown
from ppl_vae.core.shapes import batch_size


def rows(exposure: Tensor | None, x: Tensor | None, x_shape: tuple[int, ...], size: int | None = None) -> int:
    """Return B, the rows of `exposure` (B,), which those of x (..., B, *x_shape) and `size` agree with where given.

    Raises
    ------
    InputError
        If there is no exposure, or it has another shape or type.
    """
    exposure = given_for(exposure)
    if not exposure.is_floating_point() or exposure.ndim == 0:
        got = f"{exposure.dtype} of shape {tuple(exposure.shape)}"
        raise InputError("exposure", expected="floating-point numbers (B,)", got=got, hint="exposure.float()")
    given = exposure.shape[-1]
    if x is not None and (wanted := batch_size(x, x_shape, size)) != given:
        raise InputError("exposure", expected=f"{wanted} rows, as x has", got=str(given))
    if size is not None and size != given:
        raise InputError("size", expected=f"{given}, the rows of exposure", got=shown(size))
    return given


def given_for(exposure: Tensor | None) -> Tensor:
    """Return `exposure`, or raise `InputError` where there is none."""
    if exposure is None:
        expected = "one number above 0 per datum"
        raise InputError("exposure", expected=expected, got="none", hint="exposure=torch.ones(n) for rates as they are")
    return exposure


def check_values(exposure: Tensor | None) -> None:
    """Raise `InputError` for an exposure that is not above 0, whichever row of the data has it."""
    if exposure is not None and not bool((exposure > 0).all()):
        row = int((~(exposure.flatten() > 0)).nonzero()[0])
        got = f"{float(exposure.flatten()[row]):.6g} in row {row}"
        raise InputError("exposure", expected="numbers above 0", got=got, hint="leaving such rows out")


def times(exposure: Tensor | None, output: Tensor, D: int) -> Tensor:
    """Return a decoder's output (..., B, P*D) with log e added to the first D numbers, the logarithms of means."""
    log_mean, rest = output[..., :D], output[..., D:]
    return torch.cat((log_mean + given_for(exposure).log().unsqueeze(-1), rest), -1)
