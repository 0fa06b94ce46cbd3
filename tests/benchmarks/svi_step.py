"""Time of one SVI step: ours against hand-written PyTorch, stock Pyro, NumPyro, and the matrix products alone.

    python tests/benchmarks/svi_step.py --model vae --batch-size 20
    python tests/benchmarks/svi_step.py --model vae --batch-size 20 --num-particles 50
    python tests/benchmarks/svi_step.py --model m2 --batch-size 200 --rounds 10
    python tests/benchmarks/svi_step.py --model ladder --batch-size 256

The VAE is 784-200-200-50-200-200-784, tanh, Bernoulli, Adam; PPCA is 64 to 8, on digits; the ladder (one particle) has
latents 64-32-16-8-4, two hidden layers of 512, 256, 128, 64, 64 for each, and batch norm. With one particle the bound
is the ELBO with an analytic KL, with more it is the importance-weighted one. M2 is 784-500-10, 794-500-2x50 and
60-500-784, softplus, its ten classes summed out, one datum in 200 labelled; stock Pyro takes the same pair, and one
written for it. NumPyro is timed where it is installed.
Compilation is not part of a step; its seconds are printed apart, cold (nothing kept from an earlier run) and warm. With
`--device cuda` our recorded steps are captured in a CUDA graph, and a hand-written step that is captured stands beside.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise

import pyro
import torch
from stock_m2 import StockM2, step_of
from timing import interleave, machine, multiply_adds, table
from torch import nn
from torch.nn import functional as F

import ppl_vae
from ppl_vae.core.process import isolated
from ppl_vae.guides import AmortizedMixture, AmortizedNormal, Ladder, LinearGaussian
from ppl_vae.models import M2, PPCA, VAE, Hierarchical
from ppl_vae.objectives import ELBO, IWELBO
from ppl_vae.training.step import TrainingStep

D, H, L = 784, 200, 50
LATENTS, WIDTHS = (64, 32, 16, 8, 4), (512, 256, 128, 64, 64)


class HandWritten(nn.Module):
    """The same VAE as one writes it by hand: its forward is the loss, in nats per batch."""

    def __init__(self, num_particles=1):
        super().__init__()
        self.K = num_particles
        self.encoder = nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, H), nn.Tanh(), nn.Linear(H, 2 * L))
        self.decoder = nn.Sequential(nn.Linear(L, H), nn.Tanh(), nn.Linear(H, H), nn.Tanh(), nn.Linear(H, D))

    def forward(self, x):
        mean, log_scale = self.encoder(x).chunk(2, -1)
        scale = log_scale.exp()
        if self.K > 1:
            noise = torch.randn(self.K, *mean.shape, device=mean.device)
            z = mean + scale * noise
            log_ratio = (0.5 * (noise**2 - z**2) + log_scale).sum(-1)
            logits = self.decoder(z)
            log_p = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
            return -(torch.logsumexp(log_p + log_ratio, 0) - math.log(self.K)).sum()
        logits = self.decoder(mean + scale * torch.randn_like(scale))
        kl = 0.5 * (mean**2 + scale**2 - 1).sum() - log_scale.sum()
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + kl


class HandWrittenPPCA(nn.Module):
    """PPCA with its linear guide, by hand."""

    def __init__(self, x_dim, latent_dim):
        super().__init__()
        self.decode, self.encode = nn.Linear(latent_dim, x_dim), nn.Linear(x_dim, latent_dim)
        self.log_scale, self.tril = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(latent_dim, latent_dim))

    def forward(self, x):
        T = self.tril.tril(-1) + self.tril.diagonal().exp().diag_embed()
        mean = self.encode(x)
        x_hat = self.decode(mean + torch.randn_like(mean) @ T.T)
        scale = self.log_scale.exp()
        distortion = 0.5 * ((x - x_hat) / scale).square().sum() + x.numel() * (self.log_scale + 0.9189385)
        kl = (
            0.5 * (mean.square().sum() + len(x) * (T.square().sum() - T.shape[0])) - len(x) * self.tril.diagonal().sum()
        )
        return distortion + kl


class HandWrittenLadder(nn.Module):
    """The ladder by hand: each p(z_k|z_{k+1}) is computed once, for the guide and for the KL."""

    def __init__(self):
        super().__init__()
        below = (D, *WIDTHS)
        self.up = nn.ModuleList(_hidden(n, m) for n, m in zip(below, WIDTHS, strict=False))
        self.evidence = nn.ModuleList(nn.Linear(m, 2 * n) for m, n in zip(WIDTHS, LATENTS, strict=True))
        self.down = nn.ModuleList(
            nn.Sequential(_hidden(above, m), nn.Linear(m, 2 * n))
            for above, m, n in zip(LATENTS[1:], WIDTHS[1:], LATENTS, strict=False)
        )
        self.decoder = nn.Sequential(_hidden(LATENTS[0], WIDTHS[0]), nn.Linear(WIDTHS[0], D))

    def forward(self, x):
        d, found = x, []
        for up, evidence in zip(self.up, self.evidence, strict=True):
            d = up(d)
            found.append(_normal(evidence(d)))
        mean, scale = found[-1]
        z = mean + scale * torch.randn_like(scale)
        kl = (0.5 * (mean**2 + scale**2 - 1) - scale.log()).sum()
        for (m, s), down in zip(found[-2::-1], reversed(self.down), strict=True):
            n, t = _normal(down(z))
            p_s, p_t = s**-2, t**-2
            variance = 1 / (p_s + p_t)
            mean = variance * (p_s * m + p_t * n)
            z = mean + variance.sqrt() * torch.randn_like(mean)
            kl = kl + (0.5 * ((variance + (mean - n) ** 2) * p_t - 1 - variance.log()) + t.log()).sum()
        return F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum") + kl


def _normal(output):
    """Return mean and scale."""
    mean, a = output.chunk(2, -1)
    return mean, F.softplus(a) + 1e-4


def _hidden(n, m):
    """Return two hidden layers."""
    layers = [(nn.Linear(i, m, bias=False), nn.BatchNorm1d(m), nn.LeakyReLU()) for i in (n, m)]
    return nn.Sequential(*(layer for three in layers for layer in three))


def ladder_products(B):
    """Return the matrix products of the ladder's layers, as `multiply_adds` takes them."""
    up = [(B, *sizes) for n, m in zip((D, *WIDTHS), WIDTHS, strict=False) for sizes in ((n, m), (m, m))]
    evidence = [(B, m, 2 * n) for m, n in zip(WIDTHS, LATENTS, strict=True)]
    down = []
    for above, m, n in zip(LATENTS, WIDTHS, (D, *(2 * n for n in LATENTS)), strict=False):
        down += [(B, above, m), (B, m, m), (B, m, n)]
    return up + evidence + down


