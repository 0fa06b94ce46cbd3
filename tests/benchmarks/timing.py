"""Timing several ways of doing one thing, interleaved in one process, because a machine's speed drifts."""

import os
import platform
import statistics
import time

import torch


def cores():
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def use_threads(number):
    """Keep this process, and those that it starts, to so many threads, each with a core: JAX goes by the cores.

    Before any computation; None leaves all as it is.
    """
    if number is None:
        return
    own = cores()
    if not 1 <= number <= len(own):
        raise SystemExit(f"--threads: expected 1 to {len(own)}, the cores there are; got {number}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, own[:number])
    os.environ["OMP_NUM_THREADS"] = str(number)
    torch.set_num_threads(number)


def interleave(ways, rounds=30, calls=20, warm_up=10):
    """Return the milliseconds per call of each way in each round; every round runs all of them in turn."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    for way in ways.values():
        for _ in range(warm_up):
            way()
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            wait()
            started = time.perf_counter()
            for _ in range(calls):
                way()
            wait()
            times[name].append((time.perf_counter() - started) / calls * 1e3)
    return times


def table(times, references):
    """Return a Markdown table: median milliseconds, and the median over rounds of the ratio to each reference."""
    references = [name for name in references if name in times]
    lines = [
        "| way | ms | " + " | ".join(f"against {name}" for name in references) + " |",
        "| --- | --- | " + " | ".join("---" for _ in references) + " |",
    ]
    for name, values in times.items():
        ratios = [
            statistics.median(a / b for a, b in zip(values, times[reference], strict=True)) for reference in references
        ]
        lines.append(
            f"| {name} | {statistics.median(values):.3f} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |"
        )
    return "\n".join(lines)


def processor():
    """Return the name of the processor."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def machine():
    """Return what a figure depends on: processor, threads, versions."""
    model = processor()
    if torch.cuda.is_available():
        model = f"{torch.cuda.get_device_name()}, {model}"
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"


def multiply_adds(layers, device="cpu"):
    """Return a function that does the matrix products of a training step of an MLP, and nothing else: the floor.

    A layer of `rows` rows takes one product forwards and two backwards, the first one backwards: its input needs no
    gradient. Each is taken the way that is faster here, by torch's BLAS or by oneDNN.
    """
    products = []
    for i, (rows, n, m) in enumerate(layers):
        x, w, g = (torch.randn(shape, device=device) for shape in ((rows, n), (m, n), (rows, m)))
        products += [(x, w.T), (g.T, x)] + ([(g, w)] if i else [])
    fastest = [min(_ways(a, b), key=_time) for a, b in products]

    def run():
        for way in fastest:
            way()

    return run


def _ways(a, b):
    """Return the ways to take one product."""
    ways = [lambda: a @ b]
    if torch.backends.mkldnn.is_available() and a.device.type == "cpu":
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], ""))
    return ways


def _time(way, calls=30):
    for _ in range(3):
        way()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(calls):
            way()
        times.append(time.perf_counter() - started)
    return min(times)
