"""Functions of a recorded graph by formulas that take less time on a CPU, equal to rounding.

    -log Bernoulli(x; logits l) = (1 - x) l - min(l, 0) + log(1 + exp(-|l|))
    sum_d log(1 + exp(-|l_d|))  = sum_j log prod_i (1 + exp(-|l_ij|)),   d = (i, j)
    tanh(a)                     = 2 / (1 + exp(-2 a)) - 1   for a^2 >= 0.01,   else a (1 - a^2/3 + 2 a^4/15)
    b + x w'                    = x w' - (-b)

The logarithm is that of a number in [1, 2], with an absolute error of one rounding; torch's own log1p takes four times
as long. Where they are summed and compiled, one logarithm serves up to 64 pixels: factors in [1, 2] do not overflow.
Inductor's tanh takes twice as long as these two forms of it, in float32, whose relative error is ten roundings at most.
A product with a bias copies it to every row first; Inductor fuses a sum with what follows, but makes b + x w' one
product again, which it does not recognise in a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ppl_vae.compile.dispatch import drop_unused

_aten = torch.ops.aten

#: a^2 below which tanh is its series: there 1 is too large beside it.
_SMALL = 0.01
_SERIES = (2 / 15, -1 / 3, 1.0)

#: Most factors of a product, and fewest products: a vector register has room for so many.
_FACTORS, _LANES = 64, 16


def use_formulas(graph: GraphModule, *, fused: bool) -> None:
    """Replace functions in `graph`; those of a graph that is to be `fused` by a compiler are not computed in place."""
    for node in list(graph.graph.nodes) if fused else ():
        if node.target is _aten.sum.dim_IntList and _is_summed(node):
            _replace(graph, node, _summed_bernoulli)
    drop_unused(graph)
    for node in list(graph.graph.nodes):
        if node.target is _aten.binary_cross_entropy_with_logits.default and _is_plain_bernoulli(node):
            _replace(graph, node, _fused_bernoulli if fused else _bernoulli)
        elif fused and node.target is _aten.tanh.default and _on_cpu(node) and node.meta["val"].dtype is torch.float32:
            _replace(graph, node, _tanh)
        elif fused and node.target is _aten.addmm.default and not node.kwargs and _on_cpu(node):
            _replace(graph, node, _affine)
    graph.recompile()


def _is_plain_bernoulli(node: Any) -> bool:
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
    linear = call(_aten.mul_.Tensor, call(_aten.rsub.Scalar, x, 1), logits)
    return call(_aten.add_.Tensor, call(_aten.sub_.Tensor, linear, call(_aten.clamp_max, logits, 0)), log)


def _fused_bernoulli(call: Callable[..., Node], logits: Any, x: Any, *_: Any) -> Node:
    return call(_aten.add.Tensor, _linear(call, logits, x), call(_aten.log, _factor(call, logits)))


def _linear(call: Callable[..., Node], logits: Any, x: Any) -> Node:
    """Return (1 - x) l - min(l, 0): as torch computes it, so that infinite logits give what they give there."""
    others = call(_aten.mul.Tensor, call(_aten.rsub.Scalar, x, 1), logits)
    return call(_aten.sub.Tensor, others, call(_aten.clamp_max, logits, 0))


def _factor(call: Callable[..., Node], logits: Any) -> Node:
    """Return 1 + exp(-|l|)."""
    return call(_aten.add.Scalar, call(_aten.exp, call(_aten.neg, call(_aten.abs, logits))), 1)


def _is_summed(node: Any) -> bool:
    """Return whether it is sum_d log p(x_d|l_d) over at least the last d, with more than one factor to a logarithm."""
    negative, dims, *keepdim = [*node.args, None][:3]
    loss: Any = negative.args[0] if getattr(negative, "target", None) is _aten.neg.default else None
    if getattr(loss, "target", None) is not _aten.binary_cross_entropy_with_logits.default or node.kwargs:
        return False
    shape = loss.meta["val"].shape
    last = bool(dims) and bool({-1, len(shape) - 1} & set(dims))
    return last and keepdim in ([], [None], [False]) and _is_plain_bernoulli(loss) and _factors(shape[-1]) > 1


def _factors(size: int) -> int:
    """Return how many equal parts of at least sixteen `size` is cut into: at most 64, best of whole registers."""
    parts = [n for n in range(1, _FACTORS + 1) if size % n == 0 and size // n >= _LANES]
    return max(parts, key=lambda n: (size // n % _LANES == 0, n), default=1)


def _summed_bernoulli(call: Callable[..., Node], negative: Any, dims: Any, *_: Any) -> Node:
    logits, x, *_ = negative.args[0].args
    shape = logits.meta["val"].shape
    cut = [*shape[:-1], _factors(shape[-1]), shape[-1] // _factors(shape[-1])]
    product = call(_aten.prod.dim_int, call(_aten.view, _factor(call, logits), cut), -2)
    columns = call(_aten.sum.dim_IntList, call(_aten.view, _linear(call, logits, x), cut), [-2])
    total = call(_aten.sum.dim_IntList, call(_aten.add.Tensor, columns, call(_aten.log, product)), list(dims))
    return call(_aten.neg, total)


def _tanh(call: Callable[..., Node], a: Any) -> Node:
    square = call(_aten.mul.Tensor, a, a)
    series: Any = _SERIES[0]
    for coefficient in _SERIES[1:]:
        series = call(_aten.add.Scalar, call(_aten.mul.Tensor, square, series), coefficient)
    grown = call(_aten.add.Scalar, call(_aten.exp, call(_aten.mul.Scalar, a, -2.0)), 1.0)
    far = call(_aten.sub.Scalar, call(_aten.mul.Scalar, call(_aten.reciprocal, grown), 2.0), 1.0)
    return call(_aten.where.self, call(_aten.lt.Scalar, square, _SMALL), call(_aten.mul.Tensor, a, series), far)


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
