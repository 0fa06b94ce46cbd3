"""Programs whose sizes, branches or codes come from the data: masks, sorting, nearest codes, loops."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from program_parts import D, Guide, L, Model, Program, counts, encoder, guided, masked, modelled
from pyro.nn import PyroModule
from torch import nn


class ReadsMasked(PyroModule):
    """A guide with a network for the rows of a mask and another for the others."""

    def __init__(self):
        super().__init__()
        self.network, self.other = encoder(), encoder()

    def encode(self, x, m):
        out = self.other(x)
        out[m] = self.network(x[m])
        return out

    def forward(self, x=None, m=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            mean, log_scale = self.encode(x, m).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class Standardised(ReadsMasked):
    """The rows of the mask, standardised among themselves, by their number."""

    def encode(self, x, m):
        chosen = x[m]
        centre = chosen.sum(0) / max(len(chosen), 1)
        return self.network(x - centre) + len(chosen) / 10


class ByNonzero(ReadsMasked):
    """The rows of the mask by their places."""

    def encode(self, x, m):
        places = m.nonzero().squeeze(-1)
        added = torch.zeros(len(x), 2 * L).to(x).index_add(0, places, self.network(x[places]))
        return self.other(x) + added * places.shape[0] / len(x)


class BySelection(ReadsMasked):
    def encode(self, x, m):
        chosen = torch.masked_select(x, m[:, None]).reshape(-1, D)
        return self.network(x) + self.other(chosen).mean(0)


class ByMaskedScatter(ReadsMasked):
    def encode(self, x, m):
        rest = self.other(x[~m])
        return self.network(x).masked_scatter(~m[:, None].expand(-1, 2 * L), rest)


class MeanOfPositive(Guide):
    """The mean of the values above zero, of which there are now more, now fewer."""

    def encode(self, x):
        return self.network(x - x[x > 0].mean())


class Distinct(Guide):
    """Rounded values as the numbers of their kinds."""

    def encode(self, x):
        kinds, places = x[:, 0].round().unique(return_inverse=True)
        return self.network(x) + places[:, None] / len(kinds)


class CountsKinds(Guide):
    def encode(self, x):
        bins = torch.bincount((x[:, 0] > 0).long() + (x[:, 1] > 0).long())
        return self.network(x) * bins.max() / len(x)


class Branches(Guide):
    """Two ways, by the mean of the batch."""

    def encode(self, x):
        return self.network(x) if x.mean() > 0 else self.network(-x)


class BranchesInPython(Guide):
    """Two ways, by a value that Python was given."""

    def encode(self, x):
        total = sum(map(sum, x.tolist()))
        return self.network(x) if total > 0 else self.network(-x)


class Whiles(Guide):
    """Halves the batch until it is small."""

    def encode(self, x):
        while x.abs().max() > 1:
            x = x / 2
        return self.network(x)


class LoopsOverCounts(PyroModule):
    """As many rounds of a network as the largest count of the batch."""

    def __init__(self):
        super().__init__()
        self.start, self.again = encoder(), nn.Linear(2 * L, 2 * L)

    def forward(self, x=None, n=None, size=None):
        code = self.start(x)
        for round_ in range(int(n.max())):
            code = torch.where((round_ < n)[:, None], self.again(code).tanh(), code)
        with pyro.plate("data", len(x), dim=-1):
            mean, log_scale = code.chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class Repeats(LoopsOverCounts):
    """Each row as often as its count says, and the mean over all."""

    def forward(self, x=None, n=None, size=None):
        repeated = x.repeat_interleave(n, dim=0)
        pieces = [piece.mean(0) for piece in self.start(repeated).split(n.tolist())]
        with pyro.plate("data", len(x), dim=-1):
            mean, log_scale = (torch.stack(pieces) + self.start(repeated).mean(0)).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class OneHot(LoopsOverCounts):
    """The count as one-hot, whose width is found from the batch."""

    def __init__(self, num_classes=-1):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, x=None, n=None, size=None):
        hot = F.one_hot(n, self.num_classes).to(x)
        shift = hot @ torch.linspace(-1, 1, hot.shape[-1]).to(x)
        with pyro.plate("data", len(x), dim=-1):
            mean, log_scale = (self.start(x) + shift[:, None]).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class MultinomialOfTheLargest(PyroModule):
    """Counts of kinds, with as many trials as the largest row has."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(L, 3)

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(L).to(self.network.bias), 1.0).to_event(1))
            trials = int(x.sum(-1).max())
            return pyro.sample("x", dist.Multinomial(trials, logits=self.network(z), validate_args=False), obs=x)


