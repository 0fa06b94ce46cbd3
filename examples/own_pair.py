"""A pair of your own: a model, a guide, one call to fit it, one for its log p(x) with an error bar.

A banana-shaped density in the plane: p(z) = N(0, 1), p(x|z) = N((z, z^2 - 1), s^2 I) with s learned.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

import ppl_vae
from ppl_vae.report import RECORD, recorded


class Banana(PyroModule):
    """p(z) = N(0, 1), p(x|z) = N((a z, b z^2 + c), s^2 I)."""

    def __init__(self):
        super().__init__()
        self.shape = nn.Parameter(torch.tensor([0.5, 0.5, 0.0]))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("zero", torch.zeros(1))

    def forward(self, x=None, size=None):
        """Observe x (B, 2), or generate `size` of them."""
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            a, b, c = self.shape
            mean = torch.cat([a * z, b * z**2 + c], -1)
            return pyro.sample("x", dist.Normal(mean, self.log_scale.exp()).to_event(1), obs=x)


class Encoder(PyroModule):
    """q(z|x) = N(m(x), exp(h(x))^2)."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, x=None, size=None):
        """Draw z for x (B, 2)."""
        with pyro.plate("data", len(x), dim=-1):
            mean, log_scale = self.network(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))


@recorded
def main(argv=None):
    """Draw bananas, fit the pair, and estimate log p(x) of held-out ones."""
    parser = argparse.ArgumentParser(parents=[RECORD], description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short fit, for a look or a test")
    options = parser.parse_args(argv)

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 1, generator=generator)
    x = torch.cat([z, z**2 - 1], -1) + 0.3 * torch.randn(4000, 2, generator=generator)
    data = ppl_vae.data.from_tensors({"x": x}, name="bananas")

    torch.manual_seed(0)
    pair = ppl_vae.Pair(Banana(), Encoder())
    run = ppl_vae.fit(pair, data, epochs=5 if options.quick else 100, lr=1e-2, schedule="cosine")
    a, b, c = pair.model.shape.tolist()
    print(f"a {a:.3f}, b {b:.3f}, c {c:.3f}, s {pair.model.log_scale.exp():.3f}; the data's own: 1 or -1, 1, -1, 0.3")
    print(f"bound {run.history['validation_bound'][-1]:.3f} nats per datum")
    print(ppl_vae.log_likelihood(pair, data.test, num_particles=200))
    return {"seed": 0, "device": run.config["fit"]["device"]}


if __name__ == "__main__":
    main()
