"""Particles folded into the batch: the numbers of a particle plate, for programs that take no leading dimensions."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from own_pairs import BottomUp, Guide, Model, Switch, SwitchGuide, TopDown, TwoLayers
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

import ppl_vae
from ppl_vae import Pair, PairError
from ppl_vae.objectives import ELBO, IWELBO
from ppl_vae.pairs.folding import Folding
from ppl_vae.pairs.layout import Layout
from ppl_vae.pairs.sites import trace_pair

N, D, L = 8, 5, 2


def data(size=N, width=D, seed=0):
    return {"x": torch.randn(size, width, generator=torch.Generator().manual_seed(seed)).double()}


class Labelled(PyroModule):
    """A label that the guide sums out, a masked site, a factor and a deterministic one."""

    def __init__(self):
        super().__init__()
        self.centre, self.out = nn.Parameter(torch.randn(3, L)), nn.Linear(L, D)

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.ones(3).to(x) / 3))
            z = pyro.sample("z", dist.Normal(self.centre[y], 0.7).to_event(1))
            pyro.factor("smooth", -0.1 * z.square().sum(-1))
            loc = pyro.deterministic("loc", self.out(z), event_dim=1)
            with poutine.mask(mask=x[:, 0] > -0.5):
                pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


class LabelledGuide(PyroModule):
    def __init__(self, how):
        super().__init__()
        self.label, self.code, self.infer = nn.Linear(D, 3), nn.Linear(D, L), how

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("y", dist.Categorical(logits=self.label(x)), infer=self.infer)
            pyro.sample("z", dist.Normal(self.code(x), 0.6).to_event(1))


def pairs():
    torch.manual_seed(0)
    return {
        "a code": (Pair(Model(), Guide()), D),
        "two layers, top down": (Pair(TwoLayers(), TopDown()), D),
        "two layers, bottom up": (Pair(TwoLayers(), BottomUp()), D),
        "a switch": (Pair(Switch(), SwitchGuide()), 1),
        "a label summed out": (Pair(Labelled(), LabelledGuide({"enumerate": "parallel"})), D),
        "a label drawn": (Pair(Labelled(), LabelledGuide({})), D),
    }


@pytest.fixture(params=pairs())
def case(request):
    pair, width = pairs()[request.param]
    return request.param, pair.double(), data(width=width)


def both_ways(pair, use):
    """Return what a use gives with a particle plate and with particles folded, from one random state."""
    found = []
    for pair.folding in (None, Folding()):
        pair.zero_grad()
        torch.manual_seed(1)
        result = use()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in pair.parameters()]
        found.append([result.detach(), *gradients])
    return found


OBJECTIVES = {
    "elbo": lambda: ELBO(3),
    "sampled elbo": lambda: ELBO(3, kl="sampled"),
    "stl": lambda: ELBO(3, kl="sampled", gradient="stl"),
    "iwelbo": lambda: IWELBO(3),
    "vimco": lambda: IWELBO(3, gradient="vimco"),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bounds_and_gradients_are_those_of_a_particle_plate(case, objective):
    name, pair, batch = case
    drawn = name in ("a switch", "a label drawn")
    if drawn and objective in ("stl", "iwelbo"):
        pytest.skip("a latent without a reparameterised sampler")
    pair.check(batch)
    assert pair.folding is None
    loss = OBJECTIVES[objective]()
    for one, other in zip(*both_ways(pair, lambda: loss.loss_and_grads(*pair.programs(), **batch)), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("particles", [1, 2, 5])
def test_weights_and_posterior_are_those_of_a_particle_plate(case, particles):
    _, pair, batch = case
    pair.check(batch)
    for use in (
        lambda: pair.log_weights(batch, particles),
        lambda: torch.cat([v.double().flatten() for v in pair.posterior(batch, particles).values()]),
        lambda: pair.log_weights({"x": batch["x"][:1]}, particles),
    ):
        (one, *_), (other, *_) = both_ways(pair, use)
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_the_record_is_that_of_a_particle_plate():
    pair, batch = pairs()["a label summed out"][0].double(), data()
    records = []
    for pair.folding in (None, Folding()):
        torch.manual_seed(0)
        records.append(trace_pair(*pair.programs(), (), batch, 3, enumerated=True))
    for one, other in zip(*(run.programs.values() for run in records), strict=True):
        assert list(one) == list(other)
        for name in one:
            assert one[name]["fn"].event_shape == other[name]["fn"].event_shape
            assert one[name]["cond_indep_stack"] == other[name]["cond_indep_stack"]
            assert torch.equal(one[name]["value"].expand_as(other[name]["value"]), other[name]["value"])


class Convolutional(nn.Module):
    """Networks of a picture (B, 1, 6, 6): convolutions, batch norm, `view`."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm1d(2 * L)
        self.head, self.out = nn.Linear(32, 2 * L), nn.ConvTranspose2d(L, 1, 6)

    def model(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], L), 1.0).to_event(1))
            loc = self.out(z.view(x.shape[0], L, 1, 1))
            pyro.sample("obs", dist.Normal(loc, 0.5).to_event(3), obs=x)

    def guide(self, x):
        with pyro.plate("data", x.shape[0]):
            mean, log_scale = self.norm(self.head(self.conv(x).relu().view(x.shape[0], -1))).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))


