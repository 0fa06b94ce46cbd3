"""A computation recorded once as a graph of tensor operations, and then run without Python's handlers.

A pair whose structure does not change from step to step is a fixed graph of operations, random draws included. The
graph draws from torch's own random state in the order of the programs, and so gives the same numbers. Side effects of a
program are detected, and raise; whether graph and program agree is checked by `ppl_vae.compile.proof`.
"""

from __future__ import annotations

import os
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.compile.cost import expected_seconds
from ppl_vae.compile.executable import executable
from ppl_vae.compile.formulas import use_formulas
from ppl_vae.compile.inductor import fused, has_compiler
from ppl_vae.compile.onednn import hand_over, without_onednn
from ppl_vae.compile.side_effects import InsideTorch, SideEffectError, Watch, unseen_by_a_graph
from ppl_vae.compile.simplify import simplify
from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import PplVaeError, one_line

#: Values of ``compile=``: the programs (``"off"``), the graph, the graph compiled by Inductor, or a rule's choice.
MODES = ("auto", "off", "graph", "inductor")

Computation = Callable[..., list[Tensor]]

#: Seed of the draws while a computation is recorded.
_SEED = 20131220


def path_of(mode: str, *, worth_recording: bool, worth_compiling: bool) -> str:
    """Return the path of a mode, ``"eager"``, ``"graph"`` or ``"inductor"``; for ``"auto"`` the fastest worth its cost.

    Raises
    ------
    InputError
        If `mode` is none of `MODES`.
    """
    one_of("compile", mode, MODES)
    if mode == "auto":
        return "inductor" if worth_compiling else "graph" if worth_recording else "eager"
    return "eager" if mode == "off" else mode


class NotRecordableError(PplVaeError, RuntimeError):
    """The computation's structure depends on its data; the text names the line that asked for a value."""


@dataclass(frozen=True)
class Recording:
    """A recorded computation: call it with tensors of the shapes it was recorded for.

    Attributes
    ----------
    run : callable
        Tensors in, list of tensors out.
    path : str
        ``"graph"`` (operations run one by one) or ``"inductor"`` (fused by the compiler).
    seconds : float
        Spent recording and compiling.
    expected_seconds : float
        That one run of the graph, not compiled, is expected to take; see `ppl_vae.compile.cost`.
    """

    run: Computation
    path: str
    seconds: float
    expected_seconds: float

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the recorded operations."""
        with torch.no_grad():
            return self.run(*inputs)


def record(
    compute: Computation, inputs: Sequence[Tensor], *, compiled: bool = False, module: nn.Module | None = None
) -> Recording:
    """Record `compute` on `inputs`; with `compiled`, compile the graph by Inductor where possible.

    Parameters
    ----------
    compute : callable
        Tensors in, list of tensors out.
    inputs : sequence of Tensor
        Of the shapes that the recording will be called with.
    compiled : bool
        Whether to fuse the graph.
    module : Module, optional
        The module that is computed.

    Raises
    ------
    NotRecordableError
        As `traced` does.
    """
    started = time.perf_counter()
    graph = traced(compute, inputs, module=module, fused=compiled)
    seconds = expected_seconds(graph)
    run, path = _compile(graph, inputs) if compiled else (executable(graph), "graph")
    release(graph)
    return Recording(run, path, time.perf_counter() - started, seconds)


def release(graph: torch.fx.GraphModule) -> None:
    """Drop references that would keep a graph alive until cycles are collected."""
    for node in graph.graph.nodes:
        node.meta.clear()  # a tensor and a stack of calls each
    graph.graph.owning_module = None


def traced(
    compute: Computation, inputs: Sequence[Tensor], *, module: nn.Module | None = None, fused: bool = False
) -> torch.fx.GraphModule:
    """Return the graph of `compute`, with its products and functions computed the way that is fastest here.

    Draws come from a random state of their own, so that a recording is later compared with the program on other noise
    as well as other data. The random state is restored afterwards.

    Parameters
    ----------
    compute, inputs
        As for `record`.
    module : Module, optional
        The module that is computed: its hooks, generators and changed attributes are detected.
    fused : bool
        Whether it is for a compiler.

    Raises
    ------
    NotRecordableError
        If `compute` reads a value back to decide what to do, or has side effects. Random states and attributes are
        then restored.
    """
    module = nn.Module() if module is None else module
    if reason := unseen_by_a_graph(module):
        raise NotRecordableError(reason)
    devices = sorted({tensor.device.index or 0 for tensor in inputs if tensor.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), pyro.validation_enabled(False), Watch(module) as watch:
        torch.default_generator.manual_seed(_SEED)
        for index in devices:
            torch.cuda.default_generators[index].manual_seed(_SEED)
        try:
            with without_onednn(), _shapes_in_one_mode():
                graph = make_fx(_inside_torch(compute))(*inputs)
            if reason := watch.changed():
                raise SideEffectError(reason)
        except Exception as error:  # a program may do anything that a graph cannot represent
            watch.restore()
            own = isinstance(error, PplVaeError) and not isinstance(error, SideEffectError)
            if own or isinstance(error, torch.OutOfMemoryError):
                raise
            raise NotRecordableError(_reason(error)) from error
    hand_over(graph)
    simplify(graph)
    use_formulas(graph, fused=fused)
    return graph


def _shapes_in_one_mode() -> AbstractContextManager[object]:
    """Trace the shapes of all tensors in one mode; torch's default makes one for each, half of its time."""
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode

    return tracing(TracingContext(FakeTensorMode()))


def _inside_torch(compute: Computation) -> Computation:
    def run(*inputs: Tensor) -> list[Tensor]:
        with InsideTorch():
            return compute(*inputs)

    return run


def _compile(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> tuple[Computation, str]:
    """Return the graph fused by Inductor, or as it is, with a warning, where there is no compiler or it fails."""
    try:
        if has_compiler():
            return fused(graph, inputs), "inductor"
        reason = "there is no compiler here"
    except Exception as error:  # a compiler's tool chain may fail in any way
        reason = f"the compiler failed ({' '.join(str(error).split())[:160]})"
    warnings.warn(f"{reason}: the recorded graph runs unfused", stacklevel=2)
    return executable(graph), "graph"


def _reason(error: Exception) -> str:
    """Return the error's message, and the innermost line outside torch and Pyro where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if not any(f"{os.sep}{name}{os.sep}" in frame.filename for name in ("torch", "pyro", "ppl_vae"))
    ]
    what = (
        "it reads a value back from the device"
        if "data-dependent" in str(error) or "_local_scalar_dense" in str(error)
        else None
    )
    what = what or one_line(error, 160)
    where = f" at {os.path.basename(own[-1].filename)}:{own[-1].lineno}, `{own[-1].line}`" if own else ""
    return f"{what}{where}"
