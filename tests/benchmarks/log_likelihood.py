"""Time of log p(x) by importance weighting: ours against the decoder's matrix products alone.

    python tests/benchmarks/log_likelihood.py --num-particles 5000 --data 40

The pair is 784-200-200-50-200-200-784, tanh, Bernoulli. Chunks are those of `ppl_vae.log_likelihood`; its whole call is
timed, the fit of Pareto k included, compilation not: each way runs once before it is timed.
"""

import argparse
import statistics
import time

import torch
from timing import machine

import ppl_vae
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE

D, H, L = 784, 200, 50


def decoder_products(rows):
    """Return a function that does the decoder's matrix products for so many rows, a thousand at a time."""
    weights = [torch.randn(n, m) / n**0.5 for n, m in ((L, H), (H, H), (H, D))]
    z = torch.randn(1000, L)

    def run():
        for _ in range(rows // 1000):
            h = z
            for weight in weights:
                h = h @ weight

    return run


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-particles", type=int, default=5000)
    parser.add_argument("--data", type=int, default=40, help="how many data")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    K, N = options.num_particles, options.data
    torch.manual_seed(0)
    pair = ppl_vae.Pair(VAE(D, L), AmortizedNormal(D, L))
    x = {"x": (torch.rand(N, D) < 0.2).float()}

    def ours(path):
        return lambda: ppl_vae.log_likelihood(pair, x, num_particles=K, compile=path)

    # The compiled code is kept on disk, but each call loads it again: what that takes is told apart.
    ways = {"matrix products alone": decoder_products(N * K)} | {f"ours, {p}": ours(p) for p in ("off", "graph")}
    times = {name: [] for name in [*ways, "ours, inductor"]}
    with torch.no_grad():
        for way in ways.values():
            way()
        ours("inductor")()
        for _ in range(options.rounds):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                times[name].append(time.perf_counter() - started)
            # Twice the data less once the data: the seconds of recording and loading drop out.
            started = time.perf_counter()
            ours("inductor")()
            once = time.perf_counter() - started
            started = time.perf_counter()
            ppl_vae.log_likelihood(pair, {"x": x["x"].repeat(2, 1)}, num_particles=K, compile="inductor")
            times["ours, inductor"].append(time.perf_counter() - started - once)
    print(machine())
    print(f"K = {K:,}, {N} data\n\n| way | s | against the products | rows a second |\n| --- | --- | --- | --- |")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["matrix products alone"], strict=True))
        seconds = statistics.median(values)
        print(f"| {name} | {seconds:.2f} | {ratio:.2f} | {N * K / seconds:,.0f} |")


if __name__ == "__main__":
    main()
