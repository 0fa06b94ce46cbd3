"""A recorded graph compiled by Inductor, torch's compiler."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def has_compiler() -> bool:
    """Return whether Inductor's requirement is met: a C++ compiler, or Triton for a GPU."""
    if torch.cuda.is_available():
        return True
    wanted = os.environ.get("CXX", "g++")
    return shutil.which(wanted) is not None or shutil.which("clang++") is not None


def fused(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., list[Tensor]]:
    """Compile `graph` with Inductor, keeping torch's own random numbers."""
    import torch._inductor
    import torch._inductor.config as settings

    # Gradients are part of the graph: compiled as for inference, it stores nothing for a backward pass.
    with torch.no_grad(), settings.patch(fallback_random=True, compile_threads=1):
        return torch._inductor.compile(graph, [tensor.detach() for tensor in inputs])
