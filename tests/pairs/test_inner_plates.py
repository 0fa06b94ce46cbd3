"""Plates inside a datum, and data at another dim than -1: the numbers of the same program with event dimensions."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import ppl_vae
from ppl_vae import Pair, PairError
from ppl_vae.objectives import ELBO, IWELBO
from ppl_vae.pairs.sites import trace_pair

N, T, L = 9, 4, 2


def data():
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, T + 1, (N,), generator=random)
    return {"x": torch.randn(N, T, generator=random).double(), "lengths": lengths}


class Program(nn.Module):
    """A code z of each datum and w of each step, and observed steps, of which some are masked."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.decoder, self.encoder, self.step = nn.Linear(L, T), nn.Linear(T, 2 * L), nn.Linear(T, T)

    def seen(self, lengths):
        return torch.arange(T) < lengths[:, None]

    def code(self, x):
        mean, log_scale = self.encoder(x).chunk(2, -1)
        return dist.Normal(mean, log_scale.exp()).to_event(1)


class Events(Program):
    """With event dimensions, in the library's own way."""

    def model(self, x, lengths):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(L), 1.0).to_event(1))
            seen = self.seen(lengths)
            w = pyro.sample("w", dist.Normal(x.new_zeros(len(x), T), 1.0).mask(seen).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z) + w, 0.5).mask(seen).to_event(1), obs=x)

    def guide(self, x, lengths):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.code(x))
            pyro.sample("w", dist.Normal(self.step(x), 0.6).mask(self.seen(lengths)).to_event(1))


class StepsLeft(Program):
    """Steps in a plate to the left of the data."""

    def model(self, x, lengths):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(L), 1.0).to_event(1))
            with pyro.plate("steps", T, dim=-2), poutine.mask(mask=self.seen(lengths).T):
                w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Normal(self.decoder(z).mT + w, 0.5), obs=x.T)

    def guide(self, x, lengths):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", self.code(x))
            with pyro.plate("steps", T, dim=-2), poutine.mask(mask=self.seen(lengths).T):
                pyro.sample("w", dist.Normal(self.step(x).T, 0.6))


class StepsRight(Program):
    """Data at dim -2, steps at -1."""

    def model(self, x, lengths):
        steps = pyro.plate("steps", T, dim=-1)
        with pyro.plate("people", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1, L), 1.0).to_event(1))
            with steps, poutine.mask(mask=self.seen(lengths)):
                w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Normal(self.decoder(z.squeeze(-2)) + w, 0.5), obs=x)

    def guide(self, x, lengths):
        steps = pyro.plate("steps", T, dim=-1)
        with pyro.plate("people", len(x), dim=-2):
            code = self.code(x)
            pyro.sample("z", dist.Normal(code.base_dist.loc[:, None], code.base_dist.scale[:, None]).to_event(1))
            with steps, poutine.mask(mask=self.seen(lengths)):
                pyro.sample("w", dist.Normal(self.step(x), 0.6))


WITH_PLATES = {"steps left of the data": StepsLeft, "steps right of the data": StepsRight}


def made(kind):
    program = kind().double()
    pair = Pair(program.model, program.guide)
    pair.check(data())
    return pair


@pytest.fixture(params=WITH_PLATES)
def kind(request):
    return WITH_PLATES[request.param]


@pytest.mark.parametrize("kl", ["sampled", pytest.param("auto", marks=pytest.mark.slow)])
def test_the_bound_is_pyros(kind, kl):
    pair, losses = made(kind), []
    programs = pair.model.forward, pair.guide.forward
    for objective, run in (
        (ELBO(kl="sampled"), pair.programs()),
        (pyro.infer.Trace_ELBO(max_plate_nesting=2), programs),
    ):
        torch.manual_seed(1)
        losses.append(float(objective.loss(*run, **data())))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    if kl == "auto":  # the mean over many draws of the same bound; 5 standard errors
        means = [
            torch.tensor([float(ELBO(kl=how).loss(*pair.programs(), **data())) for _ in range(300)])
            for how in ("sampled", kl)
        ]
        error = (sum(m.var() for m in means) / 300) ** 0.5
        assert abs(means[0].mean() - means[1].mean()) < 5 * error
        assert means[1].var() < means[0].var()


