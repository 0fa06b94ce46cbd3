"""Time of log p(x) by annealed importance sampling: ours against the same chains in plain PyTorch.

    python tests/benchmarks/ais.py                      # 16 chains of each of 100 data, T = 1000
    python tests/benchmarks/ais.py --num-particles 1
    python tests/benchmarks/ais.py --whole              # all of T = 1000, rather than from two shorter ones

The pair is 784-200-200-50-200-200-784, tanh, Bernoulli. The chains written by hand do what ours do: the sigmoid
schedule from the prior, step sizes adapted by other chains on a ladder of 100 rungs, transitions of ten leapfrog steps.
All chains of all data are moved at once, and each transition computes the gradient where it starts, as hand-written
samplers do; the second of them computes no gradient twice. Each way is timed with so many distributions and with twice
as many, in turn: the difference is the time of transitions, and what remains that of adapting, recording and compiling
(from a cache on disk, which the first call fills). From these the time for T = 1000 follows.
"""

import argparse
import statistics

import torch
from log_likelihood import CLOCKS, D, L
from timing import machine
from torch.nn import functional as F

import ppl_vae
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE

T, LEAPFROG, RUNGS, SETTLING, RATE, TARGET = 1000, 10, 100, 40, 0.6, 0.65


def schedule(num_distributions):
    """Return b_0, ..., b_T of the sigmoid schedule."""
    curve = torch.sigmoid(4 * (2 * torch.arange(num_distributions + 1, dtype=torch.float64) / num_distributions - 1))
    return ((curve - curve[0]) / (curve[-1] - curve[0])).float()


