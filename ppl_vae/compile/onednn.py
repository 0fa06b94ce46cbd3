"""Matrix products of a recorded graph by oneDNN, on a CPU.

    x w',   x w' + b,   tanh(x w' + b),   sigmoid(x w' + b)

torch gives float32 products to the BLAS it was built with, as a rule MKL, which uses half the width of the vector
units on a processor that is not Intel's. oneDNN, which torch includes, uses all of it, and computes an activation while
the product is still in registers. On an AMD EPYC with AVX-512 it takes less than half of MKL's time. On an Intel Xeon
with AVX-512 both do large products alike, and MKL small ones in a third of the time: there nothing is handed over.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.library import Library

_aten = torch.ops.aten

#: Multiply-adds below which a call to oneDNN costs more than it saves.
WORTH_HANDING_OVER = 2**20

#: Activations that are fused. Not relu: oneDNN's turns NaN into 0, silently.
_ACTIVATIONS = {_aten.tanh.default: "tanh", _aten.sigmoid.default: "sigmoid"}


@functools.cache
def is_faster() -> bool:
    """Return whether oneDNN is there and faster than torch's BLAS: a rule, so that equal runs give equal numbers."""
    if not torch.backends.mkldnn.is_available():
        return False
    known: Mapping[str, Any] = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return not (torch.backends.mkl.is_available() and str(known.get("cpu_name")).startswith("Intel"))


def hand_over(graph: GraphModule) -> None:
    """Replace every product in `graph` that is large enough, in float32 and on a CPU, if oneDNN is faster here."""
    if not is_faster():
        return
    for node in list(graph.graph.nodes):
        if node.target is _aten.mm.default:
            bias, (left, right) = None, node.args
        elif node.target is _aten.addmm.default and not node.kwargs:
            bias, left, right = node.args
        else:
            continue
        if _suits(left, right, bias):
            _replace(graph, node, left, right, bias)
    graph.recompile()


def _suits(left: Node, right: Node, bias: Node | None) -> bool:
    tensors = [node.meta["val"] for node in (left, right, bias) if node is not None]
    (rows, inner), columns = tensors[0].shape, tensors[1].shape[1]
    return (
        all(tensor.device.type == "cpu" and tensor.dtype is torch.float32 for tensor in tensors)
        and rows * inner * columns >= WORTH_HANDING_OVER
        and (bias is None or tensors[2].shape == (columns,))
    )


def _replace(graph: GraphModule, node: Node, left: Node, right: Node, bias: Node | None) -> None:
    """Replace the product `node`, and an activation that is its only user, by a call of oneDNN."""
    register_linear()
    activation, last = "none", node
    while len(last.users) == 1 and last.target in (node.target, _aten.view.default):
        (user,) = last.users
        if user.target in _ACTIVATIONS:
            activation = _ACTIVATIONS[user.target]
            user.replace_all_uses_with(last)
            graph.graph.erase_node(user)
            break
        last = user
    with graph.graph.inserting_before(node):
        if left.target is _aten.t.default:  # a gradient's: oneDNN would copy it, a compiler writes it as it is needed
            left = _contiguous(graph, left)
        weight = graph.graph.call_function(_aten.t.default, (right,))
        weight.meta["val"] = right.meta["val"].t()
        product = graph.graph.call_function(torch.ops.ppl_vae.linear.default, (left, weight, bias, activation))
    product.meta = dict(node.meta)
    node.replace_all_uses_with(product)
    graph.graph.erase_node(node)


def _contiguous(graph: GraphModule, matrix: Node) -> Node:
    """Return a copy of a transposed matrix, row by row."""
    copy = graph.graph.call_function(_aten.clone.default, (matrix,), {"memory_format": torch.contiguous_format})
    copy.meta["val"] = matrix.meta["val"].contiguous()
    return copy


@functools.cache
def register_linear() -> Library:
    """Register oneDNN's product as our operator, and return its library: torch's needs constant weights in Inductor.

    The operator exists as long as the library does, so it is kept.
    """
    library = Library("ppl_vae", "FRAGMENT")
    library.define("linear(Tensor x, Tensor weight, Tensor? bias, str activation) -> Tensor")

    def shape(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        return x.new_empty(x.shape[0], weight.shape[0])

    library.impl("linear", linear, "CPU")
    torch.library.register_fake("ppl_vae::linear", shape, lib=library)
    return library


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """Return x w' + b by oneDNN, (B, out), float32 on a CPU; `activation` is ``"none"``, ``"tanh"``, ``"sigmoid"``."""
    return torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(weight), bias, activation, [], "")


@contextmanager
def without_onednn() -> Iterator[None]:
    """Run without oneDNN, whose LSTM is one operation that has no gradient in a graph; a recording may use it."""
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def _dense(matrix: Tensor) -> Tensor:
    """Return a contiguous matrix, possibly transposed: for a slice of one, oneDNN is a thousand times slower."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()