@pytest.mark.parametrize("particles", [None, 1, 5])
def test_log_weights_are_those_of_event_dimensions(kind, particles):
    random = torch.Generator().manual_seed(2)
    values = {name: torch.randn(5, N, size, generator=random).double() for name, size in (("z", L), ("w", T))}
    weights = []
    for each in (made(Events), made(kind)):
        fixed = poutine.Trace()
        for name, value in values.items():
            value = value[0] if particles is None else value[:particles]
            fixed.add_node(name, type="sample", name=name, is_observed=False, value=value, infer={})
        model, guide = each.programs()
        run = trace_pair(model, poutine.replay(guide, trace=fixed), (), data(), particles)
        weights.append(run.log_weights())
    assert weights[0].shape == ((N,) if particles is None else (particles, N))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "objective", [lambda: ELBO(3), lambda: IWELBO(3), lambda: ELBO(3, kl="sampled", gradient="stl")]
)
def test_all_objectives_run(kind, objective):
    loss = ppl_vae.fit(
        made(kind), data(), epochs=2, batch_size=4, dtype="float64", objective=objective(), progress=False
    )
    assert loss.history["train_bound"][0] > -100


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "graph"])
def test_a_fit_is_that_of_event_dimensions(kind, compile):
    """The same but for the order of its draws: within 5 % of one another."""
    bounds = [
        ppl_vae.fit(made(each), data(), epochs=40, dtype="float64", compile=compile, progress=False).history[
            "train_bound"
        ]
        for each in (Events, kind)
    ]
    assert sum(bounds[1]) == pytest.approx(sum(bounds[0]), rel=0.05)


@pytest.mark.slow
def test_likelihoods_are_those_of_event_dimensions(kind):
    found = [ppl_vae.log_likelihood(made(each), data(), num_particles=400, progress=False) for each in (Events, kind)]
    error = (found[0].variances + found[1].variances).sqrt()
    assert ((found[0].values - found[1].values).abs() < 5 * error + 1e-6).all()


def test_what_is_drawn_has_the_data_first(kind):
    pair = made(kind)
    draws = pair.posterior(data(), 3)
    assert draws["z"].shape == (3, N, L)
    assert draws["w"].shape == (3, N, T)


class Switching(nn.Module):
    """A label of each datum, summed out, and steps that depend on it."""

    def __init__(self, inside=False):
        super().__init__()
        self.inside, self.loc = inside, nn.Parameter(torch.tensor([-1.0, 1.0]).double())

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            k = None
            if not self.inside:
                k = pyro.sample("k", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"})
            with pyro.plate("steps", T, dim=-2):
                if self.inside:
                    k = pyro.sample("k", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"})
                pyro.sample("x", dist.Normal(self.loc[k], 1.0), obs=x.T)

    def guide(self, x):
        pass


@pytest.mark.parametrize("particles", [1, 3])
def test_a_label_of_a_datum_is_summed_out_beside_inner_plates(particles):
    program, x = Switching(), data()["x"]
    pair = Pair(program.model, program.guide)
    pair.check({"x": x})
    loss = ELBO(particles).loss(*pair.programs(), x=x)
    each = dist.Normal(program.loc, 1.0).log_prob(x[..., None]).sum(1)
    torch.testing.assert_close(loss, -(each.logsumexp(-1) - torch.tensor(2.0).log()).sum().detach())


def test_a_label_inside_an_inner_plate_is_refused():
    program = Switching(inside=True)
    with pytest.raises(
        PairError, match=r"site 'k': expected a latent to be enumerated in no plate but that of the data"
    ):
        Pair(program.model, program.guide).check({"x": data()["x"]})
