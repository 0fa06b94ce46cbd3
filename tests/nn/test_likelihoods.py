"""Likelihoods against SciPy and themselves: masses that sum to one, frequencies, gradients at extremes, errors."""

from __future__ import annotations

import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine

from ppl_vae import zoo
from ppl_vae.core.config import describe, rebuild
from ppl_vae.core.errors import InputError
from ppl_vae.data import Spec
from ppl_vae.models import CVAE, M2, VAE, CrossModal, Disentangled, Hierarchical
from ppl_vae.nn import likelihoods
from ppl_vae.nn.distributions.grey_levels import DiscretizedLogistic, Grid, GridCategorical

F64 = torch.float64
ALL = {
    "bernoulli": likelihoods.Bernoulli,
    "normal": likelihoods.Normal,
    "normal-learned": lambda: likelihoods.Normal("learned"),
    "normal-decoder": lambda: likelihoods.Normal("decoder"),
    "one-hot": likelihoods.OneHot,
    "categorical": lambda: likelihoods.Categorical(5),
    "discretized-logistic": lambda: likelihoods.DiscretizedLogistic(5),
    "poisson": likelihoods.Poisson,
    "negative-binomial": likelihoods.NegativeBinomial,
    "negative-binomial-decoder": lambda: likelihoods.NegativeBinomial("decoder"),
}
DISCRETE = {"bernoulli": 2, "categorical": 5, "discretized-logistic": 5}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def draw(likelihood, lead, x_shape, generator, dtype=torch.float32):
    return torch.randn(*lead, likelihood.parameters_per_dim, *x_shape, generator=generator, dtype=dtype)


def grid(levels, dtype=F64):
    return torch.arange(levels, dtype=dtype) / (levels - 1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("lead", [(), (3,), (4, 3)])
@pytest.mark.parametrize("x_shape", [(7,), (2, 3), (1, 4, 2)])
def test_shapes(name, lead, x_shape, generator):
    likelihood = ALL[name]()
    p = likelihood(draw(likelihood, lead, x_shape, generator), len(x_shape))
    assert (p.batch_shape, p.event_shape) == (lead, x_shape)
    x = p.sample()
    assert x.shape == p.mean.shape == (*lead, *x_shape)
    assert p.log_prob(x).shape == lead
    assert p.support.check(x).all()


@pytest.mark.parametrize("name", ALL)
def test_stacked_call_equals_a_loop(name, generator):
    likelihood = ALL[name]()
    parameters = draw(likelihood, (4, 3), (6,), generator)
    x = likelihood(parameters[0]).sample()  # (B, D), scored under K sets of parameters
    stacked = likelihood(parameters).log_prob(x)
    loop = torch.stack([likelihood(row).log_prob(x) for row in parameters])
    torch.testing.assert_close(stacked, loop)


@pytest.mark.parametrize("name", ALL)
def test_expanded_under_a_particle_plate(name, generator):
    likelihood = ALL[name]()
    parameters = draw(likelihood, (3,), (6,), generator)
    x = likelihood(parameters).sample()

    def program(obs):
        with pyro.plate("particles", 4, dim=-2), pyro.plate("data", 3, dim=-1):
            pyro.sample("x", likelihood(parameters), obs=obs)

    trace = poutine.trace(program).get_trace(x)
    trace.compute_log_prob()
    expected = likelihood(parameters).log_prob(x).expand(4, 3)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)
    free = poutine.trace(program).get_trace(None).nodes["x"]
    assert free["value"].shape == (4, 3, 6)
    assert not torch.equal(free["value"][0], free["value"][1])  # independent draws, not copies


@pytest.mark.parametrize(("name", "levels"), DISCRETE.items())
def test_masses_sum_to_one_and_give_the_mean(name, levels, generator):
    likelihood = ALL[name]()
    p = likelihood(3 * draw(likelihood, (4,), (6,), generator, F64)).base_dist
    values = grid(levels)
    masses = p.log_prob(values.reshape(-1, 1, 1)).exp()
    torch.testing.assert_close(masses.sum(0), torch.ones(4, 6, dtype=F64))
    torch.testing.assert_close((masses * values.reshape(-1, 1, 1)).sum(0), p.mean)


