"""A recorded graph as one Python function, which calls the kernels of its operations one after the other.

For a small network a call takes longer than what it computes. A graph module of torch calls each operation through a
Python function, and looks all of them up in the modules they are in; here they are local variables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from ppl_vae.compile.dispatch import is_operation, kernel_of


def executable(graph: GraphModule) -> Callable[..., list[Tensor]]:
    """Return a function that computes what `graph` computes, and holds nothing of it but constants.

    A result is dropped after its last use, so that its memory serves the next.
    """
    values: dict[str, Any] = {}
    last = _last_uses(graph)
    lines = []
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            values[node.name] = _attribute(graph, node.target)
        elif node.op == "call_function":
            function = kernel_of(node.target) if is_operation(node.target) else node.target
            lines.append(f"{node.name} = {_named(function, values)}({_arguments(node, values)})")
        elif node.op == "output":
            lines.append(f"return {_written(node.args[0], values)}")
        elif node.op != "placeholder":
            raise NotImplementedError(f"a graph with {node.op}")
        if dropped := [name for name in last.get(node, []) if name not in values]:
            lines.append(f"{' = '.join(dropped)} = None")
    inputs = ", ".join(node.name for node in graph.graph.nodes if node.op == "placeholder")
    body = "\n        ".join(lines)
    source = f"def make({', '.join(values)}):\n    def run({inputs}):\n        {body}\n    return run\n"
    found: dict[str, Any] = {}
    exec(compile(source, "<recorded graph>", "exec"), found)
    return found["make"](*values.values())


def _last_uses(graph: GraphModule) -> dict[Node, list[str]]:
    """Return, by node, the names of the values that no later node uses; unused results among them."""
    last: dict[Node, Node] = {}
    for node in graph.graph.nodes:
        if node.op == "call_function":
            last[node] = node
        for used in node.all_input_nodes:
            last[used] = node
    found: dict[Node, list[str]] = {}
    for used, node in last.items():
        if node.op != "output":
            found.setdefault(node, []).append(used.name)
    return found


def _arguments(node: Node, values: dict[str, Any]) -> str:
    parts = [_written(value, values) for value in node.args]
    return ", ".join([*parts, *(f"{name}={_written(value, values)}" for name, value in node.kwargs.items())])


def _written(value: Any, values: dict[str, Any]) -> str:
    """Return an argument as source: a node by its name, whatever is no literal by the name of a constant."""
    if isinstance(value, Node):
        return value.name
    if type(value) in (bool, int, str) or value is None:
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_written(part, values) for part in value)}]"
    return _named(value, values)


def _named(value: Any, values: dict[str, Any]) -> str:
    """Return the name of a constant of the function, which is made if it is new."""
    for name, other in values.items():
        if other is value:
            return name
    name = f"constant_{len(values)}"
    values[name] = value
    return name


def _attribute(graph: GraphModule, path: str) -> Any:
    value: Any = graph
    for name in path.split("."):
        value = getattr(value, name)
    return value