class ByHand:
    """Annealed importance sampling of one decoder, as one writes it in PyTorch."""

    def __init__(self, decoder, x, num_particles, *, carried=False):
        self.decoder, self.x, self.K, self.carried = decoder, x, num_particles, carried

    def log_likelihood_of(self, z):
        logits = self.decoder(z)
        return -F.binary_cross_entropy_with_logits(logits, self.x.expand_as(logits), reduction="none").sum(-1)

    def gradient(self, z):
        """Return log p(x|z) and its gradient; those of the prior are known."""
        z = z.detach().requires_grad_()
        log_p = self.log_likelihood_of(z)
        (slope,) = torch.autograd.grad(log_p.sum(), z)
        return log_p.detach(), slope

    def transition(self, z, step, beta, found):
        """Take one HMC transition."""
        log_p, slope = found if self.carried else self.gradient(z)
        step = step.unsqueeze(-1)
        momentum = start = torch.randn_like(z)
        end, log_p_end, slope_end = z, log_p, slope
        momentum = momentum + 0.5 * step * (beta * slope - z)
        for i in range(LEAPFROG):
            end = end + step * momentum
            log_p_end, slope_end = self.gradient(end)
            momentum = momentum + (1.0 if i < LEAPFROG - 1 else 0.5) * step * (beta * slope_end - end)
        gain = beta * (log_p_end - log_p) + 0.5 * (z.square() - end.square()).sum(-1)
        gain = gain + 0.5 * (start.square() - momentum.square()).sum(-1)
        acceptance = gain.clamp_max(0).exp().nan_to_num(0.0)
        taken = torch.rand_like(acceptance) < acceptance
        log_p = torch.where(taken, log_p_end, log_p)
        slope = torch.where(taken.unsqueeze(-1), slope_end, slope)
        return torch.where(taken.unsqueeze(-1), end, z), acceptance, (log_p, slope)

    def estimate(self, num_distributions):
        """Return log p(x) of every datum."""
        N = len(self.x)
        z, step, found = torch.randn(self.K, N, L), torch.full((N,), 0.1), []
        known = self.gradient(z)
        ladder = schedule(RUNGS)[1:]
        for rung in range(1 - SETTLING, RUNGS):
            z, acceptance, known = self.transition(z, step, ladder[max(rung, 0)], known)
            step = step * torch.exp(RATE * (acceptance.mean(0) - TARGET))
            if rung >= 0:
                found.append(step)
        betas = schedule(num_distributions)
        z = torch.randn(self.K, N, L)
        known = self.gradient(z)
        log_w = (betas[1] - betas[0]) * known[0]
        for t in range(1, num_distributions):
            rung = max(round(t * RUNGS / num_distributions) - 1, 0)
            z, _, known = self.transition(z, found[rung], betas[t], known)
            log_w = log_w + (betas[t + 1] - betas[t]) * known[0]
        return log_w.logsumexp(0) - torch.tensor(float(self.K)).log()


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-particles", type=int, default=16, help="chains of each datum")
    parser.add_argument("--data", type=int, default=100)
    parser.add_argument("--num-distributions", type=int, default=50, help="of the shorter of two runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a machine that others use too")
    parser.add_argument("--whole", action="store_true", help="time all of T = 1000, everything counted")
    options = parser.parse_args()
    clock, K = CLOCKS[options.clock], options.num_particles
    torch.manual_seed(0)
    pair = ppl_vae.Pair(VAE(D, L), AmortizedNormal(D, L))
    x = (torch.rand(options.data, D) < 0.2).float()
    layers = [layer for layer in pair.model.decode.modules() if isinstance(layer, torch.nn.Linear)]

    def decoder(z):
        for layer in layers[:-1]:
            z = torch.tanh(layer(z))
        return layers[-1](z)

    def ours(path):
        def run(num_distributions):
            annealing = {"num_distributions": num_distributions}
            found = ppl_vae.log_likelihood(
                pair, {"x": x}, method="ais", num_particles=K, annealing=annealing, compile=path
            )
            return found.values.mean()

        return run

    first = "hand-written"
    ways = {
        first: lambda n: ByHand(decoder, x, K).estimate(n).mean(),
        "hand-written, no gradient twice": lambda n: ByHand(decoder, x, K, carried=True).estimate(n).mean(),
    }
    # The default is chosen by the length of the whole chain.
    ways |= {f"ours, {path}": ours(path) for path in ("off", "graph", "inductor")}
    if options.whole:
        ways["ours, auto"] = ours("auto")
    per, beside, whole = ({name: [] for name in ways} for _ in range(3))
    lengths = (T,) if options.whole else (options.num_distributions, 2 * options.num_distributions)
    estimates = {name: float(way(2)) for name, way in ways.items()}  # compiled code is kept on disk from here on
    for _ in range(options.rounds):
        for name, way in ways.items():
            taken = []
            for length in lengths:
                started = clock()
                estimates[name] = float(way(length))
                taken.append(clock() - started)
            if options.whole:
                whole[name].append(taken[0])
                continue
            per[name].append((taken[1] - taken[0]) / options.num_distributions)
            beside[name].append(taken[0] - per[name][-1] * (lengths[0] - 1))
            whole[name].append(beside[name][-1] + per[name][-1] * (T - 1))
    print(machine())
    print(f"{options.data} data, {K} chains each, {options.clock} seconds\n")
    print(f"| way | ms a transition | against {first} | s beside | s for T = {T:,} | against {first} | log p(x) |")
    print("| --- " * 7 + "|")
    for name in ways:
        cells = [name, "", "", "", f"{statistics.median(whole[name]):.1f}", _ratio(whole, name, first)]
        if not options.whole:
            milliseconds = 1e3 * statistics.median(per[name])
            cells[1:4] = [f"{milliseconds:.1f}", _ratio(per, name, first), f"{statistics.median(beside[name]):.1f}"]
        print(f"| {' | '.join([*cells, f'{estimates[name]:.2f}'])} |")


def _ratio(seconds, name, reference):
    """Return the median over rounds of the ratio to a reference, as text."""
    return f"{statistics.median(a / b for a, b in zip(seconds[name], seconds[reference], strict=True)):.2f}"


if __name__ == "__main__":
    main()
