"""Matrix products in less than float32, everything else as it was: faster on a GPU, at a price in the bound.

float32   products in float32
tf32      inputs of products rounded to 10 bits of mantissa, on NVIDIA GPUs since Ampere; elsewhere float32
bf16      inputs and results of products rounded to bfloat16, 7 bits of mantissa
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ppl_vae.errors import unknown_name

PRECISIONS = ("float32", "tf32", "bf16")

_PRODUCTS = {
    F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.bmm, Tensor.bmm,
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
}  # fmt: skip


def check_precision(name: str) -> str:
    """Return `name`, or raise an InputError if it is none of `PRECISIONS`."""
    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
    return name


@contextmanager
def products_in(name: str) -> Iterator[None]:
    """Set how torch takes float32 products on a GPU, tf32 or not, and put it back after."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def in_precision(program: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return `program` with its products in bfloat16 if that is the precision; tf32 is a setting, see `products_in`."""
    if name != "bf16":
        return program

    def run(*args: Any, **kwargs: Any) -> Any:
        with _Bfloat16():
            return program(*args, **kwargs)

    return run


class _Bfloat16(TorchFunctionMode):
    """Rounds the floating inputs of products to bfloat16, and brings the results back to the type they would have."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS:
            return func(*args, **kwargs)
        dtype = next(value.dtype for value in args if isinstance(value, Tensor))
        rounded = [_rounded(value) for value in args]
        return func(*rounded, **{key: _rounded(value) for key, value in kwargs.items()}).to(dtype)


def _rounded(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value
