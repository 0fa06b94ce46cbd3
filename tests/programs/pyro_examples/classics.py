"""Programs with latents that all data share, and functions with `pyro.param`, as Pyro's tutorials write them."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import softplus


def flips():
    """Return ten flips (N,), six of them heads."""
    return {"data": torch.tensor([1.0] * 6 + [0.0] * 4).to(torch.get_default_dtype())}


def coin(data):
    """The fairness of a coin."""
    f = pyro.sample("latent_fairness", dist.Beta(torch.tensor(10.0), torch.tensor(10.0)))
    with pyro.plate("observed_data", len(data)):
        pyro.sample("obs", dist.Bernoulli(f), obs=data)


def coin_guide(data):
    alpha_q = pyro.param("alpha_q", torch.tensor(15.0), constraint=constraints.positive)
    beta_q = pyro.param("beta_q", lambda: torch.tensor(15.0), constraint=constraints.positive)
    pyro.sample("latent_fairness", dist.Beta(alpha_q, beta_q))


def coin_one_by_one(data):
    """The same, in a loop over the flips."""
    f = pyro.sample("latent_fairness", dist.Beta(torch.tensor(10.0), torch.tensor(10.0)))
    for i in range(len(data)):
        pyro.sample(f"obs_{i}", dist.Bernoulli(f), obs=data[i])


def coin_in_a_plate_of_python(data):
    """The same, in a sequential plate."""
    f = pyro.sample("latent_fairness", dist.Beta(torch.tensor(10.0), torch.tensor(10.0)))
    for i in pyro.plate("data_loop", len(data)):
        pyro.sample(f"obs_{i}", dist.Bernoulli(f), obs=data[i])


def coin_of_some(data):
    """The same, five flips at a time, which the program draws itself."""
    f = pyro.sample("latent_fairness", dist.Beta(torch.tensor(10.0), torch.tensor(10.0)))
    with pyro.plate("observed_data", len(data), subsample_size=5) as rows:
        pyro.sample("obs", dist.Bernoulli(f), obs=data.index_select(0, rows))


def schools():
    """Return the eight schools: treatment effects and their standard errors, (8, 2)."""
    y = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
    sigma = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
    return {
        "sigma": torch.tensor(sigma).to(torch.get_default_dtype()),
        "y": torch.tensor(y).to(torch.get_default_dtype()),
    }


def eight_schools(sigma, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(25.0)))
    with pyro.plate("J", len(sigma)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        return pyro.sample("obs", dist.Normal(mu + tau * eta, sigma), obs=y)


def eight_schools_guide(sigma, y=None):
    """Parameters of each school: as many as there are rows."""
    pyro.sample(
        "mu",
        dist.Normal(
            pyro.param("m_mu", torch.tensor(0.0)),
            pyro.param("s_mu", torch.tensor(1.0), constraint=constraints.positive),
        ),
    )
    loc, scale = (
        pyro.param("m_tau", torch.tensor(0.5)),
        pyro.param("s_tau", torch.tensor(0.1), constraint=constraints.positive),
    )
    pyro.sample("tau", dist.LogNormal(loc, scale))
    with pyro.plate("J", len(sigma)):
        m = pyro.param("m_eta", torch.zeros(len(sigma)))
        s = pyro.param("s_eta", torch.ones(len(sigma)), constraint=constraints.positive)
        pyro.sample("eta", dist.Normal(m, s))


def terrain():
    """Return three columns (N, 3) and what depends on them (N,)."""
    random = torch.Generator().manual_seed(7)
    x = torch.randn(15, 3, generator=random, dtype=torch.get_default_dtype())
    return {
        "x": x,
        "y": x @ torch.tensor([1.0, -2.0, 0.5], dtype=x.dtype) + 0.1 * torch.randn(15, generator=random, dtype=x.dtype),
    }


class BayesianRegression(PyroModule):
    """Weights with priors, whose guide is one of Pyro's."""

    def __init__(self, in_features=3, out_features=1):
        super().__init__()
        self.linear = PyroModule[nn.Linear](in_features, out_features)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([out_features, in_features]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([out_features]).to_event(1))

    def forward(self, x, y=None):
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def regression():
    model = BayesianRegression()
    return model, AutoDiagonalNormal(model)


def points():
    """Return numbers (N,) of two groups."""
    return {"data": torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0, -0.5, 9.5]).to(torch.get_default_dtype())}


@config_enumerate
def mixture(data):
    """Two groups, whose weights, centres and width all data share."""
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)


def mixture_pair():
    return mixture, AutoDelta(poutine.block(mixture, expose=["weights", "locs", "scale"]))


def faces():
    """Return counts (N, 6)."""
    return {"x": torch.randint(0, 6, (8, 6), generator=torch.Generator().manual_seed(8)).to(torch.get_default_dtype())}


class SparseGammaDEF:
    """A deep exponential family in no module: factors of all data, activations with parameters of each datum."""

    def __init__(self, top=2, bottom=3, pixels=6):
        self.top, self.bottom, self.pixels = top, bottom, pixels

    def model(self, x):
        with pyro.plate("w_top_plate", self.top * self.bottom):
            w_top = pyro.sample("w_top", dist.Gamma(torch.tensor(0.3), torch.tensor(0.1)))
        with pyro.plate("w_bottom_plate", self.bottom * self.pixels):
            w_bottom = pyro.sample("w_bottom", dist.Gamma(torch.tensor(0.3), torch.tensor(0.1)))
        with pyro.plate("data", x.size(0)):
            z_top = pyro.sample(
                "z_top", dist.Gamma(torch.tensor(0.1), torch.tensor(0.1)).expand([self.top]).to_event(1)
            )
            mean = torch.matmul(z_top, w_top.reshape(self.top, self.bottom))
            z_bottom = pyro.sample("z_bottom", dist.Gamma(torch.tensor(0.1), 0.1 / mean).to_event(1))
            mean = torch.matmul(z_bottom, w_bottom.reshape(self.bottom, self.pixels))
            pyro.sample("obs", dist.Poisson(mean).to_event(1), obs=x)

    def guide(self, x):
        size = x.size(0)

        def local(name, width):
            alpha = pyro.param(f"alpha_{name}", lambda: 0.5 + 0.1 * torch.rand(size, width))
            mean = pyro.param(f"mean_{name}", lambda: 0.1 * torch.rand(size, width))
            alpha, mean = softplus(alpha), softplus(mean)
            pyro.sample(name, dist.Gamma(alpha, alpha / mean).to_event(1))

        def shared(name, width):
            alpha = softplus(pyro.param(f"alpha_{name}", lambda: 0.5 + 0.1 * torch.rand(width)))
            mean = softplus(pyro.param(f"mean_{name}", lambda: 0.1 * torch.rand(width)))
            pyro.sample(name, dist.Gamma(alpha, alpha / mean))

        with pyro.plate("w_top_plate", self.top * self.bottom):
            shared("w_top", self.top * self.bottom)
        with pyro.plate("w_bottom_plate", self.bottom * self.pixels):
            shared("w_bottom", self.bottom * self.pixels)
        with pyro.plate("data", size):
            local("z_top", self.top)
            local("z_bottom", self.bottom)
