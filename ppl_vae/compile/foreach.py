"""Operations on lists of tensors, in one call for all of them: torch's ``_foreach_`` operators."""

from __future__ import annotations

import torch
from torch import Tensor


def largest_sizes(tensors: list[Tensor]) -> list[Tensor]:
    """Return max |t| of each tensor, a scalar; NaN where an element is."""
    return list(torch._foreach_norm(tensors, ord=torch.inf))


def differences(tensors: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    """Return t - s of each pair of tensors."""
    return list(torch._foreach_sub(tensors, others))


def multiply_in_place(tensors: list[Tensor], factor: float) -> None:
    """Multiply each tensor by `factor`."""
    torch._foreach_mul_(tensors, factor)


def copy_in_place(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each of `sources` into its one of `targets`."""
    torch._foreach_copy_(targets, sources)
