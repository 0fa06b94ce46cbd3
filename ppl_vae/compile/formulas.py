"""Functions of a recorded graph by formulas that take less time on a CPU, equal to rounding.

    -log Bernoulli(x; logits l) = max(l, 0) - x l + log(1 + exp(-|l|))
    tanh(a)                     = m / (m + 2),   m = exp(2 a) - 1
    b + x w'                    = x w' - (-b)

The logarithm is that of a number in [1, 2], with an absolute error of one rounding; torch's own log1p takes four times
as long. Inductor's tanh takes twice as long as the fraction, whose relative error is a few roundings for any a. A
product with a bias copies it to every row first; Inductor fuses a sum with what follows, but makes b + x w' one product
again, which it does not recognise in a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

_aten = torch.ops.aten

#: 1 - tanh(a) is below half a rounding of float64 from here on, and exp(2 a) far from overflow.
_SATURATED = 20.0


def use_formulas(graph: GraphModule, *, fused: bool) -> None:
    """Replace functions in `graph`; those of a graph that is to be `fused` by a compiler are not computed in place."""
    for node in list(graph.graph.nodes):
        if node.target is _aten.binary_cross_entropy_with_logits.default and _is_plain_bernoulli(node):
            _replace(graph, node, _fused_bernoulli if fused else _bernoulli)
        elif fused and node.target is _aten.tanh.default and _on_cpu(node):
            _replace(graph, node, _tanh)
        elif fused and node.target is _aten.addmm.default and not node.kwargs and _on_cpu(node):
            _replace(graph, node, _affine)
    graph.recompile()


def _is_plain_bernoulli(node: Node) -> bool:
    """Return whether it is that of logits and x of one shape, element by element, without weights."""
    logits, x, *rest = node.args
    values: list[Any] = [argument.meta.get("val") for argument in (logits, x) if isinstance(argument, Node)]
    alike = len(values) == 2 and (values[0].shape, values[0].dtype) == (values[1].shape, values[1].dtype)
    return alike and rest == [None, None, 0] and not node.kwargs and _on_cpu(node)


def _on_cpu(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and value.device.type == "cpu"


def _bernoulli(call: Callable[..., Node], logits: Any, x: Any, *_: Any) -> Node:
    log = call(_aten.neg_, call(_aten.abs, logits))
    for operation, *more in ((_aten.exp_,), (_aten.add_.Scalar, 1), (_aten.log_,)):
        log = call(operation, log, *more)
    linear = call(_aten.addcmul_, call(_aten.clamp_min, logits, 0), x, logits, value=-1)
    return call(_aten.add_.Tensor, linear, log)


def _fused_bernoulli(call: Callable[..., Node], logits: Any, x: Any, *_: Any) -> Node:
    size = call(_aten.exp, call(_aten.neg, call(_aten.abs, logits)))
    log = call(_aten.log, call(_aten.add.Scalar, size, 1))
    linear = call(_aten.sub.Tensor, call(_aten.clamp_min, logits, 0), call(_aten.mul.Tensor, x, logits))
    return call(_aten.add.Tensor, linear, log)


def _tanh(call: Callable[..., Node], a: Any) -> Node:
    double = call(_aten.mul.Scalar, call(_aten.clamp, a, -_SATURATED, _SATURATED), 2)
    m = call(_aten.expm1, double)
    return call(_aten.div.Tensor, m, call(_aten.add.Scalar, m, 2))


def _affine(call: Callable[..., Node], bias: Any, left: Any, right: Any) -> Node:
    return call(_aten.sub.Tensor, call(_aten.mm, left, right), call(_aten.neg, bias))


def _replace(graph: GraphModule, node: Node, formula: Callable[..., Node]) -> None:
    def call(operation: Any, *args: Any, **kwargs: Any) -> Node:
        return graph.graph.call_function(getattr(operation, "default", operation), args, kwargs)

    with graph.graph.inserting_before(node):
        result = formula(call, *node.args)
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.graph.erase_node(node)
