"""Programs that leave torch on the way: NumPy, SciPy, Python's numbers, memory of their own, and the clock."""

from __future__ import annotations

import random
import time

import numpy as np
import scipy.special
import scipy.stats
import torch
import torch.utils.dlpack
from program_parts import D, Guide, L, Model, Program, decoder, encoder, guided, modelled
from torch import nn


class NumpyWhere(Model):
    """Noise that NumPy chooses for each value."""

    def noise(self, x):
        return torch.from_numpy(np.where(x.numpy() > 0, 1.0, 3.0))


class NumpyMedian(Guide):
    """Centres the batch at medians taken by NumPy."""

    def encode(self, x):
        return self.network(x - torch.from_numpy(np.median(x.numpy(), axis=0)))


class ListOfRows(Guide):
    """Divides each row by its largest value, found in Python."""

    def encode(self, x):
        largest = torch.tensor([[max(map(abs, row))] for row in x.tolist()], dtype=x.dtype)
        return self.network(x / largest)


class Items(Guide):
    """Divides the batch by a number read back."""

    def encode(self, x):
        return self.network(x / x.abs().max().item())


class ThroughDlpack(Guide):
    """Hands the batch to NumPy by DLPack and back."""

    def encode(self, x):
        ranks = np.argsort(np.argsort(np.from_dlpack(x), axis=0), axis=0)
        return self.network(x + 0.1 * torch.from_dlpack(ranks).to(x))


class ThroughOldDlpack(Guide):
    """The same by the older functions."""

    def encode(self, x):
        same = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(x))
        return self.network(same.sign() * same.abs().sqrt())


class NumpyView(Guide):
    """Changes a copy through a view of its memory."""

    def encode(self, x):
        copy = x.clone()
        seen = copy.numpy()
        seen[seen > 1.0] = 1.0
        return self.network(copy)


class ScipyRanks(Guide):
    """Ranks of the batch by SciPy."""

    def encode(self, x):
        return self.network(torch.as_tensor(scipy.stats.rankdata(x.numpy(), axis=0)).to(x) / len(x))


class ScipyExpit(Model):
    def noise(self, x):
        return torch.as_tensor(0.5 + scipy.special.expit(x.numpy()))


class NumpyNoise(Guide):
    """Noise on the input from NumPy's own state."""

    def encode(self, x):
        return self.network(x + 0.3 * torch.from_numpy(np.random.normal(size=x.shape)).to(x))


class NumpyGenerator(Guide):
    """Noise on the input from a generator of NumPy's."""

    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng(0)

    def encode(self, x):
        return self.network(x + 0.3 * torch.from_numpy(self.generator.normal(size=x.shape)).to(x))


class PythonRandom(Guide):
    """Hides some columns of the input, by Python's random numbers."""

    def encode(self, x):
        shown = torch.tensor([float(random.random() < 0.8) for _ in range(D)], dtype=x.dtype)
        return self.network(x * shown)


class TorchGenerator(Guide):
    """Noise on the input from a torch.Generator of its own."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def encode(self, x):
        return self.network(x + 0.3 * torch.randn(x.shape, generator=self.generator, dtype=x.dtype))


class SeedsInside(Guide):
    """A random projection that is the same each time, as its seed is set."""

    def encode(self, x):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            projection = torch.randn(D, D, dtype=x.dtype)
        return self.network(x @ projection / D)


class Clock(Model):
    """Noise by the time of day."""

    def noise(self, x):
        return 0.5 + time.time() % 1


class CountsCalls(Model):
    """Noise that falls with the calls of the program, counted in an attribute."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def noise(self, x):
        self.calls += 1
        return 0.5 + 1.0 / self.calls


class Cools(Model):
    """A Python number that each call changes."""

    temperature = 2.0

    def noise(self, x):
        self.temperature = max(0.5, 0.95 * self.temperature)
        return self.temperature


class Closure(nn.Module):
    """A network around a function that counts its calls."""

    def __init__(self):
        super().__init__()
        self.network = decoder()
        calls = 0

        def factor():
            nonlocal calls
            calls += 1
            return 1.0 + 1.0 / calls

        self.factor = factor

    def forward(self, z):
        return self.factor() * self.network(z)


CALLS = 0


class GlobalCounter(nn.Module):
    """A network that counts its calls in a global."""

    def __init__(self):
        super().__init__()
        self.network = decoder()

    def forward(self, z):
        global CALLS
        CALLS += 1
        return (1.0 + 1.0 / (1 + CALLS % 10)) * self.network(z)


