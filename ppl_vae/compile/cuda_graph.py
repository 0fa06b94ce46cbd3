"""A computation on a GPU captured once as a CUDA graph, and then replayed, with no launches from Python.

A replay reads its inputs from, and writes its results to, the same memory each time. It draws new random
numbers on every replay: the GPU's generator is advanced as if the kernels had been launched one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

#: Calls before the capture, in which kernels are compiled and memory is allocated.
WARM_UP = 3


class CaptureError(Exception):
    """The computation cannot be captured in a CUDA graph."""


class Captured:
    """Callable that runs `function`: directly for some calls, then by replaying its captured graph.

    Parameters
    ----------
    function : callable
        Tensors of fixed shapes in, one tensor out. Whatever else it changes (parameters, buffers, sums) it changes in
        place, and no operation of it waits for the device.
    inputs : sequence of Tensor
        Of the shapes it will be called with.

    Raises
    ------
    CaptureError
        On the call that captures, when an operation waits for the device. Nothing has been computed then.
    """

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
        self.function = function
        self.inputs = [torch.empty_like(value, memory_format=torch.contiguous_format) for value in inputs]
        self.calls = 0
        self._replay: Callable[[], None] | None = None
        self._result: Tensor | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run on `inputs`, by a replay from call `WARM_UP` + 1 on."""
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given, non_blocking=True)
        self.calls += 1
        if self.calls <= WARM_UP:
            return beside(lambda: self.function(*self.inputs), self.inputs[0].device)
        if self._replay is None:
            self._replay, self._result = capture(lambda: self.function(*self.inputs), self.inputs[0].device)
        self._replay()
        assert self._result is not None
        return self._result.clone()  # the next replay overwrites it


def capturing(device: torch.device) -> bool:
    """Return whether a CUDA graph is being captured on `device`: nothing is computed then, and no memory is freed."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def beside(function: Callable[[], Tensor], device: torch.device) -> Tensor:
    """Run `function` on a side stream, as a capture does, and make the current stream wait for it."""
    with torch.cuda.device(device):
        stream: Any = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            result = function()
        torch.cuda.current_stream(device).wait_stream(stream)
        result.record_stream(torch.cuda.current_stream(device))
    return result


def capture(function: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """Return a function that replays `function`, and the tensor that each replay writes its result to.

    Streams, graphs and the memory they take are those of the current GPU, so `device` is made that one. State is
    restored after a failure: torch leaves the capture's stream current, and the generator in capture mode, in which it
    cannot draw.
    """
    generator = torch.cuda.default_generators[device.index]
    untouched = generator.clone_state()
    try:
        with torch.cuda.device(device):
            graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
            with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream):
                result = function()
    except BaseException as error:
        generator.graphsafe_set_state(untouched)
        cause = error.__context__ if isinstance(error.__context__, torch.OutOfMemoryError) else error
        if isinstance(cause, torch.OutOfMemoryError) or not isinstance(cause, RuntimeError):
            raise cause from None
        raise CaptureError(" ".join(str(error).split())[:160]) from error
    return graph.replay, result