def by_hand(module, x, compiled=False, **options):
    """Return a step of a module whose forward is the loss."""
    optimizer = torch.optim.Adam(module.parameters(), 1e-3, **options)
    loss_of = torch.compile(module) if compiled else module

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x)
        (loss / len(x)).backward()
        optimizer.step()

    return step


def captured(module, x):
    """Return a step of a module whose forward is the loss, replayed from a CUDA graph."""
    step = by_hand(module, x, fused=True, capturable=True)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def ours(make, batch, path, objective=None):
    """Return our step on the given path, and the seconds to the end of the first one."""
    pair = make()
    adam = torch.optim.Adam(pair.parameters(), 1e-3, fused=True, capturable=batch["x"].is_cuda)
    step = TrainingStep(pair, objective or ELBO(), adam, compile=path)
    started = time.perf_counter()
    step(batch)
    return (lambda: step(batch)), time.perf_counter() - started


def stock_pyro(make, x, num_particles=1):
    """Return a step of `pyro.infer.SVI` with `Trace_ELBO` or `RenyiELBO`, as Pyro's documentation writes it."""
    pyro.clear_param_store()
    pair = make()
    loss = pyro.infer.Trace_ELBO()
    if num_particles > 1:
        loss = pyro.infer.RenyiELBO(0.0, num_particles=num_particles, vectorize_particles=True, max_plate_nesting=1)
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    return lambda: svi.step(x)


def numpyro_vae(x, num_particles=1):
    """Return a jitted NumPyro step on the same VAE, or None where NumPyro is not installed."""
    try:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import SVI, RenyiELBO, TraceMeanField_ELBO
    except ImportError:
        return None
    sizes = {"encoder": (D, H, H, 2 * L), "decoder": (L, H, H, D)}

    def network(name, h):
        widths = sizes[name]
        for i, (n, m) in enumerate(pairwise(widths)):
            W = numpyro.param(f"{name}{i}.W", lambda key, n=n, m=m: jax.random.normal(key, (n, m)) / n**0.5)
            h = h @ W + numpyro.param(f"{name}{i}.b", jnp.zeros(m))
            h = jnp.tanh(h) if i < 2 else h
        return h

    def model(x):
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(L), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=network("decoder", z)).to_event(1), obs=x)

    def guide(x):
        with numpyro.plate("data", len(x)):
            mean, log_scale = jnp.split(network("encoder", x), 2, -1)
            numpyro.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))

    loss = RenyiELBO(0.0, num_particles) if num_particles > 1 else TraceMeanField_ELBO()
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), loss)
    data = jnp.asarray(x.numpy())
    steps = 20 if num_particles == 1 else 5

    # Its fastest form: a loop of steps inside one jitted call.
    @jax.jit
    def loop(state):
        return jax.lax.fori_loop(0, steps, lambda _, s: svi.update(s, data)[0], state)

    holder = {"state": svi.init(jax.random.PRNGKey(0), data), "left": 0}

    def step():  # one call in `steps` does the work of all of them
        if holder["left"] == 0:
            holder["state"] = jax.block_until_ready(loop(holder["state"]))
            holder["left"] = steps
        holder["left"] -= 1

    return step


