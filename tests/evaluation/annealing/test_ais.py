"""Annealed importance sampling against closed forms, quadrature and SciPy, and what it refuses."""

from __future__ import annotations

import dataclasses
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from annealed_pairs import ManyLinear, ManyPoor, Rates, RatesGuide, linear_pair, many_linear
from own_pairs import BottomUp, Mixture, Shared, SharedGuide, Switch, SwitchGuide, TopDown, TwoLayers, batch, pair
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from scipy import integrate, stats

from ppl_vae import InputError, Pair, PairError
from ppl_vae.core.process import evaluating, isolated
from ppl_vae.evaluation.annealing import ais as module
from ppl_vae.evaluation.annealing.ais import AnnealedOptions, annealed
from ppl_vae.evaluation.annealing.transitions import SCHEDULES, schedule
from ppl_vae.evaluation.annealing.unconstrained import Unconstrained
from ppl_vae.evaluation.marginal_likelihood import log_likelihood

F64 = torch.float64
SE = 4.5
SHORT = {"num_distributions": 8, "leapfrog_steps": 4, "rungs": 30}


def run(mine, data, num_particles, seed=0, compile="off", memory=2**28, **options):
    """`annealed` as its caller runs it."""
    with isolated(seed), evaluating(mine):
        mine.check(data)
        arguments = mine.arguments(data)
        return annealed(mine, arguments, num_particles, SHORT | options, memory=memory, compile=compile, show=False)


def z_scores(result, exact_values):
    return (result["values"] - exact_values.detach().to(F64)) / result["lower_variances"].sqrt()


