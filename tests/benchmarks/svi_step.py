"""Time of one SVI step: ours against hand-written PyTorch, stock Pyro, NumPyro, pythae, and the matrix products alone.

    python tests/benchmarks/svi_step.py --model vae --batch-size 20
    python tests/benchmarks/svi_step.py --model vae --batch-size 128 --binarization dynamic
    python tests/benchmarks/svi_step.py --model vae --batch-size 20 --num-particles 50
    python tests/benchmarks/svi_step.py --model conv --batch-size 128 --rounds 8 --threads 1

The VAE is 784-200-200-50-200-200-784, tanh, Bernoulli, Adam; CVAE is the same with a label of ten beside x and z; the
cross-modal pair has it for each half of the picture, joined by a product of experts; conv has DCGAN's networks; PPCA is
64 to 8, on digits; the ladder has latents 64-32-16-8-4 and two hidden layers of 512, 256, 128, 64, 64 for each, with
batch norm. With one particle the bound is the ELBO with an analytic KL, with more (VAE alone) the importance-weighted
one. M2 is 784-500-10, 794-500-2x50 and 60-500-784, softplus, its ten classes summed out, one datum in 200 labelled;
stock Pyro takes the same pair, and one written for it. NumPyro (VAE) and pythae (VAE, conv) are timed where they are
installed.

With `--binarization dynamic` every contender gathers its batch from 50,000 grey pictures by index at each step and
draws x ~ Bernoulli(grey); ours as `fit` does it. Compilation is not part of a step; `--first-steps` prints its seconds,
cold (nothing kept from an earlier run) and warm. `--threads` is of all contenders, each thread with a core. With
`--device cuda` our recorded steps are captured in a CUDA graph, and a hand-written step that is captured stands beside.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import pyro
import torch
from batches import Repeated, Shuffled
from cases import CASES
from contenders import stock_m2
from contenders.torch_steps import by_hand, by_hand_all, captured, ours, stock_pyro
from timing import interleave, machine, multiply_adds, table, use_threads

from ppl_vae.core.process import isolated

PATHS = ("off", "graph", "inductor")
#: What each way is divided by.
REFERENCES = (
    "hand-written, eager",
    "hand-written, channels-last",
    "hand-written, CUDA graph",
    "hand-written, torch.compile",
    "stock Pyro",
    "stock Pyro, the same pair",
    "NumPyro, jitted loop",
    "pythae, its trainer",
    "matrix products alone",
)


def installed(options, case, make, batches):
    """Return the steps of contenders that are installed and have this model, and a line on each library."""
    ways, about = {}, []
    try:
        if options.model == "vae" and options.device == "cpu":
            from contenders import numpyro_vae

            ways["NumPyro, jitted loop"] = numpyro_vae.step_of(batches, options.num_particles, case.calls)
            about.append(numpyro_vae.ABOUT)
    except ImportError as error:
        about.append(f"without NumPyro ({error})")
    try:
        if options.model in ("vae", "conv") and options.num_particles == 1:
            from contenders import pythae_vae

            ways |= pythae_vae.steps_of(make, batches, 50, case.calls)
            about.append(pythae_vae.ABOUT)
    except ImportError as error:
        about.append(f"without pythae ({error})")
    return ways, about


def steps_of(options, case, batches):
    """Return the steps of all contenders by name, and a line on each library."""
    device, ways, about = options.device, {}, []

    def pair():
        return case.pair().to(device)

    if case.by_hand is not None:

        def hand():
            return case.by_hand().to(device)

        ways |= by_hand_all(hand, batches)
        for name, make in case.variants.items():
            ways[name] = by_hand(make().to(device), batches)
            ways[f"{name}, fused Adam"] = by_hand(make().to(device), batches, fused=True)
        if device != "cpu":
            ways["hand-written, CUDA graph"] = captured(hand(), batches)
    for path in PATHS:
        ways[f"ours, {path}"] = ours(pair, batches, path, case.objective)[0]
    if options.model == "m2":
        x = case.batch["x"]
        pyro.clear_param_store()
        same, own = pair(), stock_m2.StockM2(784, 50, 10, 500).to(device)
        ways["stock Pyro, the same pair"] = stock_m2.step_of(same.model, same.guide, **case.batch)
        ways["stock Pyro"] = stock_m2.step_of(own.model, own.guide, x)
    else:
        ways["stock Pyro"] = stock_pyro(pair, batches, options.num_particles)
        others, about = installed(options, case, hand, batches)
        ways |= others
    if case.chains:
        chains = [multiply_adds(chain, device) for chain in case.chains]
        ways["matrix products alone"] = lambda: [products() for products in chains]
    return ways, about


def first_steps():
    """Return the seconds to the end of the first step by path, of a fresh process whose cache is empty, then full."""
    seconds = {}
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
            for path in PATHS:
                command = [sys.executable, __file__, *sys.argv[1:], "--first-step", path]
                environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": f"{cache}/{path}"}
                printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                seconds[path, state] = float(printed.stdout)
    return seconds


def options_of(argv=None):
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=CASES, default="vae")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--num-particles", type=int, default=1)
    parser.add_argument("--binarization", choices=("none", "dynamic"), default="none")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of each contender; by default all cores")
    parser.add_argument("--first-steps", action="store_true", help="print the seconds to the end of the first step too")
    parser.add_argument("--first-step", choices=PATHS, help="print its seconds and nothing else")
    options = parser.parse_args(argv)
    if options.binarization == "dynamic" and options.model not in ("vae", "conv", "ladder"):
        parser.error("--binarization dynamic: expected a model of x alone: vae, conv or ladder")
    if options.num_particles > 1 and options.model != "vae":
        parser.error("--num-particles: expected 1, but for --model vae")
    return options


def main():
    """Print the table."""
    options = options_of()
    use_threads(options.threads)
    B, K = options.batch_size, options.num_particles
    torch.manual_seed(0)
    with isolated(0):
        case = CASES[options.model](B, K)
        case.batch = {name: value.to(options.device) for name, value in case.batch.items()}
        batches = Shuffled(B, device=options.device) if options.binarization == "dynamic" else Repeated(case.batch)
        if options.first_step:
            print(ours(lambda: case.pair().to(options.device), batches, options.first_step, case.objective)[1])
            return
        ways, about = steps_of(options, case, batches)
        times = interleave(ways, rounds=options.rounds, calls=case.calls)
    print(", ".join([machine(), *about]))
    drawn = ", binarised afresh at each step" if options.binarization == "dynamic" else ""
    print(f"{options.model}, batch {B}, {K} particle{'s' * (K > 1)}{drawn}\n")
    print(table(times, REFERENCES))
    if options.first_steps:
        seconds = first_steps()
        found = (f"{path} {seconds[path, 'cold']:.1f} and {seconds[path, 'warm']:.1f}" for path in PATHS)
        print("\nseconds to the end of the first step, cold and warm: " + ", ".join(found))


if __name__ == "__main__":
    main()
