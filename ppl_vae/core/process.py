"""Process-wide settings, switched for the length of one of our calls and put back after it.

Importing the library changes nothing, and neither do `fit` and `log_likelihood`: Pyro's validation, torch's random
state and a module's train/eval mode are switched here. (`Pair` keeps Pyro's parameter store empty by itself.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.core.checks import check_seed
from ppl_vae.core.errors import InputError, RunError

#: Held by the thread whose call is under way.
_TURN = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Keep what the process has once, Pyro's stack of handlers and torch's random state, to the thread that is inside.

    A thread may enter again. Another one is refused rather than made to wait: a call may take hours, and one that waits
    for a thread which in turn waits for it would never return.

    Raises
    ------
    InputError
        If another thread is inside.
    """
    if not _TURN.acquire(blocking=False):
        raise InputError(
            "thread",
            expected="one call at a time in a process, as Pyro's handlers and torch's random state are the process's",
            got="another thread's call under way",
            hint="a process for each, or one call after the other",
        )
    try:
        yield
    finally:
        _TURN.release()


@contextmanager
def isolated(seed: int | None = None, *, device: torch.device | str | None = None) -> Iterator[None]:
    """Run alone, with validation off and a random state of our own; restore both afterwards.

    Parameters
    ----------
    seed : int, optional
        Seed of the random state inside; None goes on from the current state.
    device : torch.device or str, optional
        The accelerator whose random state is kept apart beside the CPU's.
    """
    seed = None if seed is None else check_seed(seed)
    kind = torch.device(device) if device is not None else torch.device("cpu")
    devices = [torch.cuda.current_device() if kind.index is None else kind.index] if kind.type == "cuda" else []
    with alone(), torch.random.fork_rng(devices=devices), pyro.validation_enabled(False):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            for index in devices:
                torch.cuda.default_generators[index].manual_seed(seed)
        yield


def random_state(device: torch.device) -> dict[str, Tensor | None]:
    """Return the random state of torch on the CPU and, if it is a GPU, on `device`."""
    return {
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Go back to what `random_state` returned, here or elsewhere."""
    torch.set_rng_state(state["random"])
    if state["random_cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["random_cuda"], device)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run alone, without gradients and in eval mode, on copies of the buffers; restore modes and buffers after.

    Batch norm uses its running averages in eval mode; a program that moves a buffer of its own moves the copy.
    """
    with alone():
        modes = {child: child.training for child in module.modules()}
        buffers = [
            (child, *held) for child in modes for held in child.named_buffers(recurse=False, remove_duplicate=False)
        ]
        copies = {id(value): value.clone() for _, _, value in buffers}  # one copy for a buffer under several names
        for child, name, value in buffers:
            setattr(child, name, copies[id(value)])
        module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for child, mode in modes.items():
                child.training = mode
            for child, name, value in buffers:
                setattr(child, name, value)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make tensors of a floating type unless they say otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def in_memory(what: str, hint: str) -> Iterator[None]:
    """Say in one line what there was no memory for, and what to try, where nothing inside could do with less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(f"{what}; got a GPU that ran out of it; try {hint}") from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's CPU operations in one thread: fastest for small tensors, and unharmed by other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
