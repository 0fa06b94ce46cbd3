"""Milliseconds per step of ours alone, by path, as JSON: for comparing two checkouts, run in turn.

    OMP_NUM_THREADS=2 python tests/benchmarks/own_steps.py

Each figure is the least of five rounds of twenty steps. The VAE is 784-200-200-50-200-200-784, Bernoulli; PPCA 64 to 8.
"""

import json
import time

import torch

import ppl_vae
from ppl_vae.guides import AmortizedNormal, LinearGaussian
from ppl_vae.models import PPCA, VAE
from ppl_vae.objectives import ELBO, IWELBO
from ppl_vae.training.step import TrainingStep


def vae():
    hidden = {"hidden": (200, 200)}
    return ppl_vae.Pair(VAE(784, 50, likelihood="bernoulli", **hidden), AmortizedNormal(784, 50, **hidden))


def ppca():
    return ppl_vae.Pair(PPCA(64, 8), LinearGaussian(64, 8))


CASES = {
    "VAE, batch 20": (vae, 20, 784, ELBO()),
    "VAE, batch 128": (vae, 128, 784, ELBO()),
    "VAE, batch 20, K = 50": (vae, 20, 784, IWELBO(50)),
    "PPCA, batch 128": (ppca, 128, 64, ELBO()),
}


def stepper(make, rows, size, objective, path):
    torch.manual_seed(0)
    pair, batch = make(), {"x": torch.bernoulli(torch.full((rows, size), 0.3))}
    optimizer = torch.optim.Adam(pair.parameters(), 1e-3, fused=True)
    step = TrainingStep(pair, objective, optimizer, compile=path)
    for _ in range(20):
        step(batch)
    return lambda: step(batch)


def main():
    ways = {
        f"{name}, {path}": stepper(*case, path) for name, case in CASES.items() for path in ("off", "graph", "inductor")
    }
    times = {name: [] for name in ways}
    for _ in range(5):
        for name, way in ways.items():
            started = time.perf_counter()
            for _ in range(20):
                way()
            times[name].append((time.perf_counter() - started) / 20 * 1e3)
    print(json.dumps({name: min(values) for name, values in times.items()}))


if __name__ == "__main__":
    main()
