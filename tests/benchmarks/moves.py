"""Moves between files of the library in one eager step on a mini-batch: how far a reader is sent to follow it.

    python tests/benchmarks/moves.py

A move is a call from one file of `ppl_vae`, `models` or `guides` into another, whatever of Pyro or torch lies between.
The VAE is 784-200-200-50-200-200-784, Bernoulli, its objective the ELBO, its batch 128 data.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch
from own_steps import vae

from ppl_vae.objectives import ELBO
from ppl_vae.training.step import TrainingStep

ROOT = str(Path(sys.modules[TrainingStep.__module__].__file__).parents[2])
ROOMS = ("ppl_vae", "models", "guides")


def moves(run):
    """Return how often ``run()`` calls from one file into another: a counter of (from, to), by their names."""
    homes, found = {}, Counter()

    def home(code):
        if code not in homes:
            name = code.co_filename
            inside = any(name.startswith(f"{ROOT}/{room}/") for room in ROOMS)
            homes[code] = name.removeprefix(f"{ROOT}/").removeprefix("ppl_vae/") if inside else ""
        return homes[code]

    def look(frame, event, _):
        if event != "call" or not (here := home(frame.f_code)):
            return
        caller = frame.f_back
        while caller is not None and not home(caller.f_code):
            caller = caller.f_back
        there = caller and home(caller.f_code)
        if there and there != here:
            found[there, here] += 1

    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def between(found, one, other):
    """Return how many moves lead from one room into another, or back."""
    rooms = {f"{one}/", f"{other}/"}
    return sum(n for pair, n in found.items() if {name.partition("/")[0] + "/" for name in pair} == rooms)


def step():
    """Return a function that takes one eager step, the first of which was taken."""
    torch.manual_seed(0)
    pair, batch = vae(), {"x": torch.bernoulli(torch.full((128, 784), 0.3))}
    pair.check(batch)
    take = TrainingStep(pair, ELBO(), torch.optim.Adam(pair.parameters(), 1e-3, fused=True), compile="off")
    take(batch)
    return lambda: take(batch)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", action="store_true", help="how many from which file into which")
    options = parser.parse_args()
    found = moves(step())
    for (one, other), count in found.most_common() if options.each else ():
        print(f"{count:4d}  {one} -> {other}")
    files = {name for pair in found for name in pair}
    print(f"{len(files)} files\n\n| calls from one file into another | moves |\n| --- | --- |")
    print(f"| all | {sum(found.values())} |\n| objectives and pairs | {between(found, 'objectives', 'pairs')} |")


if __name__ == "__main__":
    main()
