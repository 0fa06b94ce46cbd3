"""Torch's dispatcher: a mode that intercepts every tensor operation, and the schema of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """Context in which `__torch_dispatch__` of a subclass is called instead of every tensor operation.

    A subclass is not run under torch.compile, whose switch would import its compiler at the first operation: a second.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def is_operation(target: Any) -> bool:
    """Return whether the target of a graph's node is one of torch's operations, rather than a Python function."""
    return isinstance(target, torch._ops.OpOverload)


def drop_unused(graph: torch.fx.GraphModule) -> None:
    """Leave out results that nothing uses, but for draws: later ones must see the same random state."""

    def stays(node: torch.fx.Node) -> bool:
        return node.is_impure() or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())

    graph.graph.eliminate_dead_code(stays)


def kernel_of(operation: Any) -> Callable[..., Any]:
    """Return what an operation calls: the same, without a call of a Python function in between."""
    return operation._op


def arguments_of(operation: Any) -> Sequence[Any]:
    """Return the declared arguments of an operation: their ``name``, and ``alias_info`` if one is changed."""
    return operation._schema.arguments


def map_tensors(function: Callable[[Tensor], Any], results: Any) -> Any:
    """Return `results`, a tensor or containers of some, with `function` applied to each tensor."""
    return torch.utils._pytree.tree_map_only(Tensor, function, results)
