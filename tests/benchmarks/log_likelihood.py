"""Time of log p(x) by importance weighting: ours against the decoder's matrix products alone.

    python tests/benchmarks/log_likelihood.py --num-particles 5000 --data 40
    python tests/benchmarks/log_likelihood.py --num-particles 5000 --mnist
    python tests/benchmarks/log_likelihood.py --first

The pair is 784-200-200-50-200-200-784, tanh, Bernoulli. Each way is timed on so many data and on twice as many, in
turn: the difference is the time of the data, and what remains of the first that of recording and compiling. The
products are done a thousand rows at a time, by torch's own `@` (BLAS) and by oneDNN; the one that is faster is the
floor of this machine. With --mnist the whole test set is done once, and the peak of memory printed. With --first, how
long a fresh process takes to the first number: the test digits by a VAE of 64-200-200-8, all but `import torch`.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from timing import machine

import ppl_vae
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE

D, H, L = 784, 200, 50
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def decoder_products(rows, product):
    """Return a function that does the decoder's matrix products for so many rows, a thousand at a time."""
    weights = [torch.randn(m, n) / n**0.5 for n, m in ((L, H), (H, H), (H, D))]
    z = torch.randn(1000, L)

    def run():
        for _ in range(rows // 1000):
            h = z
            for weight in weights:
                h = product(h, weight)

    return run


def by_onednn(x, weight):
    """Return x w', by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def mnist(pair, num_particles, path):
    """Print how long the MNIST test set takes, and the peak of this process's memory."""
    data = ppl_vae.data.load("binarized-mnist").test
    before = peak()
    result = ppl_vae.log_likelihood(pair, data, num_particles=num_particles, compile=path, progress=True)
    print(f"{data.size:,} data, K = {num_particles:,}: {result.seconds:.0f} s, {result.details}")
    print(f"peak resident memory {peak():.0f} MiB, of which {before:.0f} MiB before the estimate")


#: Prints the wall and CPU seconds from `import torch` to the data, the estimate alone, and how it was run.
FIRST = """
import sys, time, torch
clocks = time.perf_counter, time.process_time
started = [clock() for clock in clocks]
import ppl_vae
data = ppl_vae.data.load("digits")
pair = ppl_vae.zoo.build("vae", data.spec, latent_dim=8)
ready = [clock() for clock in clocks]
ll = ppl_vae.log_likelihood(pair, data.test, num_particles=int(sys.argv[1]))
done = [clock() for clock in clocks]
print(*(b - a for since in (ready, started) for a, b in zip(since, done)), ll.details["path"], len(ll.values))
"""


def first_number(rounds):
    """Print how long a fresh process takes to its first number on the test digits."""
    print("| K | data | path | s of the estimate | CPU | s from `import torch` on | CPU |")
    print("| --- " * 7 + "|")
    for K in (100, 1000, 5000):
        seconds = []
        for _ in range(rounds):
            command = [sys.executable, "-c", FIRST, str(K)]
            *taken, path, size = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            seconds.append([float(value) for value in taken])
        medians = (f"{statistics.median(column):.2f}" for column in zip(*seconds, strict=True))
        print(f"| {K:,} | {size} | {path} | {' | '.join(medians)} |")


def peak():
    """Return the peak resident memory of this process so far, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-particles", type=int, default=5000)
    parser.add_argument("--data", type=int, default=40, help="how many data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a machine that others use too")
    parser.add_argument("--mnist", action="store_true", help="the whole MNIST test set, once")
    parser.add_argument("--compile", default="auto", help="how, with --mnist")
    parser.add_argument("--first", action="store_true", help="the time to the first number, small data")
    options = parser.parse_args()
    K, N, clock = options.num_particles, options.data, CLOCKS[options.clock]
    torch.manual_seed(0)
    pair = ppl_vae.Pair(VAE(D, L), AmortizedNormal(D, L))
    print(machine())
    if options.mnist:
        mnist(pair, K, options.compile)
        return
    if options.first:
        first_number(options.rounds)
        return
    x = (torch.rand(2 * N, D) < 0.2).float()

    def ours(path):
        return lambda size: ppl_vae.log_likelihood(pair, {"x": x[:size]}, num_particles=K, compile=path)

    def products(product):
        return lambda size: decoder_products(size * K, product)()

    ways = {"matrix products, torch": products(lambda x, weight: x @ weight.T)}
    if torch.backends.mkldnn.is_available():
        ways["matrix products, oneDNN"] = products(by_onednn)
    floors = list(ways)
    ways |= {f"ours, {path}": ours(path) for path in ("off", "graph", "inductor", "auto")}
    seconds = {name: [] for name in ways}
    fixed = {name: [] for name in ways}
    with torch.no_grad():
        for way in ways.values():  # compiled code is kept on disk: the first call makes it
            way(N)
        for _ in range(options.rounds):
            for name, way in ways.items():
                taken = []
                for size in (N, 2 * N):
                    started = clock()
                    way(size)
                    taken.append(clock() - started)
                seconds[name].append(taken[1] - taken[0])
                fixed[name].append(2 * taken[0] - taken[1])
    print(f"K = {K:,}, {N} data, {options.clock} seconds\n")
    floor = min(floors, key=lambda name: statistics.median(seconds[name]))
    print(f"| way | s | against {floor} | rows a second | s beside |")
    print("| --- " * 5 + "|")
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, seconds[floor], strict=True))
        median = statistics.median(values)
        cells = [name, f"{median:.2f}", f"{ratio:.2f}", f"{N * K / median:,.0f}"]
        print(f"| {' | '.join(cells)} | {statistics.median(fixed[name]):.2f} |")


if __name__ == "__main__":
    main()