def ways_of_m2(batch):
    """Return the steps that M2 is held against, and what makes a pair of ours."""
    x, H, L, C = batch["x"], 500, 50, 10
    B, options = len(x), {"hidden": (H,), "activation": "softplus"}

    def make():
        return ppl_vae.Pair(M2(D, L, C, **options), AmortizedMixture(D, L, C, **options)).to(x.device)

    pyro.clear_param_store()
    same, own = make(), StockM2(D, L, C, H).to(x.device)
    classifier = multiply_adds([(B, D, H), (B, H, C)], x.device)
    # Of the encoder's first layer, all classes have what is done to x in common, and all data what is done to y.
    chain = multiply_adds([(B, D, H), (C * B, H, 2 * L), (C * B, L, H), (C * B, H, D)], x.device)

    def products():
        classifier()
        chain()

    return make, {
        "stock Pyro, the same pair": step_of(same.model, same.guide, **batch),
        "stock Pyro": step_of(own.model, own.guide, x),
        "matrix products alone": products,
    }


def first_steps():
    """Return the seconds to the end of the first step by path, of a fresh process whose cache is empty, then full."""
    seconds = {}
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
            for path in ("off", "graph", "inductor"):
                command = [sys.executable, __file__, *sys.argv[1:], "--first-step", path]
                environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": f"{cache}/{path}"}
                printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                seconds[path, state] = float(printed.stdout)
    return seconds


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("vae", "ppca", "m2", "ladder"), default="vae")
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--num-particles", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--first-step", choices=("off", "graph", "inductor"), help="print its seconds and nothing else")
    options = parser.parse_args()
    B, K = options.batch_size, options.num_particles
    objective = IWELBO(K) if K > 1 else ELBO()
    torch.manual_seed(0)
    with isolated(0):
        x = (torch.rand(B, D) < 0.2).float().to(options.device)
        batch = {"x": x}
        if options.model == "vae":
            layers = [(B, D, H), (B, H, H), (B, H, 2 * L), (K * B, L, H), (K * B, H, H), (K * B, H, D)]

            def make():
                return ppl_vae.Pair(VAE(D, L), AmortizedNormal(D, L)).to(options.device)

            def hand():
                return HandWritten(K).to(options.device)
        elif options.model == "ladder":
            layers = ladder_products(B)

            def make():
                networks = {"hidden": [(m, m) for m in WIDTHS], "activation": "leaky_relu", "batch_norm": True}
                model = Hierarchical(D, LATENTS, **networks)
                return ppl_vae.Pair(model, Ladder(model, **networks)).to(options.device)

            def hand():
                return HandWrittenLadder().to(options.device)
        elif options.model == "ppca":
            data = ppl_vae.data.load("digits", binarization="none")
            batch = {"x": (x := data.train["x"][:B].to(options.device))}
            layers = [(B, 64, 8), (B, 8, 8), (B, 8, 64)]

            def make():
                return ppl_vae.Pair(PPCA(64, 8), LinearGaussian(64, 8)).to(options.device)

            def hand():
                return HandWrittenPPCA(64, 8).to(options.device)
        else:
            rows = torch.arange(B, device=x.device)
            batch |= {"y": rows % 10, "labelled": rows % 200 == 0}
            make, others = ways_of_m2(batch)

        if options.first_step:
            print(ours(make, batch, options.first_step, objective)[1])
            return
        ways = {}
        if options.model != "m2":
            ways |= {
                "hand-written, eager": by_hand(hand(), x),
                "hand-written, eager, fused Adam": by_hand(hand(), x, fused=True),
                "hand-written, torch.compile": by_hand(hand(), x, compiled=True),
                "hand-written, torch.compile, fused Adam": by_hand(hand(), x, compiled=True, fused=True),
            }
            others = {"stock Pyro": stock_pyro(make, x, K), "matrix products alone": multiply_adds(layers, x.device)}
            if x.is_cuda:
                ways["hand-written, CUDA graph"] = captured(hand(), x)
        for path in ("off", "graph", "inductor"):
            ways[f"ours, {path}"] = ours(make, batch, path, objective)[0]
        if options.model == "vae" and not x.is_cuda and (step := numpyro_vae(x, K)) is not None:
            ways["NumPyro, jitted loop"] = step
        calls = 3 if options.model == "m2" else 20 if K == 1 else 5
        times = interleave(ways | others, rounds=options.rounds, calls=calls)
    print(machine())
    print(f"{options.model}, batch {B}, {K} particles\n")
    references = (
        "hand-written, eager",
        "hand-written, CUDA graph",
        "hand-written, torch.compile",
        "stock Pyro",
        "stock Pyro, the same pair",
        "NumPyro, jitted loop",
    )
    print(table(times, [*references, "matrix products alone"]))
    seconds = first_steps()
    printed = (
        f"{path} {seconds[path, 'cold']:.1f} and {seconds[path, 'warm']:.1f}" for path in ("off", "graph", "inductor")
    )
    print("\nseconds to the end of the first step, cold and warm: " + ", ".join(printed))


if __name__ == "__main__":
    main()
