"""Matrix products in less than float32, everything else unchanged: faster on a GPU, less accurate.

float32   products in float32
tf32      inputs of products rounded to 10 bits of mantissa, on NVIDIA GPUs since Ampere; elsewhere float32
bf16      inputs and results of products rounded to bfloat16, 7 bits of mantissa
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ppl_vae.core.checks import one_of

PRECISIONS = ("float32", "tf32", "bf16")

_PRODUCTS = {
    F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.bmm, Tensor.bmm,
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
}  # fmt: skip

#: Backends and operations that have a precision of their own. By their keys, because the setter of
#: `torch.backends.mkldnn.fp32_precision` is that of all backends.
_OPERATIONS = [
    ("generic", "all"),
    ("cuda", "all"),
    ("mkldnn", "all"),
    *product(("cuda", "mkldnn"), ("matmul", "conv", "rnn")),
]


def check_precision(name: str) -> str:
    """Return `name`, or raise an InputError if it is none of `PRECISIONS`."""
    return str(one_of("precision", name, PRECISIONS))


@contextmanager
def products_in(name: str) -> Iterator[None]:
    """Set how torch takes float32 products on a GPU, tf32 or not, and restore it afterwards."""
    with _settings_kept():
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = name == "tf32"
        yield


@contextmanager
def _settings_kept() -> Iterator[None]:
    """Restore torch's settings of products, whichever of its two interfaces set them.

    The older one has two settings, and raises where the newer one, of torch 2.9, has set something else. The newer one
    has a setting for each operation, which is that of its backend, or of all backends, where it is "none". Inside
    the context all are "none", so that the older one can be used.
    """
    keys = _OPERATIONS if hasattr(torch._C, "_set_fp32_precision_setter") else []
    seen = [torch._C._get_fp32_precision_getter(*key) for key in keys]
    own = []
    for key in keys:  # with the backends' settings "none", an operation's own is read
        own.append(torch._C._get_fp32_precision_getter(*key))
        torch._C._set_fp32_precision_setter(*key, "none")
    matmul = torch.get_float32_matmul_precision()
    try:
        cudnn = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # it disagrees with "none"
        cudnn = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn
        for key, setting, was in zip(keys, own, seen, strict=True):
            torch._C._set_fp32_precision_setter(*key, setting)
            if torch._C._get_fp32_precision_getter(*key) != was:  # cuDNN's tf32 was a default, not a setting
                torch._C._set_fp32_precision_setter(*key, was)


def in_precision(program: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return `program` with its products in bfloat16 if that is the precision; tf32 is a setting, see `products_in`."""
    if name != "bf16":
        return program

    def run(*args: Any, **kwargs: Any) -> Any:
        with _Bfloat16():
            return program(*args, **kwargs)

    return run


class _Bfloat16(TorchFunctionMode):
    """Rounds the floating inputs of products to bfloat16, and casts the results to the type they would have."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS:
            return func(*args, **kwargs)
        dtype = next(value.dtype for value in args if isinstance(value, Tensor))
        rounded = [_rounded(value) for value in args]
        return func(*rounded, **{key: _rounded(value) for key, value in kwargs.items()}).to(dtype)


def _rounded(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value