class CumulativeMask(Guide):
    """Values up to the first that is negative."""

    def encode(self, x):
        return self.network(x * (x > -0.5).cumprod(-1))


class Sorted(Guide):
    """Rows in the order of their first value, there and back."""

    def encode(self, x):
        order = x[:, 0].argsort()
        neighbours = x[order].roll(1, 0)[order.argsort()]
        return self.network(x + 0.2 * neighbours + 0.1 * x.sort(-1).values)


class Top(Guide):
    def encode(self, x):
        values, places = x.topk(2, -1)
        return self.network(x.scatter_add(-1, places, values)) + F.one_hot(x.argmax(-1), D)[:, : 2 * L]


class NearestCode(nn.Module):
    """The nearest of five codes, with a gradient straight through."""

    def __init__(self):
        super().__init__()
        self.codes = nn.Parameter(torch.randn(5, 2 * L))
        self.network = encoder()

    def forward(self, x):
        code = self.network(x)
        near = self.codes[torch.cdist(code, self.codes).argmin(-1)]
        return code + (near - code).detach() + 0.1 * (near - code.detach())


class Searches(Guide):
    def encode(self, x):
        edges = torch.linspace(-2, 2, 5).to(x)
        return self.network(x + 0.1 * torch.bucketize(x, edges))


class NoiseByMask(PyroModule):
    """A model whose noise depends on a mask of the values themselves, through an index put."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(L, D)

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(L).to(self.inner.bias), 1.0).to_event(1))
            noise = torch.ones(len(x), D).to(x)
            noise[x > 1] = 2.0
            noise[x < -1] = 3.0
            return pyro.sample("x", dist.Normal(self.inner(z), noise).to_event(1), obs=x)


def kinds():
    """x (N, 3): counts of three kinds, six in each row."""
    generator = torch.Generator().manual_seed(7)
    draws = torch.randint(3, (24, 6), generator=generator)
    return {"x": F.one_hot(draws, 3).sum(1).float()}


class TakesMask(Model):
    def forward(self, x=None, m=None, size=None):
        return super().forward(x, size)


class TakesCounts(Model):
    def forward(self, x=None, n=None, size=None):
        return super().forward(x, size)


PROGRAMS = {
    "network on masked rows": Program(guided(ReadsMasked, TakesMask), masked),
    "number of masked rows": Program(guided(Standardised, TakesMask), masked),
    "nonzero": Program(guided(ByNonzero, TakesMask), masked),
    "masked select": Program(guided(BySelection, TakesMask), masked),
    "masked scatter": Program(guided(ByMaskedScatter, TakesMask), masked),
    "mean of the positive": Program(guided(MeanOfPositive)),
    "unique": Program(guided(Distinct)),
    "bincount": Program(guided(CountsKinds)),
    "branch on the batch": Program(guided(Branches)),
    "branch in Python": Program(guided(BranchesInPython)),
    "while": Program(guided(Whiles)),
    "loop over counts": Program(guided(LoopsOverCounts, TakesCounts), counts),
    "repeat and split": Program(guided(Repeats, TakesCounts), counts),
    "one-hot of unknown width": Program(guided(OneHot, TakesCounts), counts),
    "one-hot of known width": Program(guided(lambda: OneHot(5), TakesCounts), counts),
    "multinomial of the largest": Program(lambda: (MultinomialOfTheLargest(), Guide(nn.Linear(3, 2 * L))), kinds),
    "cumulative mask": Program(guided(CumulativeMask), recorded=True),
    "sorted rows": Program(guided(Sorted), recorded=True),
    "top values": Program(guided(Top)),
    "nearest code": Program(lambda: (Model(), Guide(NearestCode())), recorded=True),
    "buckets": Program(guided(Searches), recorded=True),
    "noise by a mask of values": Program(modelled(NoiseByMask), recorded=True),
}
