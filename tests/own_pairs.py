"""Pairs as a user would write them, outside the package: own `PyroModule`s and functions, none of them configurable."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from ppl_vae import Pair

D, L = 5, 2


def rows(x, size):
    return size if x is None else x.shape[-2]


class Model(PyroModule):
    """p(z) = N(0, I), p(x|z) = N(net(z), scale^2); `net` and `scale` are names that the guide has too."""

    def __init__(self, x_dim=D, latent_dim=L):
        super().__init__()
        self.net = nn.Linear(latent_dim, x_dim)
        self.scale = PyroParam(torch.full((x_dim,), 0.5), constraint=constraints.positive)
        self.register_buffer("loc", torch.zeros(latent_dim))

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)


class Guide(PyroModule):
    """q(z|x) = N(net(x), scale^2)."""

    def __init__(self, x_dim=D, latent_dim=L):
        super().__init__()
        self.net = nn.Linear(x_dim, latent_dim)
        self.scale = PyroParam(torch.full((latent_dim,), 0.7), constraint=constraints.positive)

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            pyro.sample("z", dist.Normal(self.net(x), self.scale).to_event(1))


class Regression(PyroModule):
    """Latents shared by all data: w ~ N(0, I), s ~ LogNormal(0, 1), x_n ~ N(u_n w, s^2)."""

    def forward(self, u, x=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3).to(u), 1.0).to_event(1))
        s = pyro.sample("s", dist.LogNormal(torch.zeros(()).to(u), 1.0))
        with pyro.plate("data", u.shape[-2], dim=-1):
            loc = (u * w).sum(-1, keepdim=True)
            return pyro.sample("x", dist.Normal(loc, s.unsqueeze(-1)).to_event(1), obs=x)


def regression_data(size=40):
    random = torch.Generator().manual_seed(3)
    u = torch.randn(size, 3, generator=random)
    noise = torch.randn(size, 1, generator=random)
    return {"u": u, "x": u @ torch.tensor([[1.0], [2.0], [-1.0]]) + 0.3 * noise}


class Shared(PyroModule):
    """A latent of all data beside one per datum: b ~ N(0, I), z_n ~ N(0, I), x_n ~ N(net(z_n) + b, I)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(L, D)

    def forward(self, x=None, size=None):
        b = pyro.sample("b", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with pyro.plate("data", rows(x, size), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.net(z) + b, 1.0).to_event(1), obs=x)


class SharedGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(D, L)
        self.loc = nn.Parameter(torch.zeros(D))
        self.scale = PyroParam(torch.full((D,), 0.3), constraint=constraints.positive)

    def forward(self, x=None, size=None):
        pyro.sample("b", dist.Normal(self.loc, self.scale).to_event(1))
        with pyro.plate("data", rows(x, size), dim=-1):
            pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))


class Mixture(PyroModule):
    """k ~ Categorical, to be summed out; x ~ N(loc_k, 1) in one dimension."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([-1.5, 2.0]))
        self.register_buffer("weights", torch.tensor([0.3, 0.7]))

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            k = pyro.sample("k", dist.Categorical(self.weights), infer={"enumerate": "parallel"})
            return pyro.sample("x", dist.Normal(self.loc[k].unsqueeze(-1), 1.0).to_event(1), obs=x)

    def log_prob(self, x):
        """log p(x) of x (N, 1), the two components written out."""
        first, second = torch.distributions.Normal(self.loc, 1.0).log_prob(x).T + self.weights.log().unsqueeze(-1)
        return torch.logaddexp(first, second)


def no_latents(x=None, size=None):
    """The guide of a model whose every latent is summed out."""


class TwoLayers(PyroModule):
    """z2 ~ N(0, I), z1 ~ N(up(z2), I), x ~ N(out(z1), I)."""

    def __init__(self):
        super().__init__()
        self.up, self.out = nn.Linear(L, L), nn.Linear(L, D)

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.up(z2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.out(z1), 1.0).to_event(1), obs=x)


class BottomUp(PyroModule):
    """q(z1|x) q(z2|z1): the model draws z1 from a z2 that this guide draws later."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(D, L), nn.Linear(L, L)

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(self.first(x), 0.5).to_event(1))
            pyro.sample("z2", dist.Normal(self.second(z1), 0.8).to_event(1))


class TopDown(PyroModule):
    """q(z2|x) q(z1|z2, x)."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(D, L), nn.Linear(L + D, L)

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(self.first(x), 0.8).to_event(1))
            both = torch.cat([z2, x.expand(*z2.shape[:-1], D)], -1)
            pyro.sample("z1", dist.Normal(self.second(both), 0.5).to_event(1))


class Switch(PyroModule):
    """A binary latent per datum: k ~ Bernoulli(p), x ~ N(loc_k, 1)."""

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(0.4))
        self.loc = nn.Parameter(torch.tensor([-1.0, 1.5]))

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            k = pyro.sample("k", dist.Bernoulli(logits=self.logit))
            loc = self.loc[0] + k * (self.loc[1] - self.loc[0])
            return pyro.sample("x", dist.Normal(loc.unsqueeze(-1), 1.0).to_event(1), obs=x)


class SwitchGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            pyro.sample("k", dist.Bernoulli(logits=self.net(x)[..., 0]))


def pair(seed=0):
    """The linear pair of this file, the same numbers every time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Pair(Model(), Guide())


def batch(size=24, seed=1):
    return {"x": torch.randn(size, D, generator=torch.Generator().manual_seed(seed))}


class SharedSwitch(PyroModule):
    """One binary latent for all data: k ~ Bernoulli(p), x_n ~ N(loc_k, 1)."""

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(0.4))
        self.loc = nn.Parameter(torch.tensor([-0.3, 0.4]))

    def forward(self, x=None, size=None):
        k = pyro.sample("k", dist.Bernoulli(logits=self.logit))
        with pyro.plate("data", rows(x, size), dim=-1):
            loc = self.loc[0] + k * (self.loc[1] - self.loc[0])
            return pyro.sample("x", dist.Normal(loc.unsqueeze(-1), 1.0).to_event(1), obs=x)


class SharedSwitchGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(-0.2))

    def forward(self, x=None, size=None):
        pyro.sample("k", dist.Bernoulli(logits=self.logit))