@pytest.mark.parametrize(("name", "levels"), DISCRETE.items())
def test_frequencies_of_draws(name, levels, generator):
    likelihood = ALL[name]()
    p = likelihood(draw(likelihood, (), (3,), generator, F64) * 0.5 - 0.5).base_dist
    values = grid(levels)
    masses = p.log_prob(values.reshape(-1, 1)).exp()
    count = 20_000
    draws = p.sample((count,))
    nearest = (draws.unsqueeze(1) - values.reshape(-1, 1)).abs() < 1e-9
    assert torch.equal(nearest.sum(1), torch.ones(count, 3, dtype=torch.long))
    standard_error = (masses * (1 - masses) / count).sqrt()
    assert ((nearest.to(F64).mean(0) - masses).abs() < 4.5 * standard_error + 1e-12).all()


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretized_logistic_against_scipy(levels, generator):
    loc = torch.randn(50, generator=generator, dtype=F64)
    scale = torch.rand(50, generator=generator, dtype=F64) * 0.3 + 0.02
    k = torch.randint(levels, (50,), generator=generator)
    k[:2] = torch.tensor([0, levels - 1])
    ours = DiscretizedLogistic(loc, scale.log(), levels).log_prob(k.to(F64) / (levels - 1)).exp().numpy()
    cdf = scipy.stats.logistic(loc.numpy(), scale.numpy()).cdf
    top = np.where(k == levels - 1, 1.0, cdf((k.numpy() + 0.5) / (levels - 1)))
    bottom = np.where(k == 0, 0.0, cdf((k.numpy() - 0.5) / (levels - 1)))
    np.testing.assert_allclose(ours, top - bottom, rtol=1e-9, atol=1e-14)


def test_discretized_logistic_far_in_the_tail():
    # 1,000 scales off, P(x) = exp(-1000 + w/2s) - exp(-1000 - w/2s) to first order: no difference of cdfs can say so.
    w, s, x = 1 / 16, 0.01, 0.5
    ours = DiscretizedLogistic(torch.tensor(x - 1000 * s, dtype=F64), torch.tensor(s, dtype=F64).log(), 17)
    expected = -1000 + np.log(2 * np.sinh(w / (2 * s)))
    np.testing.assert_allclose(ours.log_prob(torch.tensor(x, dtype=F64)).item(), expected, rtol=1e-12)


@pytest.mark.parametrize("log_scale", [-1e4, -200.0, -60.0, -20.0, 0.0, 20.0, 60.0, 200.0, 1e4])
@pytest.mark.parametrize("loc", [-1e6, -1.0, 0.0, 0.5, 1.0, 1e6])
def test_discretized_logistic_is_finite_at_extremes(log_scale, loc):
    loc, log_scale = (torch.full((256,), value, requires_grad=True) for value in (loc, log_scale))
    log_prob = DiscretizedLogistic(loc, log_scale, 256).log_prob(grid(256, torch.float32))
    assert log_prob.isfinite().all()
    assert (log_prob <= 0).all()
    log_prob.sum().backward()
    assert loc.grad.isfinite().all()
    assert log_scale.grad.isfinite().all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [0.0, 30.0, 1e4])
def test_likelihoods_are_finite_at_extremes(name, size, generator):
    likelihood = ALL[name]()
    parameters = (size * draw(likelihood, (8,), (20,), generator).sign()).requires_grad_()
    binary = torch.randint(2, (8, 20), generator=generator).float()
    x = torch.eye(20)[:8] if name == "one-hot" else binary
    log_prob = likelihood(parameters).log_prob(x)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert parameters.grad.isfinite().all()


def test_scale_of_discretized_logistic_keeps_its_floor_and_its_gradient():
    likelihood = likelihoods.DiscretizedLogistic(17)
    raw = torch.tensor([-8.0, -1e4], requires_grad=True)
    log_scale = likelihood(torch.stack((torch.zeros(2), raw))).base_dist.log_scale
    assert log_scale[1].item() == pytest.approx(np.log(1 / 16 / 50))
    assert log_scale[0] > log_scale[1]
    log_scale[0].backward()
    assert raw.grad[0] > 0.1