# -- linear Gaussian models -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_z_scores_over_two_hundred_random_models(start):
    data, log_p = many_linear(200, 2)
    result = run(Pair(ManyLinear(), ManyPoor()), data, 60, start=start, num_distributions=12, rungs=10)
    means = (result["values"] - log_p).reshape(200, 2).mean(1)
    # The logarithm's bias is -variance / 2 to first order (Nowozin 2018): a twentieth of an error bar here.
    z = means / (result["lower_variances"].reshape(200, 2).sum(1).sqrt() / 2)
    assert abs(float(z.mean())) < 0.2
    assert 0.8 < float(z.std()) < 1.2
    assert result["non_finite"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_weights_are_unbiased(name, start):
    """E[w] = p(x) with three distributions and one particle, on the weights themselves: no logarithm, no K."""
    data, log_p = many_linear(1, 4000, seed=1)
    result = run(Pair(ManyLinear(), ManyPoor()), data, 1, start=start, schedule=name, num_distributions=3, rungs=10)
    ratio = (result["values"] - log_p).exp()
    assert abs(ratio.mean() - 1) < SE * ratio.std() / len(ratio) ** 0.5
    assert ratio.std() / len(ratio) ** 0.5 < 0.05
    assert torch.isnan(result["variances"]).all()


@pytest.mark.slow
def test_an_exact_guide_gives_weights_that_are_all_alike():
    mine, data, _ = linear_pair()
    for K in (1, 20):
        result = run(mine, data, K, start="guide")
        torch.testing.assert_close(result["values"], mine.model.log_marginal(**data).detach(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(result["effective_sample_size"], torch.full((30,), float(K), dtype=F64))
    assert result["variances"].max() < 1e-12


@pytest.mark.slow
def test_one_distribution_is_importance_weighting():
    mine, data, (gain, offset, covariance) = linear_pair()
    mine.guide.set_posterior(gain, offset, 2 * covariance)
    ais = run(mine, data, 4000, start="guide", num_distributions=1)
    plain = log_likelihood(mine, data, num_particles=4000, seed=1)
    error = (ais["variances"] + plain.variances).sqrt()
    assert ((ais["values"] - plain.values).abs() < SE * error).all()
    assert ais["details"]["acceptance"] is None


@pytest.mark.slow
def test_more_distributions_close_the_gap():
    mine, data, _ = linear_pair(N=5, scale=0.2)
    log_p = mine.model.log_marginal(**data).detach()
    many = {"leapfrog_steps": 10, "rungs": 100, "compile": "graph"}
    gaps = [float((log_p - run(mine, data, 20, num_distributions=T, **many)["values"]).mean()) for T in (2, 20, 400)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 20
    assert abs(gaps[-1]) < 0.2


@pytest.mark.slow
def test_beats_importance_weighting_where_the_guide_is_poor():
    """As many passes through the model: a gradient counts as three."""
    mine, data, (gain, offset, covariance) = linear_pair(D=30, L=10, scale=0.3)
    mine.guide.set_posterior(gain, offset + 0.5, 0.01 * covariance)
    log_p = mine.model.log_marginal(**data).detach()
    T, L, K = 60, 4, 10
    ais = run(mine, data, K, start="prior", num_distributions=T, leapfrog_steps=L, rungs=30)
    plain = log_likelihood(mine, data, num_particles=3 * K * (T + 70) * (L + 1))
    assert (log_p - plain.values).mean() > (log_p - ais["values"]).mean() + 5


# -- other models -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("guide", "start", "T"), [(BottomUp, "prior", 40), (BottomUp, "guide", 400), (TopDown, "guide", 100)]
)
def test_two_layers(guide, start, T):
    """z2 -> z1 -> x, all linear: x ~ N(C (A 0 + a) + c, C (AA' + I) C' + I)."""
    torch.manual_seed(0)
    mine, data = Pair(TwoLayers(), guide()), batch(20)
    A, a = mine.model.up.weight, mine.model.up.bias
    C, c = mine.model.out.weight, mine.model.out.bias
    covariance = C @ (A @ A.T + torch.eye(2)) @ C.T + torch.eye(5)
    log_p = torch.distributions.MultivariateNormal(C @ a + c, covariance).log_prob(data["x"])
    z = z_scores(run(mine, data, 50, start=start, num_distributions=T, compile="graph"), log_p)
    assert (z.abs() < SE).all()
    assert 0.5 < float(z.std()) < 1.6
    assert abs(float(z.mean())) < SE / 20**0.5


@pytest.mark.slow
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_positive_latents(start):
    x = torch.tensor([[-0.5], [0.4], [1.5], [4.0]])

    def joint(s, r, x):
        gamma = 2**3 / math.gamma(3) * r**2 * math.exp(-2 * r)
        log_normal = math.exp(-0.5 * (math.log(s) / 0.5) ** 2) / (s * 0.5)
        return gamma * log_normal * math.exp(-0.5 * ((x - r) / s) ** 2) / s / (2 * math.pi)

    log_p = [math.log(integrate.dblquad(joint, 0, 15, 1e-3, 12, args=(value,))[0]) for value in x[:, 0].tolist()]
    result = run(Pair(Rates(), RatesGuide()), {"x": x}, 1000, start=start)
    assert (z_scores(result, torch.tensor(log_p)).abs() < SE).all()
    assert (result["lower_variances"] < 0.05).all()


class Nested(PyroModule):
    """t ~ Uniform(0, 2), u ~ Uniform(0, t), x ~ N(u, 0.3^2): a support that hangs on another latent."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            t = pyro.sample("t", dist.Uniform(torch.tensor(0.0), 2.0))
            u = pyro.sample("u", dist.Uniform(torch.zeros_like(t), t))
            return pyro.sample("x", dist.Normal(u.unsqueeze(-1), 0.3).to_event(1), obs=x)


class NestedGuide(PyroModule):
    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            t = pyro.sample("t", dist.Uniform(torch.tensor(0.0), 2.0))
            pyro.sample("u", dist.Uniform(torch.zeros_like(t), t))


@pytest.mark.slow
def test_a_support_that_hangs_on_another_latent():
    """p(u) = log(2 / u) / 2 on (0, 2), so that one integral is left."""
    x = torch.tensor([[-0.3], [0.5], [1.9]])
    result = run(Pair(Nested(), NestedGuide()), {"x": x}, 4000)
    log_p = [
        math.log(integrate.quad(lambda u, x=x: 0.5 * math.log(2 / u) * stats.norm.pdf(x, u, 0.3), 0, 2)[0])
        for x in x[:, 0].tolist()
    ]
    assert (z_scores(result, torch.tensor(log_p)).abs() < SE).all()


class Topics(PyroModule):
    """p ~ Dirichlet(a), x ~ Multinomial(9, p): a simplex, which has one coordinate fewer than entries."""

    concentration = torch.tensor([0.8, 1.5, 3.0])

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            p = pyro.sample("p", dist.Dirichlet(self.concentration))
            return pyro.sample("x", dist.Multinomial(9, p), obs=x)


class TopicsGuide(PyroModule):
    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("p", dist.Dirichlet(0.5 * x + 1))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_a_simplex(start):
    x = torch.tensor([[0.0, 0.0, 9.0], [3.0, 3.0, 3.0], [9.0, 0.0, 0.0], [1.0, 6.0, 2.0]])
    log_p = stats.dirichlet_multinomial.logpmf(x.numpy().astype(int), Topics.concentration.numpy(), 9)
    mine = Pair(Topics(), TopicsGuide())
    assert Unconstrained(mine, {"x": x}, start).size == 2
    result = run(mine, {"x": x}, 3000, start=start)
    assert (z_scores(result, torch.tensor(log_p)).abs() < SE).all()


# -- the path ---------------------------------------------------------------------------------------------------------


def test_densities_are_those_of_the_programs():
    mine, data = pair(), batch(7)
    arguments = mine.arguments(data)
    z = torch.randn(4, 7, 2)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    likelihood = torch.distributions.Normal(mine.model.net(z), 0.5).log_prob(data["x"]).sum(-1)
    log_q = torch.distributions.Normal(mine.guide.net(data["x"]), 0.7).log_prob(z).sum(-1)
    for start, first, weight in (("prior", prior, likelihood), ("guide", log_q, prior + likelihood - log_q)):
        found = Unconstrained(mine, arguments, start).log_densities(z, arguments)
        torch.testing.assert_close(found, (first, weight))


def test_latents_go_there_and_back():
    mine, x = Pair(Rates(), RatesGuide()), torch.rand(5, 1)
    target = Unconstrained(mine, {"x": x}, "prior")
    latents = {"s": torch.rand(5) + 0.1, "r": torch.rand(5, 1) + 0.1}
    u = target.flatten({"x": x}, latents)
    torch.testing.assert_close(u, torch.stack([latents["r"][:, 0], latents["s"]], -1).log()[None])
    start, weight = target.log_densities(u, {"x": x})
    prior = dist.Gamma(3.0, 2.0).log_prob(latents["r"][:, 0]) + dist.LogNormal(0.0, 0.5).log_prob(latents["s"])
    torch.testing.assert_close(start, (prior + u.sum(-1)[0])[None])  # log |dz/du| = u for z = exp(u)
    torch.testing.assert_close(weight, dist.Normal(latents["r"][:, 0], latents["s"]).log_prob(x[:, 0])[None])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize(
    ("model", "guide", "x", "log_p"),
    [
        (Rates, RatesGuide, [1.5], None),
        (Nested, NestedGuide, [0.5], None),
        (Topics, TopicsGuide, [3.0, 1.0, 5.0], stats.dirichlet_multinomial.logpmf([3, 1, 5], [0.8, 1.5, 3.0], 9)),
    ],
)
def test_densities_over_the_real_line_have_their_integrals(model, guide, x, log_p, start):
    """Of f_0 over u it is 1, and of f_0 w it is p(x), on a grid of the plane; w has no Jacobian, f_0 has the whole."""
    data = {"x": torch.tensor([x], dtype=torch.float64)}
    mine = Pair(model(), guide())
    axis = torch.linspace(-22, 22, 881, dtype=torch.float64)
    u = torch.cartesian_prod(axis, axis)[:, None]  # (K, 1, 2)
    with isolated():
        start_density, weight = Unconstrained(mine, data, start).log_densities(u, data)
        other = Unconstrained(mine, data, "guide" if start == "prior" else "prior").log_densities(u, data)
    cell = 2 * math.log(float(axis[1] - axis[0]))
    assert float(start_density.logsumexp(0)) + cell == pytest.approx(0, abs=1e-4)
    if log_p is not None:
        assert float((start_density + weight).logsumexp(0)) + cell == pytest.approx(log_p, abs=1e-4)
    there = (start_density + weight > -60)[:, 0]  # where the target has mass, it is one, whatever the start
    torch.testing.assert_close((start_density + weight)[there], sum(other)[there], rtol=1e-5, atol=1e-5)


def test_schedules_by_hand():
    def s(y):
        return 1 / (1 + math.exp(-y))

    low, high = s(-4), s(4)
    by_hand = {
        "linear": [0, 0.25, 0.5, 0.75, 1],
        "geometric": [0, 1e-4, 10 ** (-8 / 3), 10 ** (-4 / 3), 1],
        "sigmoid": [(s(4 * (t / 2 - 1)) - low) / (high - low) for t in range(5)],
    }
    assert set(by_hand) == set(SCHEDULES)
    for name, values in by_hand.items():
        torch.testing.assert_close(schedule(name, 4), torch.tensor(values, dtype=F64))
        assert schedule(name, 1).tolist() == [0, 1]
        assert (schedule(name, 1000).diff() > 0).all()


# -- how it runs ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_recorded_is_the_same_as_eager(start):
    mine, data = Pair(TwoLayers(), BottomUp()), batch(9)
    eager = run(mine, data, 6, start=start)
    graph = run(mine, data, 6, start=start, compile="graph")
    assert graph["details"]["path"] == "graph"
    assert graph["details"]["seconds_recording"] > 0
    torch.testing.assert_close(graph["values"], eager["values"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(graph["variances"], eager["variances"], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_one_recording_serves_every_chunk(monkeypatch):
    calls = []
    monkeypatch.setattr("ppl_vae.compile.recorded.record", lambda *a, **k: calls.append(a) or recorded(*a, **k))
    from ppl_vae.compile.graph import record as recorded

    mine, data, _ = linear_pair(N=3)
    log_p = mine.model.log_marginal(**data).detach()
    for memory in (1, 2**26):
        calls.clear()
        result = run(mine, data, 2, memory=memory, compile="graph", start="guide", rungs=4)
        assert len(calls) == 2  # one of the gradient, and one of what is known at both ends of a transition
        torch.testing.assert_close(result["values"], log_p, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_chunks_hold_every_datum_and_particle_once(monkeypatch):
    """With an exact guide a value identifies its datum, and the effective sample size the number of particles."""
    mine, data, _ = linear_pair(N=4)
    shapes, seen = set(), set()
    move = module.Annealer.move
    monkeypatch.setattr(
        module.Annealer,
        "move",
        lambda self, u, *rest, **how: (shapes.add(tuple(u.shape)), move(self, u, *rest, **how))[1],
    )
    log_p = mine.model.log_marginal(**data).detach()
    for memory in (1, 8000, 2**26):
        shapes.clear()
        result = run(mine, data, 3, memory=memory, start="guide", rungs=4)
        torch.testing.assert_close(result["values"], log_p, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(result["effective_sample_size"], torch.full((4,), 3.0, dtype=F64))
        seen |= shapes
        assert len(shapes) == 1
    assert {(1, 1, 3), (3, 4, 3)} < seen


@pytest.mark.slow
def test_seed_settles_it_and_the_random_state_stays():
    mine, data = pair(), batch(5)
    state = torch.get_rng_state()
    first = run(mine, data, 3, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first["values"], run(mine, data, 3, seed=1)["values"])
    assert not torch.equal(first["values"], run(mine, data, 3, seed=2)["values"])


@pytest.mark.slow
def test_acceptance_is_told_and_near_its_target():
    mine, data, _ = linear_pair(D=30, L=10, N=5)
    for target in (0.5, 0.9):
        found = run(mine, data, 16, num_distributions=100, rungs=100, target_acceptance=target)["details"]
        accepted = found["acceptance"]
        assert abs(accepted["mean"] - target) < 0.1
        assert 0 < accepted["min"] <= accepted["mean"] <= accepted["max"] < 1
        assert found["adapted_step_size"]["min"] < found["adapted_step_size"]["max"]
        assert found["target_acceptance"] == target


def test_step_sizes_hang_on_other_chains_than_those_that_estimate():
    """The estimating pass gets step sizes as they are, whatever its own chains do."""
    mine, data, _ = linear_pair(N=4)
    arguments = mine.arguments(data)
    with isolated(0), evaluating(mine):
        annealer = module.Annealer(Unconstrained(mine, arguments, "prior"), AnnealedOptions(**SHORT), "eager")
        sizes = torch.rand(10, 4, dtype=F64)
        before = sizes.clone()
        seen = []
        move = annealer.move
        annealer.move = lambda u, step, *rest, **how: (seen.append(step.clone()), move(u, step, *rest, **how))[1]
        annealer.anneal(annealer.target.draw(arguments, 3), sizes, arguments, lambda *_, **__: None)
    assert torch.equal(sizes, before)
    # Rung r of ten stands at b((r + 1) / 10), distribution t of eight at b(t / 8): the nearest is taken.
    assert torch.equal(torch.stack(seen), before[[0, 1, 3, 4, 5, 7, 8]])


@pytest.mark.slow
def test_weights_that_are_not_finite_are_counted():
    class Bounded(PyroModule):
        def forward(self, x=None, size=None):
            with pyro.plate("data", size if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(torch.where(z > 0, z, torch.nan), 1.0).to_event(1), obs=x)

    mine = Pair(Bounded(), lambda x=None, size=None: None)
    arguments = {"x": torch.randn(6, 1)}
    with isolated(0), evaluating(mine):
        result = annealed(mine, arguments, 5, SHORT, compile="off", show=False)
    assert 0 < result["non_finite"] < 30
    assert torch.isnan(result["values"]).any()


# -- options and errors -----------------------------------------------------------------------------------------------


def test_options():
    assert AnnealedOptions.of(None) == AnnealedOptions()
    assert AnnealedOptions.of({"num_distributions": 5}).num_distributions == 5
    assert AnnealedOptions.of(AnnealedOptions(start="guide")).start == "guide"
    assert dataclasses.is_dataclass(AnnealedOptions)
    with pytest.raises(dataclasses.FrozenInstanceError):
        AnnealedOptions().start = "guide"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_distributions": 0}, r"num_distributions: expected an integer >= 1; got 0; try num_distributions=1000"),
        ({"leapfrog_steps": 1.5}, r"leapfrog_steps: expected an integer >= 1; got 1.5"),
        ({"rungs": -1}, r"rungs: expected an integer >= 1; got -1"),
        ({"step_size": 0}, r"step_size: expected a finite number > 0; got 0"),
        ({"target_acceptance": 1.0}, r"target_acceptance: expected a number below 1; got 1.0"),
        ({"schedule": "sigmoidal"}, r"unknown schedule: expected one of geometric, linear, sigmoid; got 'sigmoidal'"),
        ({"start": "posterior"}, r"unknown start: expected one of guide, prior; got 'posterior'"),
        ({"distributions": 5}, r"unknown annealing option: expected one of .*; got 'distributions'; try 'num_dist"),
        (7, r"annealing: expected AnnealedOptions or a mapping; got int; try"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        AnnealedOptions.of(options)


def test_refused_pairs():
    arguments = {"x": torch.randn(4, 1)}
    line = r"site 'k': expected continuous latents, .*; got a discrete one in .*; try method='importance'"
    for mine in (Pair(Switch(), SwitchGuide()), Pair(Mixture(), lambda x=None, size=None: None)):
        for start in ("prior", "guide"):
            with pytest.raises(InputError, match=line):
                Unconstrained(mine, arguments, start)
    with pytest.raises(PairError, match=r"site 'b': expected local latents; got one shared"):
        Unconstrained(Pair(Shared(), SharedGuide()), batch(4), "prior")

    def no_latents(x=None, size=None):
        with pyro.plate("data", 4, dim=-1):
            pyro.sample("x", dist.Normal(torch.zeros(1), 1.0).to_event(1), obs=x)

    with pytest.raises(InputError, match=r"pair: expected a model with latents to anneal; got one without; try"):
        Unconstrained(Pair(no_latents, lambda x=None, size=None: None), arguments, "prior")


def test_auxiliary_sites_are_refused_as_a_start_alone():
    model = pair().model
    guide = AutoNormal(model)
    data = batch(6)
    guide(**data)
    mine = Pair(model, guide)
    with pytest.raises(InputError, match=r"site 'z_unconstrained': .* got an auxiliary site.*; try start='prior'"):
        Unconstrained(mine, data, "guide")
    assert Unconstrained(mine, data, "prior").size == 2


@pytest.mark.slow
def test_as_a_method_of_log_likelihood():
    mine, data, _ = linear_pair()
    ais = log_likelihood(mine, data, method="ais", num_particles=50, annealing=SHORT | {"start": "guide"})
    assert ais.method == "ais"
    assert ais.num_particles == 50
    torch.testing.assert_close(ais.values, mine.model.log_marginal(**data).detach(), rtol=1e-9, atol=1e-9)