def pictures():
    return {"x": torch.randn(N, 1, 6, 6, generator=torch.Generator().manual_seed(0))}


def convolutional():
    torch.manual_seed(0)
    made = Convolutional()
    return Pair(made.model, made.guide)


def test_convolutions_have_the_log_weights_of_each_particle_by_itself():
    pair, batch = convolutional().eval(), pictures()
    pair.check(batch)
    torch.manual_seed(1)
    run = trace_pair(*pair.programs(), (), batch, 4)
    z = run.guide["z"]["value"]
    assert z.shape == (4, N, L)
    for k, weights in enumerate(run.log_weights()):
        fixed = poutine.Trace()
        fixed.add_node("z", **(run.guide["z"] | {"value": z[k]}))
        model, guide = pair.programs()
        alone = trace_pair(model, poutine.replay(guide, trace=fixed), (), batch).log_weights()
        torch.testing.assert_close(weights, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["importance", "ais"])
def test_a_likelihood_is_estimated_from_folded_particles(method):
    options = {"annealing": {"num_distributions": 4, "leapfrog_steps": 1}} if method == "ais" else {}
    pair = convolutional()
    found = [
        ppl_vae.log_likelihood(
            pair, pictures(), method=method, num_particles=8, compile=mode, progress=False, **options
        )
        for mode in ("off", "graph")
    ]
    torch.testing.assert_close(found[0].values, found[1].values, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_one_particle_needs_no_leading_dimensions(compile):
    run = ppl_vae.fit(convolutional(), pictures(), epochs=2, batch_size=4, compile=compile, progress=False)
    assert run.history["train_bound"][0] > -1e4


def test_batch_norm_in_training_is_refused_for_several_particles():
    line = (
        r"pair: expected one particle in training, .*; got 3 particles and BatchNorm1d, whose statistics .* particles"
    )
    with pytest.raises(PairError, match=line):
        ppl_vae.fit(convolutional(), pictures(), epochs=1, objective=ELBO(3), progress=False)


class Rows(PyroModule):
    """A network that sums over dimension 0 or 1 of its input."""

    def __init__(self, dim):
        super().__init__()
        self.dim, self.out = dim, nn.Linear(L, D)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            loc = self.out(torch.softmax(z, self.dim))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def encode(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, :L], 1.0).to_event(1))


def test_a_network_that_takes_a_leading_dimension_for_another_is_folded():
    pair, batch = Pair(Rows(1), encode), {"x": data()["x"].float()}
    pair.check(batch)
    assert pair.folding == Folding()


def test_a_network_that_mixes_rows_has_one_particle():
    pair, batch = Pair(Rows(0), encode), {"x": data()["x"].float()}
    ppl_vae.fit(pair, batch, epochs=1, progress=False)
    line = (
        r"pair: expected for several particles, networks .*; got programs in which log weights of one row depend on the"
    )
    for use in (
        lambda: ppl_vae.fit(pair, batch, epochs=1, objective=ELBO(2), progress=False),
        lambda: pair.log_weights(batch, 2),
    ):
        with pytest.raises(PairError, match=line):
            use()


def test_latents_shared_by_all_data_are_not_folded():
    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))

    pair = Pair(model, guide)
    pair.folding = Folding()
    with pytest.raises(
        PairError, match=r"site 'w': expected one particle, for a latent shared by all data, .*; got 2 part"
    ):
        ELBO(2).loss(*pair.programs(), x=data()["x"].float())


def test_dimensions_are_moved_and_moved_back():
    value = torch.arange(24.0).reshape(6, 4)
    layout = Layout(2, 3)
    assert torch.equal(layout.record(value, 1), value.reshape(2, 3, 4))
    assert torch.equal(layout.program(value.reshape(2, 3, 4), 1), value)
    assert layout.record(torch.zeros(5, 1)).shape == (5, 1, 1)
    assert layout.program(torch.zeros(5, 1, 1)).shape == (5, 1)
    assert layout.program(torch.zeros(5, 1, 3)).shape == (5, 6)
    # Time at -1, data at -2, pixels at -3; an enumerated dimension to the left and an event dimension to the right.
    value = torch.randn(2, 5, 6, 4, 7)
    layout = Layout(2, 3, depth=3, dim=-2, inner=(-3, -1))
    record = layout.record(value, 1)
    assert record.shape == (2, 2, 3, 5, 4, 7)
    assert torch.equal(record[1, 1, 2, 3, 0], value[1, 3, 5, 0])
    assert torch.equal(layout.program(record, 1), value)
    outer = layout._replace(inner=())
    assert outer.record(torch.zeros(2, 1, 6, 1)).shape == (2, 2, 3)
    assert outer.program(torch.zeros(2, 2, 3)).shape == (2, 1, 6, 1)
    assert Layout(None, 6, depth=2, dim=-1, inner=(-2,)).record(torch.zeros(4, 6)).shape == (6, 4)
