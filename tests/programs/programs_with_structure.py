"""Programs whose Pyro is out of the ordinary: other plates, views of the data, sites by a coin, shared latents."""

from __future__ import annotations

import random

import pyro
import pyro.distributions as dist
import torch
from program_parts import D, Guide, L, Model, Program, binary, decoder, encoder, real
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn
from torch.distributions import constraints


class OtherPlate(PyroModule):
    """The plain model, its plate called otherwise and its observation reshaped."""

    def __init__(self):
        super().__init__()
        self.network = decoder()

    def forward(self, x=None, size=None):
        with pyro.plate("rows", size if x is None else len(x)):
            z = pyro.sample("code", dist.Normal(torch.zeros(L).to(self.network[0].bias), 1.0).to_event(1))
            loc = self.network(z)
            picture = None if x is None else x.reshape(-1, 2, 3)
            return pyro.sample("picture", dist.Normal(loc.reshape(*loc.shape[:-1], 2, 3), 0.5).to_event(2), obs=picture)


class OtherPlateGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.network = encoder()

    def forward(self, x=None, size=None):
        mean, log_scale = self.network(x).chunk(2, -1)
        with pyro.plate("rows", len(x)):
            pyro.sample("code", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class ByColumns(Model):
    """A site for each column of x."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            loc = self.network(z)
            for t in range(D):
                pyro.sample(f"x{t}", dist.Normal(loc[..., t], 0.5), obs=None if x is None else x[:, t])


class PlateOfPixels(Model):
    """Pixels in a plate of their own, to the left of the data's."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            loc = self.network(z)
            with pyro.plate("pixels", D, dim=-2):
                return pyro.sample("x", dist.Normal(loc.mT, 0.5), obs=None if x is None else x.T)


class Bernoullis(Model):
    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.network(z)).to_event(1), obs=x)


class SomeHeavyTails(Model):
    """A scale for each row by a coin of torch's: the site is there or not."""

    def __init__(self):
        super().__init__()
        self.there = True

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            noise = 0.5
            if bool(torch.rand(()) < 0.5):
                pyro.factor("sparse", -z.abs().sum(-1))
            return pyro.sample("x", dist.Normal(self.network(z), noise).to_event(1), obs=x)


class PythonCoin(Model):
    """The same by a coin of Python's."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            if random.random() < 0.5:
                pyro.factor("sparse", -z.abs().sum(-1))
            return pyro.sample("x", dist.Normal(self.network(z), 0.5).to_event(1), obs=x)


class Mixture(PyroModule):
    """A kind k of each row, summed out, and a latent z given it."""

    def __init__(self):
        super().__init__()
        self.centres, self.network = nn.Parameter(torch.randn(3, L)), decoder()

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(torch.ones(3).to(self.centres) / 3))
            z = pyro.sample("z", dist.Normal(self.centres[k], 0.7).to_event(1))
            return pyro.sample("x", dist.Normal(self.network(z), 0.5).to_event(1), obs=x)


class MixtureGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.kind, self.network = nn.Linear(D, 3), encoder()

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("k", dist.Categorical(logits=self.kind(x)), infer={"enumerate": "parallel"})
            mean, log_scale = self.network(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class DrawnMixtureGuide(MixtureGuide):
    """The same, with the kind drawn."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("k", dist.Categorical(logits=self.kind(x)))
            mean, log_scale = self.network(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class NamesItself(nn.Module):
    """A module of torch that is registered with Pyro as it runs, as Pyro's first tutorials do."""

    def __init__(self):
        super().__init__()
        self.network = decoder()

    def forward(self, x=None, size=None):
        pyro.module("decoder", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), L), x.new_ones(len(x), L)).to_event(1))
            pyro.sample("x", dist.Normal(self.network(z), 0.5).to_event(1), obs=x)


class NamesItselfGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = encoder()

    def forward(self, x=None, size=None):
        pyro.module("encoder", self)
        with pyro.plate("data", len(x)):
            mean, log_scale = self.network(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class WithStoredParameter(Model):
    """A parameter that lives in Pyro's store."""

    def noise(self, x):
        return pyro.param("noise", torch.tensor(0.5), constraint=constraints.positive)


class WithConstrainedParameter(Model):
    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.full((D,), 0.5), constraints.positive)
        self.bounded = PyroParam(torch.tensor(0.2), constraints.unit_interval)

    def noise(self, x):
        return self.scale + self.bounded


class DependentParameter(Model):
    """A parameter computed from another at each use."""

    def __init__(self):
        super().__init__()
        self.root = nn.Parameter(torch.full((D,), 0.7))

    @PyroParam(constraint=constraints.positive)
    def scale(self):
        return torch.full((D,), 0.5)

    def noise(self, x):
        return self.scale + self.root.square()


