"""Cheaper forms of two functions in a graph that is about to be compiled: float32, on a CPU.

    sum_d log(1 + exp(-|l_d|))  =  sum_j log prod_i (1 + exp(-|l_ij|)),   d = (i, j)     one logarithm for up to 64 d
    tanh x  =  2 / (1 + exp(-2 x)) - 1   for x^2 >= 0.01,   else  x (1 - x^2/3 + 2 x^4/15)

The first stands in every Bernoulli likelihood, log p(x|l) = sum_d [min(l, 0) - (1 - x) l - log(1 + exp(-|l|))]; each
factor lies between 1 and 2, so that no product overflows. A library's logarithm and hyperbolic tangent take several
times as long as its exponential. Both forms are exact to ten units of rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

_aten = torch.ops.aten

#: Most factors of a product, and fewest products: a vector register has room for so many.
_FACTORS, _LANES = 64, 16

#: x^2 below which tanh is its series: there 1 is too large beside it.
_SMALL = 0.01
_SERIES = (2 / 15, -1 / 3, 1.0)


def rewrite(graph: GraphModule) -> GraphModule:
    """Put the cheaper forms into `graph`, which is changed, and return it."""
    for node in list(graph.graph.nodes):
        if node.target is _aten.tanh.default and _suits(node):
            _replace(graph, node, _tanh)
        elif node.target is _aten.sum.dim_IntList and _bernoulli(node) is not None:
            _replace(graph, node, _log_bernoulli)
    graph.recompile()
    return graph


def _suits(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.dtype is torch.float32


def _replace(graph: GraphModule, node: Node, form: Any) -> None:
    def call(target: Any, *args: Any) -> Node:
        return graph.graph.call_function(target, args)

    with graph.graph.inserting_before(node):
        node.replace_all_uses_with(form(call, node))
    graph.graph.erase_node(node)


def _tanh(call: Any, node: Node) -> Node:
    (x,) = node.args
    square = call(_aten.mul.Tensor, x, x)
    series: Any = _SERIES[0]
    for coefficient in _SERIES[1:]:
        series = call(_aten.add.Tensor, call(_aten.mul.Tensor, square, series), coefficient)
    near = call(_aten.mul.Tensor, x, series)
    grown = call(_aten.add.Tensor, call(_aten.exp.default, call(_aten.mul.Tensor, x, -2.0)), 1.0)
    far = call(_aten.sub.Tensor, call(_aten.mul.Tensor, call(_aten.reciprocal.default, grown), 2.0), 1.0)
    return call(_aten.where.self, call(_aten.lt.Scalar, square, _SMALL), near, far)


def _bernoulli(node: Any) -> tuple[Node, Node, int] | None:
    """Return logits, targets and the number of factors, if `node` is sum_d log p(x_d|l_d) over at least the last d."""
    negative, dims, *keepdim = node.args
    if keepdim not in ([], [False]) or node.kwargs or getattr(negative, "target", None) is not _aten.neg.default:
        return None
    (loss,) = negative.args
    if getattr(loss, "target", None) is not _aten.binary_cross_entropy_with_logits.default:
        return None
    logits, targets, *rest = loss.args
    if rest != [None, None, 0] or loss.kwargs or not (_suits(loss) and _suits(logits) and _suits(targets)):
        return None
    shape = loss.meta["val"].shape
    if logits.meta["val"].shape != shape or not {-1, len(shape) - 1} & set(dims or ()):
        return None
    factors = _factors(shape[-1])
    return (logits, targets, factors) if factors > 1 else None


def _factors(size: int) -> int:
    """Return how many equal parts of at least sixteen `size` is cut into: at most 64, best of whole registers."""
    parts = [n for n in range(1, _FACTORS + 1) if size % n == 0 and size // n >= _LANES]
    return max(parts, key=lambda n: (size // n % _LANES == 0, n), default=1)


def _log_bernoulli(call: Any, node: Any) -> Node:
    found = _bernoulli(node)
    assert found is not None
    logits, targets, factors = found
    shape = logits.meta["val"].shape
    cut = [*shape[:-1], factors, shape[-1] // factors]
    # The form that torch computes, so that infinite logits give what they give there.
    others = call(_aten.mul.Tensor, call(_aten.rsub.Scalar, targets, 1.0), logits)
    linear = call(_aten.sub.Tensor, call(_aten.clamp_max.default, logits, 0.0), others)
    decay = call(_aten.exp.default, call(_aten.neg.default, call(_aten.abs.default, logits)))
    product = call(_aten.prod.dim_int, call(_aten.view.default, call(_aten.add.Tensor, decay, 1.0), cut), -2)
    columns = call(_aten.sum.dim_IntList, call(_aten.view.default, linear, cut), [-2])
    each = call(_aten.sub.Tensor, columns, call(_aten.log.default, product))
    return call(_aten.sum.dim_IntList, each, list(node.args[1]))