class AverageInPlace(Guide):
    """A running average in a tensor that is no buffer, changed in place."""

    def __init__(self):
        super().__init__()
        self.average = torch.zeros(D)

    def encode(self, x):
        self.average.mul_(0.5).add_(0.5 * x.detach().mean(0).to(self.average))
        return self.network(x - self.average.to(x))


class AverageReplaced(Guide):
    """The same, put in its place anew."""

    def __init__(self):
        super().__init__()
        self.average = torch.zeros(D)

    def encode(self, x):
        self.average = 0.5 * self.average.to(x) + 0.5 * x.detach().mean(0)
        return self.network(x - self.average)


class Remembers(Guide):
    """Keeps the last batch's codes in a list."""

    def __init__(self):
        super().__init__()
        self.seen = [torch.zeros(2 * L)]

    def encode(self, x):
        code = self.network(x) + 0.1 * self.seen[-1].to(x)
        self.seen.append(code.detach().mean(tuple(range(code.dim() - 1))))
        return code


class FirstBatch(Guide):
    """Standardises by the first batch that it sees."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def encode(self, x):
        if not self.kept:
            self.kept["mean"], self.kept["scale"] = x.mean(0), x.std(0) + 0.1
        return self.network((x - self.kept["mean"]) / self.kept["scale"])


class BufferInPlace(Guide):
    """A running average as a buffer, changed in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(D))

    def encode(self, x):
        self.average.mul_(0.5).add_(0.5 * x.detach().mean(0))
        return self.network(x - self.average.clone())


class BufferReplaced(BufferInPlace):
    def encode(self, x):
        self.average = 0.5 * self.average + 0.5 * x.detach().mean(0)
        return self.network(x - self.average)


class BufferCounts(Model):
    """Noise that falls with the calls, counted in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def noise(self, x):
        self.calls += 1
        return 0.5 + 1.0 / self.calls


class ConstantOfNumbers(Model):
    """Constants made of Python numbers at each call."""

    def noise(self, x):
        return torch.tensor([0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


class PlainListOfWeights(Guide):
    """Layers in a Python list, which no optimiser finds."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(D, D).requires_grad_(False), encoder().requires_grad_(False)]
        self.own = encoder()

    def encode(self, x):
        for layer in self.layers:
            layer.to(x)
        return self.own(x) + self.layers[1](self.layers[0](x))


PROGRAMS = {
    "numpy where in the model": Program(modelled(NumpyWhere), ais=True),
    "numpy median in the guide": Program(guided(NumpyMedian)),
    "numpy view of a copy": Program(guided(NumpyView)),
    "rows as lists": Program(guided(ListOfRows)),
    "a number read back": Program(guided(Items)),
    "dlpack": Program(guided(ThroughDlpack)),
    "dlpack, older functions": Program(guided(ThroughOldDlpack)),
    "scipy ranks": Program(guided(ScipyRanks)),
    "scipy expit in the model": Program(modelled(ScipyExpit)),
    "numpy random numbers": Program(guided(NumpyNoise), outside=True),
    "numpy generator": Program(guided(NumpyGenerator), outside=True),
    "python random numbers": Program(guided(PythonRandom), outside=True),
    "torch generator": Program(guided(TorchGenerator), outside=True),
    "a seed set inside": Program(guided(SeedsInside)),
    "clock": Program(modelled(Clock), outside=True),
    "counter in an attribute": Program(modelled(CountsCalls), outside=True, ais=True),
    "number that cools": Program(modelled(Cools), outside=True),
    "counter in a closure": Program(lambda: (Model(Closure()), Guide()), outside=True),
    "counter in a global": Program(lambda: (Model(GlobalCounter()), Guide()), outside=True),
    "average in a plain tensor, in place": Program(guided(AverageInPlace), outside=True),
    "average in a plain tensor, replaced": Program(guided(AverageReplaced), outside=True),
    "list of what was seen": Program(guided(Remembers), outside=True),
    "statistics of the first batch": Program(guided(FirstBatch)),
    "average in a buffer, in place": Program(guided(BufferInPlace), recorded="fit"),
    "average in a buffer, replaced": Program(guided(BufferReplaced), recorded="fit"),
    "counter in a buffer": Program(modelled(BufferCounts), recorded="fit"),
    "constants of numbers": Program(modelled(ConstantOfNumbers), recorded=True),
    "weights in a plain list": Program(guided(PlainListOfWeights)),
}