class Shared(PyroModule):
    """A mean that all data share, and a code of each."""

    def __init__(self):
        super().__init__()
        self.network = decoder()

    def forward(self, x=None, size=None):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(D).to(self.network[0].bias), 1.0).to_event(1))
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(L).to(mean), 1.0).to_event(1))
            loc = mean.unsqueeze(-2) if mean.dim() > 1 else mean
            return pyro.sample("x", dist.Normal(self.network(z) + loc, 0.5).to_event(1), obs=x)


class SharedGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.network, self.loc = encoder(), nn.Parameter(torch.zeros(D))

    def forward(self, x=None, size=None):
        pyro.sample("mean", dist.Normal(self.loc, 0.3).to_event(1))
        with pyro.plate("data", len(x), dim=-1):
            mean, log_scale = self.network(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class BayesianRegression(PyroModule):
    """Weights with priors, by PyroSample, of a linear map from the first columns to the last."""

    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](D, D)
        self.linear.weight = PyroSample(lambda me: dist.Normal(torch.zeros(D, D).to(me.own), 1.0).to_event(2))
        self.linear.own = nn.Parameter(torch.zeros(()))

    def forward(self, x=None, size=None):
        loc = self.linear(x.roll(1, -1))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


def bayesian():
    model = BayesianRegression()
    guide = AutoNormal(model)
    guide(**{name: value[:3] for name, value in real().items()})
    return model, guide


class Subsamples(Model):
    """A plate that takes four rows of its own choice."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), subsample_size=4, dim=-1) as rows:
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.network(z), 0.5).to_event(1), obs=x[rows])


class RowByRow(Model):
    """A loop over the rows, each with sites of its own."""

    def forward(self, x=None, size=None):
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z{i}", dist.Normal(self.zero, 1.0).to_event(1))
            pyro.sample(f"x{i}", dist.Normal(self.network(z), 0.5).to_event(1), obs=x[i])


class RowByRowGuide(Guide):
    def forward(self, x=None, size=None):
        for i in pyro.plate("data", len(x)):
            mean, log_scale = self.network(x[i]).chunk(2, -1)
            pyro.sample(f"z{i}", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class Weighs(Model):
    """Scaled and masked by what the rows hold."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            with poutine.scale(scale=0.5), poutine.mask(mask=x[:, 0] > -1):
                return pyro.sample("x", dist.Normal(self.network(z), 0.5).to_event(1), obs=x)


class Projected(Model):
    """A deterministic site, and a prior by a factor."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            pyro.factor("smooth", -0.1 * (z[..., 1:] - z[..., :-1]).square().sum(-1))
            loc = pyro.deterministic("loc", self.network(z), event_dim=1)
            return pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


class OnlyLatents(Model):
    """A model that observes nothing."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            return self.network(z)


PROGRAMS = {
    "other plate, observation reshaped": Program(lambda: (OtherPlate(), OtherPlateGuide()), ais=True),
    "a site for each column": Program(lambda: (ByColumns(), Guide())),
    "plate of pixels": Program(lambda: (PlateOfPixels(), Guide())),
    "bernoulli": Program(lambda: (Bernoullis(), Guide()), binary, recorded=True),
    "a site by torch's coin": Program(lambda: (SomeHeavyTails(), Guide())),
    "a site by Python's coin": Program(lambda: (PythonCoin(), Guide()), outside=True),
    "mixture, summed out": Program(lambda: (Mixture(), MixtureGuide())),
    "mixture, drawn": Program(lambda: (Mixture(), DrawnMixtureGuide())),
    "modules that name themselves": Program(lambda: (NamesItself(), NamesItselfGuide())),
    "parameter in the store": Program(lambda: (WithStoredParameter(), Guide())),
    "constrained parameters": Program(lambda: (WithConstrainedParameter(), Guide()), recorded=True),
    "parameter as a property": Program(lambda: (DependentParameter(), Guide())),
    "shared mean": Program(lambda: (Shared(), SharedGuide()), recorded=True),
    "bayesian regression": Program(bayesian),
    "plate that subsamples": Program(lambda: (Subsamples(), Guide())),
    "row by row": Program(lambda: (RowByRow(), RowByRowGuide())),
    "scaled and masked": Program(lambda: (Weighs(), Guide())),
    "deterministic site and factor": Program(lambda: (Projected(), Guide())),
    "nothing observed": Program(lambda: (OnlyLatents(), Guide())),
    "model and guide swapped": Program(lambda: (Guide(), Model())),
    "plain functions": Program(lambda: (plain_model, plain_guide)),
}


def plain_model(x=None, size=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(L), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], D), 1.0).to_event(1), obs=x)


def plain_guide(x=None, size=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, :L] / 3, 0.7).to_event(1))