@pytest.mark.parametrize("scale", [0.1, 0.7])
def test_normal_of_fixed_scale(scale, generator):
    h, x = torch.randn(2, 4, 6, generator=generator, dtype=F64)
    p = likelihoods.Normal(scale)(h.unsqueeze(-2))
    expected = scipy.stats.norm(h.numpy(), scale).logpdf(x.numpy()).sum(-1)
    np.testing.assert_allclose(p.log_prob(x).numpy(), expected, rtol=1e-12)


def test_normal_of_learned_scale(generator):
    likelihood = likelihoods.Normal("learned", initial_scale=0.5).double()
    h, x = torch.randn(2, 4, 6, generator=generator, dtype=F64)
    p = likelihood(h.unsqueeze(-2))
    expected = scipy.stats.norm(h.numpy(), 0.5).logpdf(x.numpy())
    np.testing.assert_allclose(p.log_prob(x).detach().numpy(), expected.sum(-1), rtol=1e-6)
    p.log_prob(x).sum().backward()  # d log N / d log s = ((x - h) / s)^2 - 1
    np.testing.assert_allclose(likelihood.log_scale.grad, (((x - h) / 0.5) ** 2 - 1).sum(), rtol=1e-6)


def test_normal_of_a_learned_scale_for_each_coordinate(generator):
    likelihood = likelihoods.Normal("learned", shape=(3, 2)).double()
    scale = torch.rand(3, 2, generator=generator, dtype=F64) + 0.5
    likelihood.log_scale.data = scale.log()
    h, x = torch.randn(2, 4, 3, 2, generator=generator, dtype=F64)
    p = likelihood.of_network(h.flatten(1), (3, 2))
    assert p.event_shape == (3, 2)
    expected = scipy.stats.norm(h.numpy(), scale.numpy()).logpdf(x.numpy()).sum((1, 2))
    np.testing.assert_allclose(p.log_prob(x).detach().numpy(), expected, rtol=1e-12)


def test_normal_of_decoder_scale(generator):
    likelihood = likelihoods.Normal("decoder", minimum_scale=0.05)
    h, raw, x = torch.randn(3, 4, 6, generator=generator, dtype=F64)
    p = likelihood(torch.stack((h, raw), -2))
    scale = np.log1p(np.exp(raw.numpy())) + 0.05
    expected = scipy.stats.norm(h.numpy(), scale).logpdf(x.numpy()).sum(-1)
    np.testing.assert_allclose(p.log_prob(x).numpy(), expected, rtol=1e-9)


def test_bernoulli_and_categorical_against_scipy(generator):
    h = torch.randn(4, 1, 6, generator=generator, dtype=F64)
    x = torch.randint(2, (4, 6), generator=generator).to(F64)
    expected = scipy.stats.bernoulli(scipy.special.expit(h.squeeze(-2).numpy())).logpmf(x.numpy()).sum(-1)
    np.testing.assert_allclose(likelihoods.Bernoulli()(h).log_prob(x).numpy(), expected, rtol=1e-9)

    h = torch.randn(4, 5, 6, generator=generator, dtype=F64)
    k = torch.randint(5, (4, 6), generator=generator)
    table = scipy.special.log_softmax(h.numpy(), axis=1)
    expected = np.take_along_axis(table, k.numpy()[:, None], axis=1).sum((1, 2))
    np.testing.assert_allclose(likelihoods.Categorical(5)(h).log_prob(k.to(F64) / 4).numpy(), expected, rtol=1e-9)


