"""Time of whole fits by the default path, against a plain training loop of the same network with fused Adam.

    python tests/benchmarks/whole_fit.py --steps 2000 --rounds 3
    python tests/benchmarks/whole_fit.py --steps 10000 50000 --batch-size 128 --binarization dynamic --threads 1

Each fit has a process of its own. The clock starts once torch and ppl_vae are imported and the data are there, and
stops when the last step is done: ours is ``ppl_vae.fit(pair, data)`` as a user calls it, with its checks, recording,
compiling and proofs, cold (an empty folder for compiled code) and then warm (the same folder again); the loop builds
the module and takes its steps. Loop, cold and warm take turns in every round; ratios are medians over rounds. Both take
the same number of steps of the same size, 500 in an epoch, whose rows are shuffled anew, and validate nothing. The VAE
is 784-200-200-50-200-200-784. The data are binarised once, or with `--binarization dynamic` afresh at each step.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from batches import grey_pictures, split_of
from by_hand.vae import D, L, VAEByHand
from timing import machine, use_threads

import ppl_vae
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE

STEPS_PER_EPOCH = 500


def loop(data, size, epochs, dynamic):
    """Fit by hand."""
    module = VAEByHand()
    optimizer = torch.optim.Adam(module.parameters(), 1e-3, fused=True)
    for _ in range(epochs):
        total = torch.zeros(())
        for index in torch.randperm(len(data)).split(size):
            x = torch.bernoulli(data[index]) if dynamic else data[index]
            optimizer.zero_grad(set_to_none=True)
            loss = module(x)
            (loss / len(x)).backward()
            optimizer.step()
            total += loss.detach()
        if not total.isfinite():
            raise ArithmeticError("the loss is not finite")


def ours(data, size, epochs):
    """Fit by the library."""
    pair = ppl_vae.Pair(VAE(D, L), AmortizedNormal(D, L))
    ppl_vae.fit(pair, data, epochs=epochs, batch_size=size, device="cpu", progress=False)


def one_fit(who, size, steps, dynamic):
    """Return the seconds of one fit in this process."""
    torch.manual_seed(0)
    epoch = min(steps, STEPS_PER_EPOCH)
    grey = grey_pictures(size * epoch)
    if who == "ours":
        data = split_of(grey) if dynamic else {"x": torch.bernoulli(grey)}
    else:
        data = grey if dynamic else torch.bernoulli(grey)
    started = time.perf_counter()
    if who == "ours":
        ours(data, size, steps // epoch)
    else:
        loop(data, size, steps // epoch, dynamic)
    return time.perf_counter() - started


def in_a_process(who, size, steps, binarization, cache):
    """Return the seconds of one fit in a process of its own."""
    command = [sys.executable, __file__, "--one", who, "--batch-size", str(size), "--steps", str(steps)]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
    done = subprocess.run(
        [*command, "--binarization", binarization], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout)


def row(size, steps, binarization, rounds):
    """Return the row of one size and number of steps."""
    found = {"loop": [], "cold": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for name, who in (("loop", "loop"), ("cold", "ours"), ("warm", "ours")):
                found[name].append(in_a_process(who, size, steps, binarization, cache))
    seconds = [f"{statistics.median(values):.2f}" for values in found.values()]
    ratios = [
        f"{statistics.median(a / b for a, b in zip(found[name], found['loop'], strict=True)):.2f}"
        for name in ("cold", "warm")
    ]
    return f"| {steps:,} steps, batch {size} | {' | '.join([*seconds, *ratios])} |"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[2000], help="at most 500, or multiples of it")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[20, 128])
    parser.add_argument("--binarization", choices=("none", "dynamic"), default="none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="by default all cores")
    parser.add_argument("--one", choices=("loop", "ours"), help="print the seconds of this fit and nothing else")
    options = parser.parse_args()
    use_threads(options.threads)
    if any(steps > STEPS_PER_EPOCH and steps % STEPS_PER_EPOCH for steps in options.steps):
        parser.error(f"--steps: expected at most {STEPS_PER_EPOCH}, or multiples of it")
    dynamic = options.binarization == "dynamic"
    if options.one:
        print(one_fit(options.one, options.batch_size[0], options.steps[0], dynamic))
        return
    print(machine())
    print(f"seconds of whole fits; data binarised {'afresh at each step' if dynamic else 'once'}\n")
    print("| fit | loop, fused Adam | ours, cold | ours, warm | cold / loop | warm / loop |\n" + "| --- " * 6 + "|")
    for steps in options.steps:
        for size in options.batch_size:
            print(row(size, steps, options.binarization, options.rounds), flush=True)


if __name__ == "__main__":
    main()
