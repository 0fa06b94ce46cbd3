"""Steps of contenders in PyTorch and Pyro: by hand, ours, stock Pyro. Each is a function that takes one step."""

import time

import pyro
import torch
from batches import Held

from ppl_vae.training.step import TrainingStep


def by_hand(module, batches, compiled=False, **options):
    """Return a step of a module whose forward is the loss, by Adam with these options."""
    optimizer = torch.optim.Adam(module.parameters(), 1e-3, **options)
    loss_of = torch.compile(module) if compiled else module

    def step():
        optimizer.zero_grad(set_to_none=True)
        (loss_of(**batches()) / batches.size).backward()
        optimizer.step()

    return step


def by_hand_all(make, batches):
    """Return the steps by hand: eager and compiled, with torch's default Adam and its fused form."""
    return {
        "hand-written, eager": by_hand(make(), batches),
        "hand-written, eager, fused Adam": by_hand(make(), batches, fused=True),
        "hand-written, torch.compile": by_hand(make(), batches, compiled=True),
        "hand-written, torch.compile, fused Adam": by_hand(make(), batches, compiled=True, fused=True),
    }


def captured(module, batches):
    """Return a step by hand that is replayed from a CUDA graph."""
    held = Held(batches)
    step = by_hand(module, held, fused=True, capturable=True)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay():
        held.index().copy_(batches.index())
        graph.replay()

    return replay


def ours(make, batches, path, objective):
    """Return our step on the given path, and the seconds to the end of the first one."""
    pair = make()
    adam = torch.optim.Adam(pair.parameters(), 1e-3, fused=True, capturable=pair.device.type == "cuda")
    step = TrainingStep(pair, objective, adam, compile=path)
    started = time.perf_counter()
    batches.take(step)
    return (lambda: batches.take(step)), time.perf_counter() - started


def stock_pyro(make, batches, num_particles=1):
    """Return a step of `pyro.infer.SVI` with `Trace_ELBO` or `RenyiELBO`, as Pyro's documentation writes it."""
    pyro.clear_param_store()
    pair = make()
    loss = pyro.infer.Trace_ELBO()
    if num_particles > 1:
        loss = pyro.infer.RenyiELBO(0.0, num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1)
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    return lambda: svi.step(**batches())


def once_in(steps, run):
    """Return a step of which one call in `steps` does the work of all of them, by ``run()``."""
    left = 0

    def step():
        nonlocal left
        if left == 0:
            run()
            left = steps
        left -= 1

    return step