def test_one_hot_against_scipy(generator):
    h = 2 * torch.randn(4, 3, 1, 2, 5, generator=generator, dtype=F64)
    k = torch.randint(5, (4, 3, 2), generator=generator)
    x = torch.eye(5, dtype=F64)[k]
    p = likelihoods.OneHot()(h, 2)
    table = scipy.special.log_softmax(h.squeeze(2).numpy(), axis=-1)
    expected = np.take_along_axis(table, k.numpy()[..., None], axis=-1).sum((-1, -2))
    np.testing.assert_allclose(p.log_prob(x).numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(p.mean.numpy(), np.exp(table), rtol=1e-9)
    count = 20_000
    draws = p.sample((count,))
    assert p.support.check(draws).all()
    assert not p.support.check(torch.full((2, 5), 0.2, dtype=F64)).any()
    standard_error = (p.mean * (1 - p.mean) / count).sqrt()
    assert ((draws.mean(0) - p.mean).abs() < 4.5 * standard_error).all()


@pytest.mark.parametrize("rounding", [-1e-6, 0.0, 1e-6])
def test_every_level_of_256_is_its_own_in_float32(rounding):
    x = torch.arange(256) / 255 + rounding  # as a picture of bytes arrives
    assert Grid(256).check(x).all()
    logits = torch.arange(256.0).repeat(256, 1)
    log_prob = GridCategorical(logits).log_prob(x)
    torch.testing.assert_close(log_prob - log_prob[0], torch.arange(256.0))


def test_support_of_grid():
    inside = Grid(5).check(torch.tensor([0.0, 0.25, 1.0, 0.5 + 1e-5, 0.3, -0.25, 1.25, float("nan")]))
    assert inside.tolist() == [True, True, True, True, False, False, False, False]
    assert repr(Grid(5)) == "5 levels 0, 1/4, ..., 1"


@pytest.mark.parametrize(("name", "levels"), DISCRETE.items())
def test_value_outside_the_support_is_refused_under_validation(name, levels, generator):
    likelihood = ALL[name]()
    with pyro.validation_enabled(True):
        p = likelihood(draw(likelihood, (3,), (6,), generator))
        p.log_prob(torch.ones(3, 6))
        p.expand((4, 3)).log_prob(torch.ones(3, 6))
        for q in (p, p.expand((4, 3))):
            with pytest.raises(ValueError, match="support"):
                q.log_prob(torch.full((3, 6), 0.6))


def test_expand_copies_nothing(generator):
    categorical = GridCategorical(torch.randn(3, 5, generator=generator))
    logistic = DiscretizedLogistic(torch.zeros(3), torch.zeros(()), 5)
    for p, tensor in ((categorical, "logits"), (logistic, "loc")):
        wide = p.expand((1000, 3))
        assert wide.batch_shape == wide.mean.shape == (1000, 3)
        assert type(wide) is type(p)
        assert getattr(wide, tensor).untyped_storage().data_ptr() == getattr(p, tensor).untyped_storage().data_ptr()
    assert not categorical.has_rsample
    assert not logistic.has_rsample


@pytest.mark.parametrize("name", ALL)
def test_rebuilt_from_its_description(name, generator):
    likelihood = ALL[name]()
    twin = rebuild(describe(likelihood))
    twin.load_state_dict(likelihood.state_dict())
    parameters = draw(likelihood, (3,), (6,), generator)
    x = likelihood(parameters).sample()
    assert torch.equal(twin(parameters).log_prob(x), likelihood(parameters).log_prob(x))


@pytest.mark.parametrize("name", likelihoods.NAMES)
def test_by_name(name):
    assert describe(likelihoods.get(name, levels=5))["class"] == describe(ALL[name]())["class"]
    assert likelihoods.get(name, levels=5).parameters_per_dim == ALL[name]().parameters_per_dim
    assert set(likelihoods.NAMES) == set(ALL)


def test_of_ones_own(generator):
    class Laplace(likelihoods.Likelihood):
        def distribution(self, parameters):
            return dist.Laplace(parameters.squeeze(-1), 1.0)

    h, x = torch.randn(2, 4, 6, generator=generator, dtype=F64)
    expected = scipy.stats.laplace(h.numpy()).logpdf(x.numpy()).sum(-1)
    np.testing.assert_allclose(Laplace()(h.unsqueeze(-2)).log_prob(x).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: likelihoods.get("bernouli"), "unknown likelihood: expected one of bernoulli, "),
        (lambda: likelihoods.get("bernouli"), "got 'bernouli'; try 'bernoulli'"),
        (
            lambda: likelihoods.get("categorical"),
            "likelihood 'categorical': expected data with grey levels; got no number",
        ),
        (
            lambda: likelihoods.of(dist.Poisson),
            "likelihood: expected a Likelihood, or the name of one; got the class Po",
        ),
        (lambda: likelihoods.of(dist.Poisson), "got the class Poisson; try 'poisson'"),
        (lambda: VAE(4, 2, likelihood=dist.Poisson), "got the class Poisson; try 'poisson'"),
        (lambda: VAE(4, 2, likelihood=torch.distributions.NegativeBinomial), "; try 'negative-binomial'"),
        (lambda: VAE(4, 2, likelihood=None), "got None; try 'bernoulli', or another of likelihoods.NAMES"),
        (lambda: VAE(4, 2, likelihood="poison"), "unknown likelihood: expected one of bernoulli, "),
        (lambda: VAE(4, 2, likelihood=dist.Normal(0.0, 1.0)), "got Normal(loc: 0.0, scale: 1.0); try 'normal-learned'"),
        (lambda: VAE(4, 2, likelihood=torch.nn.Linear(2, 2)), "got Linear(in_features=2"),
        (lambda: CVAE(4, 2, num_classes=3, likelihood=likelihoods.Poisson), "an instance, likelihoods.Poisson()"),
        (lambda: M2(4, 2, 3, likelihood=dist.Bernoulli), "got the class Bernoulli; try 'bernoulli'"),
        (lambda: Hierarchical(4, (2,), likelihood=3), "likelihood: expected a Likelihood, or the name of one; got 3"),
        (lambda: CrossModal({"x": 4}, 2, likelihood=dist.Poisson), "likelihood of x: expected a Likelihood, or the"),
        (lambda: Disentangled(4, {"w": 1}, {"w": 1, "rest": 1}, likelihood=None), "likelihood of x: expected a Likeli"),
        (lambda: zoo.build("vae", Spec("a", (4,)), likelihood=dist.Poisson), "got the class Poisson; try 'poisson'"),
        (lambda: zoo.build("vae", Spec("a", (4,)), likelihood=""), "unknown likelihood: expected one of bernoulli, "),
        (
            lambda: likelihoods.NegativeBinomial("learnt"),
            "unknown dispersion of NegativeBinomial: expected one of decoder, learned; got 'learnt'",
        ),
        (lambda: likelihoods.NegativeBinomial(0), "dispersion: expected a finite number > 0; got 0"),
        (
            lambda: likelihoods.NegativeBinomial(initial_dispersion=-1.0),
            "initial_dispersion: expected a finite number > 0; got -1.0",
        ),
        (lambda: likelihoods.Normal(0), "scale: expected a finite number > 0; got 0"),
        (lambda: likelihoods.Normal(float("nan")), "scale: expected a finite number > 0; got nan"),
        (lambda: likelihoods.Normal(-1.0), "scale: expected a finite number > 0; got -1.0"),
        (
            lambda: likelihoods.Normal("learnt"),
            "unknown scale of Normal: expected one of decoder, learned; got 'learnt'",
        ),
        (
            lambda: likelihoods.Normal("learned", initial_scale=0.0),
            "initial_scale: expected a finite number > 0; got 0.0",
        ),
        (lambda: likelihoods.Normal("decoder", minimum_scale=0), "minimum_scale: expected a finite number > 0; got 0"),
        (lambda: likelihoods.Categorical(1), "levels: expected an integer >= 2; got 1"),
        (lambda: likelihoods.DiscretizedLogistic(1), "levels: expected an integer >= 2; got 1"),
        (lambda: GridCategorical(torch.zeros(3, 1)), "levels: expected an integer >= 2; got 1"),
        (
            lambda: likelihoods.Normal("decoder")(torch.zeros(3, 1, 6)),
            "parameters of Normal: expected size 2 at dimension -2; got (3, 1, 6)",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build()
