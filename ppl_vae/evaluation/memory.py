"""Memory of a computation per row, from which chunks that fit a budget follow."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ppl_vae.compile.dispatch import DispatchMode
from ppl_vae.core.errors import InputError


class _Counter(DispatchMode):
    """Adds up the bytes of every tensor that the operations inside return."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, list | tuple) else [result]:
            if isinstance(item, Tensor) and not func.is_view:
                self.bytes += item.numel() * item.element_size()
        return result


def bytes_per_row(run: Callable[[int], Any], *, has_run: bool = False) -> float:
    """Return how many bytes ``run(rows)`` allocates per additional row: an upper bound on what it holds at once."""
    if not has_run:  # one-time work, such as a check, must not count as the cost of a row
        allocated(run, 2)
    few, many = allocated(run, 2), allocated(run, 4)
    return max((many - few) / 2, 1.0)


def even(total: int, most: int) -> int:
    """Return the size of the fewest equal parts of at most `most` that hold `total`; at least one."""
    return -(-total // -(-total // max(most, 1)))


def halved(particles: int, data: int, reason: str) -> tuple[int, int]:
    """Return a chunk of half the particles, or of half the data where there is one particle, once memory ran out.

    Call it outside the handler of the error: its traceback keeps the chunk's tensors alive.

    Raises
    ------
    InputError
        If it was one particle of one datum.
    """
    if particles == data == 1:
        raise InputError(
            "memory",
            expected="room for one particle of one datum",
            got=reason,
            hint="a smaller model, or the pair on device 'cpu'",
        )
    torch.cuda.empty_cache()
    return (-(-particles // 2), data) if particles > 1 else (particles, -(-data // 2))


def went_from(planned: tuple[int, int], taken: tuple[int, int]) -> str:
    """Return a message, and warn, that chunks were made smaller than planned, in particles or data."""
    was, now = (f"{particles:,} particles of {data:,} data" for particles, data in (planned, taken))
    change = f"the chunk went from {was} to {now}"
    warnings.warn(f"log p(x) ran out of memory: {change}", stacklevel=5)
    return change


def allocated(run: Callable[[int], Any], rows: int) -> int:
    """Return how many bytes ``run(rows)`` allocates in all."""
    with torch.no_grad(), _Counter() as counter:
        run(rows)
    return counter.bytes
