"""Time of one step by two checkouts of the library, in turn: what a change of its structure costs.

    OMP_NUM_THREADS=1 python tests/benchmarks/two_checkouts.py BEFORE/bin/python AFTER/bin/python

Each argument is a Python in which one of the checkouts is installed. A process of each takes the same steps, a round of
one after a round of the other; seconds are those of a core. The models are those of `svi_step.py`: a VAE
784-200-200-50-200-200-784, M2 with its ten classes summed out, a ladder of five layers.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings

BATCHES = {"vae, batch 20": 20, "vae, batch 128": 128, "m2, batch 200": 200, "ladder, batch 256": 256}
PATHS = ("off", "graph")


def work():
    """Take steps as they are asked for: a line with case, path and number in, milliseconds of a core per step out."""
    import torch

    import ppl_vae
    from ppl_vae.guides import AmortizedMixture, AmortizedNormal, Ladder
    from ppl_vae.models import M2, VAE, Hierarchical
    from ppl_vae.objectives import ELBO
    from ppl_vae.training.step import TrainingStep

    def pair_of(name):
        if name.startswith("vae"):
            return ppl_vae.Pair(VAE(784, 50), AmortizedNormal(784, 50))
        if name.startswith("m2"):
            networks = {"hidden": (500,), "activation": "softplus"}
            return ppl_vae.Pair(M2(784, 50, 10, **networks), AmortizedMixture(784, 50, 10, **networks))
        networks = {"hidden": tuple((width, width) for width in (512, 256, 128, 64, 64)), "batch_norm": True}
        model = Hierarchical(784, (64, 32, 16, 8, 4), **networks)
        return ppl_vae.Pair(model, Ladder(model, **networks))

    def stepper(name, path):
        torch.manual_seed(0)
        pair, rows = pair_of(name), BATCHES[name]
        batch = {"x": torch.bernoulli(torch.full((rows, 784), 0.3))}
        if name.startswith("m2"):  # one datum in 200 labelled
            batch |= {"y": torch.zeros(rows, dtype=torch.long), "labelled": torch.arange(rows) % 200 == 0}
        step = TrainingStep(pair, ELBO(), torch.optim.Adam(pair.parameters(), 1e-3, fused=True), compile=path)
        for _ in range(6):
            step(batch)
        return lambda: step(batch)

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    steps = {(name, path): stepper(name, path) for name in BATCHES for path in PATHS}
    print("ready", flush=True)
    for line in sys.stdin:
        name, path, number = json.loads(line)
        started = time.process_time()
        for _ in range(number):
            steps[name, path]()
        print((time.process_time() - started) / number * 1e3, flush=True)


def compare(pythons, rounds):
    """Print the least milliseconds of each, and the median and quartiles of the second's over the first's."""
    workers = [
        subprocess.Popen([python, __file__, "--work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for python in pythons
    ]
    assert [worker.stdout.readline().strip() for worker in workers] == ["ready", "ready"]
    print("| step | before, ms | after, ms | after / before, median [quartiles] |\n| --- | --- | --- | --- |")
    times = {(name, path): ([], []) for name in BATCHES for path in PATHS}
    for turn in range(rounds):
        for (name, path), found in times.items():
            for which in (0, 1) if turn % 2 else (1, 0):
                worker = workers[which]
                print(json.dumps([name, path, 30 if name.startswith("vae") else 8]), file=worker.stdin, flush=True)
                found[which].append(float(worker.stdout.readline()))
    for (name, path), (before, after) in times.items():
        low, middle, high = statistics.quantiles([b / a for a, b in zip(before, after, strict=True)], n=4)
        print(
            f"| {name}, {'eager' if path == 'off' else path} | {min(before):.2f} | {min(after):.2f} "
            f"| {middle:.3f} [{low:.3f}, {high:.3f}] |"
        )
    for worker in workers:
        worker.stdin.close()
        worker.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("pythons", nargs="*")
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    work() if options.work else compare(options.pythons, options.rounds)
