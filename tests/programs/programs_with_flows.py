"""Programs with Pyro's normalising flows, in the guide and in the prior."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as flows
import torch
from program_parts import D, Guide, L, Program, decoder, guided, modelled
from pyro.nn import PyroModule
from torch import nn

CONTEXT = 3


class FlowGuide(PyroModule):
    """q(z|x): a Normal of a network's output, carried on by flows."""

    def __init__(self, *made):
        super().__init__()
        self.network = nn.Linear(D, 2 * L)
        self.flows = nn.ModuleList([flow for flow in made if isinstance(flow, nn.Module)])
        self.chain = made

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            mean, log_scale = self.network(x).chunk(2, -1)
            base = dist.Normal(mean, log_scale.tanh().exp()).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, list(self.chain)))


class ConditionalFlowGuide(PyroModule):
    """q(z|x): a standard Normal, carried on by a flow that sees x."""

    def __init__(self, make):
        super().__init__()
        self.network = nn.Linear(D, CONTEXT)
        self.flow = make(L, CONTEXT)

    def forward(self, x=None, size=None):
        context = self.network(x).tanh()
        base = dist.Normal(torch.zeros(L).to(x), torch.ones(L).to(x)).to_event(1)
        carried = dist.ConditionalTransformedDistribution(base, [self.flow]).condition(context)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", carried)


class FlowPrior(PyroModule):
    """p(z): a standard Normal, carried on by a flow that can be inverted."""

    def __init__(self, make):
        super().__init__()
        self.network, self.flow = decoder(), make(L)
        self.register_buffer("zero", torch.zeros(L))

    def forward(self, x=None, size=None):
        prior = dist.TransformedDistribution(dist.Normal(self.zero, 1.0).to_event(1), [self.flow])
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", prior)
            return pyro.sample("x", dist.Normal(self.network(z), 0.5).to_event(1), obs=x)


class FreshFlow(Guide):
    """A flow in closed form, made anew at each call."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            mean, log_scale = self.network(x).chunk(2, -1)
            base = dist.Normal(mean, log_scale.tanh().exp()).to_event(1)
            bent = dist.transforms.ComposeTransform([flows.TanhTransform(), flows.AffineTransform(0.0, 3.0)])
            pyro.sample("z", dist.TransformedDistribution(base, [bent]))


PROGRAMS = {
    "spline flow": Program(guided(lambda: FlowGuide(flows.spline(L, count_bins=4)))),
    "spline flow, quadratic": Program(guided(lambda: FlowGuide(flows.spline(L, count_bins=4, order="quadratic")))),
    "spline coupling": Program(guided(lambda: FlowGuide(flows.spline_coupling(L, hidden_dims=[4])))),
    "spline autoregressive": Program(guided(lambda: FlowGuide(flows.spline_autoregressive(L, hidden_dims=[4])))),
    "conditional spline": Program(
        guided(lambda: ConditionalFlowGuide(lambda d, c: flows.conditional_spline(d, c, [4], count_bins=4)))
    ),
    "conditional planar": Program(
        guided(lambda: ConditionalFlowGuide(lambda d, c: flows.conditional_planar(d, c, [4])))
    ),
    "conditional affine autoregressive": Program(
        guided(lambda: ConditionalFlowGuide(lambda d, c: flows.conditional_affine_autoregressive(d, c, [4])))
    ),
    "spline prior": Program(modelled(lambda: FlowPrior(lambda d: flows.spline(d, count_bins=4))), ais=True),
    "affine coupling prior": Program(modelled(lambda: FlowPrior(lambda d: flows.affine_coupling(d, [4])))),
    "planar": Program(guided(lambda: FlowGuide(flows.planar(L), flows.planar(L)))),
    "radial": Program(guided(lambda: FlowGuide(flows.radial(L)))),
    "affine autoregressive": Program(guided(lambda: FlowGuide(flows.affine_autoregressive(L, [4])))),
    "sylvester": Program(guided(lambda: FlowGuide(flows.sylvester(L)))),
    "householder": Program(guided(lambda: FlowGuide(flows.householder(L)))),
    "permuted and coupled": Program(
        guided(lambda: FlowGuide(flows.affine_coupling(L, [4]), flows.permute(L, torch.tensor([1, 0]))))
    ),
    "neural autoregressive": Program(
        guided(lambda: FlowGuide(flows.neural_autoregressive(L, [4], activation="sigmoid")))
    ),
    "flow with batch norm": Program(guided(lambda: FlowGuide(flows.affine_coupling(L, [4]), flows.batchnorm(L)))),
    "flow whose inverse is in float32": Program(
        guided(lambda: FlowGuide(flows.affine_autoregressive(L, [4]), flows.batchnorm(L)))
    ),
    "planar prior": Program(modelled(lambda: FlowPrior(flows.planar))),
    "closed-form flow made anew": Program(guided(FreshFlow)),
}
