"""M2 as one writes it in plain Pyro, and its step: y summed out by `TraceEnum_ELBO`, x and z beside the one-hot y."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn


def _network(inputs, hidden, outputs):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Softplus(), nn.Linear(hidden, outputs))


def _beside(h, y):
    leading = torch.broadcast_shapes(h.shape[:-1], y.shape[:-1])
    return torch.cat((h.expand(*leading, -1), y.expand(*leading, -1)), -1)


class StockM2(nn.Module):
    """Model and guide of unlabelled data, in one module."""

    def __init__(self, x_dim, latent_dim, num_classes, hidden):
        super().__init__()
        self.L, self.C = latent_dim, num_classes
        self.classifier = _network(x_dim, hidden, num_classes)
        self.encoder = _network(x_dim + num_classes, hidden, 2 * latent_dim)
        self.decoder = _network(latent_dim + num_classes, hidden, x_dim)

    def model(self, x):
        """p(y) p(z) p(x|y, z)."""
        pyro.module("m2", self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(len(x), self.C)))
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.L), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(_beside(z, y))).to_event(1), obs=x)

    def guide(self, x):
        """q(y|x) q(z|x, y)."""
        with pyro.plate("data", len(x)):
            q_y = dist.OneHotCategorical(logits=self.classifier(x))
            y = pyro.sample("y", q_y, infer={"enumerate": "parallel"})
            loc, log_scale = self.encoder(_beside(x, y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def step_of(model, guide, *args, **kwargs):
    """Return a step of `pyro.infer.SVI` that sums out what is marked so."""
    loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    return lambda: svi.step(*args, **kwargs)
