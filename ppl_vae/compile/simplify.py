"""A recorded graph without the operations that it does not need: fewer calls, and the same numbers bit for bit.

x_.view(…).permute(…) …                      x, where the views end with its shape and strides
ones.expand(…).neg() … times x               x times a number
x / 1,   x^1                                 x
gradients of what has none, unused results   left out
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ppl_vae.compile.dispatch import arguments_of, drop_unused, is_operation

_aten = torch.ops.aten

#: Views of all elements of a tensor, from its first.
_VIEWS = {
    _aten.alias.default, _aten.detach.default, _aten.expand.default, _aten.permute.default, _aten.squeeze.default,
    _aten.squeeze.dim, _aten.squeeze.dims, _aten.t.default, _aten.transpose.int, _aten.unsqueeze.default,
    _aten.view.default,
}  # fmt: skip

#: Tensors of one number, as far as an operation says so itself.
_UNIFORM = {
    _aten.full.default: lambda size, value, **_: value,
    _aten.full_like.default: lambda x, value, **_: value,
    _aten.ones.default: lambda *_, **__: 1.0,
    _aten.ones_like.default: lambda *_, **__: 1.0,
    _aten.zeros.default: lambda *_, **__: 0.0,
    _aten.zeros_like.default: lambda *_, **__: 0.0,
}

#: Operations that give a tensor of one number where their tensors are such.
_ARITHMETIC = {_aten.neg.default, _aten.mul.Tensor, _aten.div.Tensor, _aten.add.Tensor, _aten.sub.Tensor}

#: Operations of two tensors, one of which, or the second of which, may be a number instead.
_EITHER, _SECOND = {_aten.mul.Tensor, _aten.add.Tensor}, {_aten.div.Tensor, _aten.sub.Tensor}


def simplify(graph: GraphModule) -> None:
    """Leave out what a graph computes for nothing; random draws stay, so that later ones see the same random state."""
    changed_in_place = _changed_in_place(graph)
    numbers: dict[Node, float] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function" or node in changed_in_place:
            continue
        if (number := _number(node, numbers)) is not None:
            numbers[node] = number
            continue
        _insert_numbers(node, numbers)
        if (same := _same_as(node)) is not None and same not in changed_in_place:
            node.replace_all_uses_with(same)
    for node, number in numbers.items():
        _fill(graph, node, number)
    drop_unused(graph)
    graph.recompile()


def _changed_in_place(graph: GraphModule) -> set[Node]:
    """Return the tensors that an operation writes to, and all that they are views of."""
    found: set[Node] = set()
    for node in graph.graph.nodes:
        if not is_operation(node.target):
            continue
        for argument, value in zip(arguments_of(node.target), node.args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                found.update(n for n in (value if isinstance(value, list | tuple) else [value]) if isinstance(n, Node))
                found.add(node)
    for node in reversed(list(graph.graph.nodes)):
        if node in found:
            found.update(n for n in node.all_input_nodes if node.target in _VIEWS)
    return found


def _number(node: Node, numbers: dict[Node, float]) -> float | None:
    """Return the number of which a floating tensor consists, if the graph says so; None if not."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    if node.target in _UNIFORM:
        number = _UNIFORM[node.target](*node.args, **node.kwargs)
        return float(torch.tensor(number, dtype=value.dtype, device="cpu")) if isinstance(number, int | float) else None
    if node.target in _VIEWS and node.args[0] in numbers:
        return numbers[node.args[0]]  # type: ignore[index]
    if node.target in _ARITHMETIC and not node.kwargs and any(isinstance(a, Node) for a in node.args):
        parts = [numbers.get(a) if isinstance(a, Node) else a for a in node.args]
        if all(isinstance(part, int | float) for part in parts):
            first, *rest = (torch.tensor(part, dtype=value.dtype, device="cpu") for part in parts)
            return float(node.target(first, *rest))
    return None


def _insert_numbers(node: Node, numbers: dict[Node, float]) -> None:
    """Let an operation of two tensors have a number in the place of a tensor of one, if its result keeps its shape."""
    if node.target not in _EITHER | _SECOND or node.kwargs or len(node.args) != 2:
        return
    left, right = node.args
    if left in numbers and node.target in _EITHER:
        left, right = right, left
    if not isinstance(left, Node) or right not in numbers:
        return
    value, kept = node.meta.get("val"), left.meta.get("val")
    if not isinstance(kept, Tensor) or not isinstance(value, Tensor) or kept.device.type != "cpu":
        return  # a GPU divides by a number as it multiplies by its inverse
    if (kept.shape, kept.dtype) == (value.shape, value.dtype):
        node.args = (left, numbers[right])  # type: ignore[index]


def _fill(graph: GraphModule, node: Node, number: float) -> None:
    """Make a tensor of one number at once, where an operation still takes it."""
    value = node.meta["val"]
    if node.target in _UNIFORM or not all(isinstance(size, int) for size in value.shape):
        return
    with graph.graph.inserting_before(node):
        options = {"dtype": value.dtype, "device": value.device}
        full = graph.graph.call_function(_aten.full.default, (list(value.shape), number), options)
    full.meta = dict(node.meta)
    for user in list(node.users):
        if user.op == "call_function" and user.target not in _VIEWS:
            user.replace_input_with(node, full)


def _same_as(node: Node) -> Node | None:
    """Return the tensor that an operation gives back as it is, if it does."""
    first = node.args[0] if node.args and isinstance(node.args[0], Node) else None
    if first is None:
        return None
    if (node.target in (_aten.div.Tensor, _aten.mul.Tensor) and node.args[1:] in ((1,), (1.0,))) or (
        node.target is _aten.pow.Tensor_Scalar and node.args[1] == 1
    ):
        return first if _layout(first) == _layout(node) else None
    source, found = node, None
    while source.target in _VIEWS and isinstance(source.args[0], Node):
        source = source.args[0]
        if _layout(source) is not None and _layout(source) == _layout(node):
            found = source
    return found


def _layout(node: Node) -> Any:
    """Return type, shape and strides of a tensor; None of anything else."""
    value = node.meta.get("val")
    return (value.dtype, value.shape, value.stride()) if isinstance(value, Tensor) else None
