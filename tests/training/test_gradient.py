"""What a batch, a worker's rows and a piece of either count for: losses and gradients by hand, for given draws."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from own_pairs import rows
from pyro import poutine
from pyro.nn import PyroModule
from tiers import fast_in
from torch import nn

from ppl_vae import Pair
from ppl_vae.objectives import ELBO
from ppl_vae.pairs.sites import trace_pair
from ppl_vae.training.distributed.workers import Shard
from ppl_vae.training.gradient import Gradient
from ppl_vae.training.step import TrainingStep

F64 = torch.float64
N = 40
#: A scale of the model's own, which a share of the data set multiplies.
TEMPER = 3.0


class Weighted(PyroModule):
    """w ~ N(0, 1), y ~ N(w, 2^2) for all data; z ~ N(0, 1), x ~ N(w + a z, 1) for each; all to the power of TEMPER."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7))

    def forward(self, x=None, size=None):
        with poutine.scale(scale=TEMPER):
            w = pyro.sample("w", dist.Normal(torch.tensor(0.0, dtype=F64), 1.0))
            pyro.sample("y", dist.Normal(w, 2.0), obs=torch.tensor(0.4, dtype=F64))
            with pyro.plate("data", rows(x, size), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=F64), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(w.unsqueeze(-1) + self.a * z, 1.0).to_event(1), obs=x)


class WeightedGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc, self.slope = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.5))

    def forward(self, x=None, size=None):
        with poutine.scale(scale=TEMPER):
            pyro.sample("w", dist.Normal(self.loc, 0.2))
            with pyro.plate("data", rows(x, size), dim=-1):
                pyro.sample("z", dist.Normal(self.slope * x, 0.5).to_event(1))


def made(size=7):
    x = torch.randn(size, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    return Pair(Weighted(), WeightedGuide()).to(F64), {"x": x}


def log_normal(value, mean, scale):
    return -0.5 * ((value - mean) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)


def by_hand(mine, x, fraction, seed, kl):
    """Return the loss: the data in full, and a `fraction` of what stands outside their plate."""
    torch.manual_seed(seed)
    guide = trace_pair(*mine.programs(), (), {"x": x}).guide
    w, z = guide["w"]["value"], guide["z"]["value"]
    loc, slope, a = mine.guide.loc, mine.guide.slope, mine.model.a
    if kl == "sampled":
        kl_w = log_normal(w, loc, 0.2) - log_normal(w, 0.0, 1.0)
        kl_z = (log_normal(z, slope * x, 0.5) - log_normal(z, 0.0, 1.0)).sum()
    else:
        kl_w = 0.5 * (0.2**2 + loc**2 - 1) - math.log(0.2)
        kl_z = (0.5 * (0.5**2 + (slope * x) ** 2 - 1) - math.log(0.5)).sum()
    shared = kl_w - log_normal(0.4, w, 2.0)
    return TEMPER * (fraction * shared + kl_z - log_normal(x, w + a * z, 1.0).sum())


@pytest.mark.parametrize("kl", ["auto", "sampled"])
@pytest.mark.parametrize("path", ["off", "graph"])
@pytest.mark.parametrize("data_size", fast_in({N}, [None, 7, N]))
def test_what_data_share_counts_for_its_part_of_the_data_set(data_size, path, kl):
    """The loss of B of N data has B/N of it, and the gradient left in the parameters is that of the mean per datum."""
    mine, data = made()
    gradient = Gradient(mine, ELBO(kl=kl), data_size=data_size, compile=path)
    torch.manual_seed(3)
    loss = gradient(mine.arguments(data))
    got = [p.grad for p in mine.parameters()]
    wanted = by_hand(mine, data["x"], 1.0 if data_size is None else 7 / data_size, 3, kl)
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-10, atol=0)
    for one, other in zip(got, torch.autograd.grad(wanted / 7, list(mine.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["off", "graph"])
@pytest.mark.parametrize("cuts", [(0, 7), (0, 3, 7), (0, 1, 3, 7)])
def test_workers_rows_add_up_to_the_batch(cuts, path):
    """Each counts B_r/N of what data share, and its gradient is of the mean over the whole batch."""
    mine, data = made()
    gradient = Gradient(mine, ELBO(kl="sampled"), data_size=N, compile=path)
    total, sums = torch.zeros((), dtype=F64), [torch.zeros_like(p) for p in mine.parameters()]
    for start, stop in itertools.pairwise(cuts):
        torch.manual_seed(3)
        total += gradient({"x": data["x"][start:stop]}, Shard(start, stop, 7))
        sums = [have + p.grad for have, p in zip(sums, mine.parameters(), strict=True)]
    wanted = by_hand(mine, data["x"], 7 / N, 3, "sampled")
    torch.testing.assert_close(total, wanted.detach(), rtol=1e-10, atol=0)
    for one, other in zip(sums, torch.autograd.grad(wanted / 7, list(mine.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


class Mean(PyroModule):
    """x ~ N(loc, 1): nothing is drawn, so that pieces are the batch to the last digit."""

    def __init__(self):
        super().__init__()
        self.loc, self.unused = nn.Parameter(torch.tensor(0.25)), nn.Parameter(torch.tensor(1.0))

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            pyro.sample("x", dist.Normal(self.loc.expand(rows(x, size), 1), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("path", ["off", "graph"])
@pytest.mark.parametrize("pieces", fast_in({2, 7}, [1, 2, 3, 4, 7, 8]))
@pytest.mark.parametrize(("start", "stop"), [(0, 7), (0, 3), (3, 7)])
def test_pieces_of_a_batch_or_of_a_workers_rows(start, stop, pieces, path):
    """Seven data of mean m have the gradient loc - m; rows of them, in pieces of unequal size, their part of it."""
    mine = Pair(Mean(), lambda x=None, size=None: None).to(F64)
    x = torch.tensor([[-1.0], [0.5], [2.0], [4.0], [-3.0], [7.0], [0.25]], dtype=F64)
    step = TrainingStep(mine, ELBO(), torch.optim.SGD(mine.parameters(), 0.1), compile=path)
    step.pieces = pieces
    loss = step._own_loss({"x": x[start:stop]}, Shard(start, stop, 7))
    wanted = sum(0.5 * (value - 0.25) ** 2 + 0.5 * math.log(2 * math.pi) for value in x[start:stop, 0].tolist())
    assert float(loss) == pytest.approx(wanted, rel=1e-12)
    assert float(mine.model.loc.grad) == pytest.approx(sum(0.25 - v for v in x[start:stop, 0].tolist()) / 7, rel=1e-12)
    assert mine.model.unused.grad is None
