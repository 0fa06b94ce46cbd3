"""How long one run of a recorded graph takes, by a rule: the same for every run of the same program."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils.flop_counter import flop_registry

#: Seconds of an operation's call, of a number that it writes, and of a floating-point operation of a product: about
#: those of one core at 2.5 GHz with vector units of 512 bits.
CALL, NUMBER, FLOP = 8e-6, 1e-9, 1.2e-11


def expected_seconds(graph: GraphModule) -> float:
    """Return the expected seconds of a run: for each operation CALL + NUMBER x numbers + FLOP x its flops."""
    return sum(_seconds(node) for node in graph.graph.nodes if node.op == "call_function")


def _seconds(node: Node) -> float:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return CALL
    return CALL + NUMBER * value.numel() + FLOP * _flops(node, value)


def _flops(node: Node, value: Tensor) -> int:
    """Return the floating-point operations of a matrix product or a convolution; 0 of anything else."""
    if any(not isinstance(used.meta.get("val"), Tensor) for used in node.all_input_nodes):
        return 0  # a sparse matrix
    arguments: list[Any] = [argument.meta["val"] if isinstance(argument, Node) else argument for argument in node.args]
    if str(node.target) == "ppl_vae.linear.default":
        return 2 * value.numel() * arguments[0].shape[-1]
    count = flop_registry.get(getattr(node.target, "overloadpacket", None))
    return 0 if count is None else int(count(*arguments, **node.kwargs, out_val=value))
