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

    _split_off_biases(graph)
    # Gradients are part of the graph: compiled as for inference, it stores nothing for a backward pass.
    with torch.no_grad(), settings.patch(fallback_random=True, compile_threads=1):
        return torch._inductor.compile(graph, [tensor.detach() for tensor in inputs])


def _split_off_biases(graph: torch.fx.GraphModule) -> None:
    """Write b + x w' as a product and a sum: the sum is fused with what follows, and b is not copied to every row."""
    for node in list(graph.graph.nodes):
        if node.target is not torch.ops.aten.addmm.default or node.kwargs or node.meta["val"].device.type != "cpu":
            continue
        bias, left, right = node.args
        with graph.graph.inserting_before(node):
            product = graph.graph.call_function(torch.ops.aten.mm.default, (left, right))
            # A difference, because Inductor makes b + x w' one product with a bias again.
            negative = graph.graph.call_function(torch.ops.aten.neg.default, (bias,))
            total = graph.graph.call_function(torch.ops.aten.sub.Tensor, (product, negative))
        node.replace_all_uses_with(total)
        graph.graph.erase_node(node)
    graph.recompile()
