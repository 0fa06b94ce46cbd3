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
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # On a CPU the kernels are called from C++, which takes a twentieth less time than from Python.
    options = {"fallback_random": True, "compile_threads": 1, "cpp_wrapper": inputs[0].device.type == "cpu"}
    # Gradients are part of the graph: compiled as for inference, it stores nothing for a backward pass.
    # Without an environment of shapes, Inductor does not keep a graph in its cache.
    context = tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)))
    with torch.no_grad(), settings.patch(options), context:
        return torch._inductor.compile(graph, [tensor.detach() for tensor in inputs])
