"""Process-wide settings, switched for the length of one of our calls and put back after it.

Importing the library changes nothing, and neither do `fit` and `log_likelihood`: Pyro's validation, torch's random
state and a module's train/eval mode are switched here. (`Pair` keeps Pyro's parameter store empty by itself.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.errors import InputError


@contextmanager
def isolated(seed: int | None = None, *, device: torch.device | str | None = None) -> Iterator[None]:
    """Run with validation off and a random state of our own; restore both afterwards.

    Parameters
    ----------
    seed : int, optional
        Seed of the random state inside; None goes on from the current state.
    device : torch.device or str, optional
        The accelerator whose random state is kept apart beside the CPU's.
    """
    if seed is not None and not 0 <= seed < 2**63:
        raise InputError("seed", expected="a whole number from 0 to 2**63 - 1", got=str(seed))
    kind = torch.device(device) if device is not None else torch.device("cpu")
    devices = [kind.index or 0] if kind.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), pyro.validation_enabled(False):
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
    """Run without gradients and in eval mode, on copies of the buffers; restore modes and buffers after.

    Batch norm uses its running averages in eval mode; a program that moves a buffer of its own moves the copy.
    """
    modes = {child: child.training for child in module.modules()}
    buffers = [(child, name, value) for child in modes for name, value in child._buffers.items() if value is not None]
    copies = {id(value): value.clone() for _, _, value in buffers}  # one copy for a buffer under several names
    for child, name, value in buffers:
        child._buffers[name] = copies[id(value)]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode
        for child, name, value in buffers:
            child._buffers[name] = value


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's CPU operations in one thread: fastest for small tensors, and unharmed by other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
