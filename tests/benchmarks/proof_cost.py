"""What it costs to hold recordings against the programs: its share of the time of whole fits.

    python tests/benchmarks/proof_cost.py
    python tests/benchmarks/proof_cost.py --steps 200 1000 5000 --rounds 7

The share is the time in which program and recording are run side by side, less the one recorded step that each of the
first ones is as well, over the time of the fit, in which recording is contained. The VAE is 784-200-200-50-200-200-784,
Bernoulli; PPCA is 64 to 8.
"""

import argparse
import statistics
import time

import torch
from timing import machine

import ppl_vae
from ppl_vae.compile.recorded import Recorded
from ppl_vae.guides import AmortizedNormal, LinearGaussian
from ppl_vae.models import PPCA, VAE


def vae():
    hidden = {"hidden": (200, 200)}
    return ppl_vae.Pair(VAE(784, 50, likelihood="bernoulli", **hidden), AmortizedNormal(784, 50, **hidden))


CASES = {
    "VAE, batch 20": (vae, 20, 784),
    "VAE, batch 128": (vae, 128, 784),
    "PPCA, batch 128": (lambda: ppl_vae.Pair(PPCA(64, 8), LinearGaussian(64, 8)), 128, 64),
}


class Clock:
    """Seconds spent in a method, and in how many calls."""

    def __init__(self, method):
        self.method, self.seconds, self.calls = method, 0.0, 0

    def __get__(self, instance, owner):
        def run(*args):
            started = time.perf_counter()
            result = self.method(instance, *args)
            self.seconds += time.perf_counter() - started
            self.calls += 1
            return result

        return run


def share(make, batch, size, steps):
    """Return the share of one fit that went into proofs, and how many there were."""
    both, recorded = Clock(Recorded.compare), Clock(Recorded._in_use)
    kept = Recorded.compare, Recorded._in_use
    epochs = max(1, steps // 50)
    data = {"x": torch.bernoulli(torch.full((batch * (steps // epochs), size), 0.3))}
    try:
        Recorded.compare, Recorded._in_use = both, recorded
        started = time.perf_counter()
        ppl_vae.fit(make(), data, epochs=epochs, batch_size=batch, compile="graph", progress=False)
        whole = time.perf_counter() - started
    finally:
        Recorded.compare, Recorded._in_use = kept
    step = recorded.seconds / recorded.calls
    return (both.seconds - step) / whole, both.calls


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, nargs="+", default=[200, 1000, 5000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(machine())
    print("| fit | steps | proofs | share of the fit's time |\n| --- | --- | --- | --- |")
    for name, (make, batch, size) in CASES.items():
        for steps in options.steps:
            found = [share(make, batch, size, steps) for _ in range(options.rounds)]
            shares = sorted(value for value, _ in found)
            line = f"{statistics.median(shares):.2%} ({shares[0]:.2%} to {shares[-1]:.2%})"
            print(f"| {name} | {steps:,} | {found[0][1]} | {line} |")


if __name__ == "__main__":
    main()
