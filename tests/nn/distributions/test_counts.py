"""Likelihoods of counts against SciPy: masses, moments, far ends, the Poisson at the end of the negative binomial."""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import scipy.integrate
import scipy.stats
import torch

import ppl_vae
from ppl_vae import zoo
from ppl_vae.core.errors import InputError
from ppl_vae.guides import CountNormal
from ppl_vae.models import CountVAE
from ppl_vae.nn import likelihoods
from ppl_vae.nn.distributions.counts import LEAST_DISPERSION, MOST, Counts, LogNegativeBinomial, LogPoisson

F64 = torch.float64
X = torch.tensor([0.0, 1.0, 2.0, 7.0, 40.0, 1_000.0, 100_000.0])
MEANS = torch.tensor([0.01, 1.0, 12.0, 900.0, 1e5], dtype=F64)
A = torch.tensor([1e-5, 0.1, 1.0, 30.0], dtype=F64)


def binomial(m, a):
    """Return SciPy's negative binomial of mean m and variance m + a m^2."""
    return scipy.stats.nbinom(1 / a, 1 / (1 + a * m))


def test_poisson_against_scipy():
    ours = LogPoisson(MEANS.log()[:, None]).log_prob(X)
    expected = scipy.stats.poisson(MEANS[:, None].numpy()).logpmf(X.numpy())
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    assert ours.dtype is F64


def test_negative_binomial_against_scipy():
    distribution = LogNegativeBinomial(MEANS.log()[:, None, None], A.log()[:, None])
    expected = binomial(MEANS[:, None, None].numpy(), A[:, None].numpy())
    np.testing.assert_allclose(distribution.log_prob(X), expected.logpmf(X.numpy()), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(distribution.mean.squeeze(-1), expected.mean().squeeze(-1), rtol=1e-7)
    np.testing.assert_allclose(distribution.variance.squeeze(-1), expected.var().squeeze(-1), rtol=1e-7)


def test_of_a_network():
    generator = torch.Generator().manual_seed(0)
    h, raw = torch.randn(2, 4, 6, generator=generator, dtype=F64)
    x = torch.poisson(torch.full((4, 6), 3.0, dtype=F64), generator=generator)
    poisson = scipy.stats.poisson(h.exp().numpy()).logpmf(x.numpy()).sum(-1)
    np.testing.assert_allclose(likelihoods.Poisson().of_network(h, (6,)).log_prob(x), poisson, rtol=1e-9)
    a = np.logaddexp(0, raw.numpy() - LEAST_DISPERSION) + LEAST_DISPERSION
    decoded = binomial(h.exp().numpy(), np.exp(a)).logpmf(x.numpy()).sum(-1)
    ours = likelihoods.NegativeBinomial("decoder")(torch.stack((h, raw), -2)).log_prob(x)
    np.testing.assert_allclose(ours, decoded, rtol=1e-7)
    for distribution in (
        likelihoods.NegativeBinomial(0.7),
        likelihoods.NegativeBinomial(initial_dispersion=0.7),
        likelihoods.NegativeBinomial(initial_dispersion=0.7, shape=(6,)),
    ):
        ours = distribution.double()(h.unsqueeze(-2)).log_prob(x).detach()
        np.testing.assert_allclose(ours, binomial(h.exp().numpy(), 0.7).logpmf(x.numpy()).sum(-1), rtol=1e-6)


@pytest.mark.slow
def test_negative_binomial_is_a_poisson_of_a_gamma_rate():
    """p(x) = integral of Poisson(x; rate) Gamma(rate; shape 1/a, mean m), by quadrature."""
    m, a = 4.0, 0.6
    distribution = LogNegativeBinomial(torch.tensor(m, dtype=F64).log(), torch.tensor(a, dtype=F64).log())
    for x in (0, 3, 11):
        rate = scipy.stats.gamma(1 / a, scale=a * m)
        mass, error = scipy.integrate.quad(
            lambda r, x=x, rate=rate: scipy.stats.poisson(r).pmf(x) * rate.pdf(r), 0, np.inf
        )
        assert distribution.log_prob(torch.tensor(float(x))).exp().item() == pytest.approx(
            mass, abs=max(10 * error, 1e-9)
        )


def test_float32_loses_nothing_near_the_poisson_and_at_large_counts():
    """A difference of log Gammas in float32 would be off by 0.06 nats at counts of 1e5, and by 0.5 at a = 1e-6."""
    counts = torch.tensor([3.0, 100_000.0])
    h = counts.log()
    poisson = scipy.stats.poisson(h.exp().double().numpy()).logpmf(counts.numpy())
    np.testing.assert_allclose(LogPoisson(h).log_prob(counts), poisson, rtol=1e-6, atol=1e-3)
    distribution = LogNegativeBinomial(h, torch.tensor(-40.0))  # held at its floor
    a = np.exp(LEAST_DISPERSION)
    np.testing.assert_allclose(
        distribution.log_prob(counts), binomial(h.exp().double().numpy(), a).logpmf(counts), atol=2e-3
    )
    assert distribution.log_prob(counts)[0].item() == pytest.approx(poisson[0], abs=1e-4)


@pytest.mark.parametrize(
    "distribution",
    [LogPoisson, lambda h: LogNegativeBinomial(h, torch.zeros_like(h)), lambda h: LogNegativeBinomial(h, -h)],
)
def test_gradients_are_finite_and_point_home(distribution):
    h = torch.tensor([-1e4, -200.0, -5.0, 5.0, MOST - 1, 200.0], requires_grad=True)
    log_prob = distribution(h).log_prob(torch.full((6,), 3.0))
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert h.grad.isfinite().all()
    assert (h.grad[:3] > 0).all()  # a mean that is too small rises, however small it is


@pytest.mark.parametrize(
    "distribution",
    [
        LogPoisson(torch.tensor([-2.0, 0.5, 2.0])),
        LogNegativeBinomial(torch.tensor([-2.0, 0.5, 2.0]), torch.tensor([0.5, -1.0, 0.3])),
    ],
)
def test_draws_have_the_masses(distribution):
    torch.manual_seed(0)
    n, values = 20_000, torch.arange(400.0)
    masses = distribution.log_prob(values[:, None]).exp()
    torch.testing.assert_close(masses.sum(0), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close((masses * values[:, None]).sum(0), distribution.mean, rtol=1e-4, atol=0)
    draws = distribution.sample((n,))
    assert Counts().check(draws).all()
    frequencies = torch.stack([(draws == value).float().mean(0) for value in values[:30]])
    error = (masses[:30] * (1 - masses[:30]) / n).sqrt()
    assert ((frequencies - masses[:30]).abs() < 4.5 * error + 1.0 / n).all()
    assert ((draws.mean(0) - distribution.mean).abs() < 4.5 * (distribution.variance / n).sqrt()).all()


def test_support():
    x = torch.tensor([0.0, 3.0, 2.5, -1.0, float("nan"), float("inf")])
    assert Counts().check(x).tolist() == [True, True, False, False, False, False]
    assert repr(Counts()) == "whole numbers 0, 1, 2, ..."
    with pyro.validation_enabled(True):
        for distribution in (LogPoisson(torch.zeros(3)), LogNegativeBinomial(torch.zeros(3), torch.zeros(()))):
            for wide in (distribution, distribution.expand((4, 3))):
                wide.log_prob(torch.ones(3))
                with pytest.raises(ValueError, match="support"):
                    wide.log_prob(torch.full((3,), 0.5))


def test_expand_copies_nothing():
    distribution = LogNegativeBinomial(torch.zeros(3), torch.zeros(()))
    for one, names in ((LogPoisson(torch.zeros(3)), ["log_mean"]), (distribution, ["log_mean", "log_dispersion"])):
        wide = one.expand((1000, 3))
        assert wide.batch_shape == wide.mean.shape == wide.variance.shape == (1000, 3)
        for name in names:
            storage = getattr(wide, name).untyped_storage()
            assert storage.data_ptr() == getattr(one, name).untyped_storage().data_ptr()
        assert not one.has_rsample


# --- over an exposure -------------------------------------------------------------------------------------------------


def test_exposure_multiplies_the_mean():
    torch.manual_seed(0)
    model = CountVAE((3, 2), 2, hidden=(4,), likelihood="poisson")
    z, e = torch.randn(7, 5, 2), torch.tensor([0.1, 1.0, 3.0, 10.0, 1e3])
    rate = model.decode.network(z).exp().unflatten(-1, (3, 2))
    torch.testing.assert_close(model.decode(z, e).mean, rate * e[:, None, None])
    wide = CountVAE((3, 2), 2, hidden=(4,), likelihood="negative-binomial-decoder")
    one, many = (wide.decode(z, e * factor).base_dist for factor in (1.0, 7.0))
    torch.testing.assert_close(many.mean, 7 * one.mean)
    torch.testing.assert_close(many.log_dispersion, one.log_dispersion)


def test_gamma_rates_over_an_exposure_are_negative_binomial():
    """z -> rate by a decoder of no slope: p(x|e) is then the likelihood at e times the rate, whatever z."""
    model = CountVAE(1, 1, hidden=(), likelihood=likelihoods.NegativeBinomial(0.4)).double()
    model.decode.network.layers[0].weight.data.zero_()
    model.decode.network.layers[0].bias.data.fill_(np.log(2.5))
    x, e = torch.tensor([[3.0], [0.0], [9.0]], dtype=F64), torch.tensor([0.5, 1.0, 4.0], dtype=F64)
    pair = ppl_vae.Pair(model, CountNormal(1, 1, hidden=(4,)).double())
    found = ppl_vae.log_likelihood(pair, {"x": x, "exposure": e}, method="prior", num_particles=10)
    np.testing.assert_allclose(found.values, binomial(2.5 * e.numpy(), 0.4).logpmf(x[:, 0].numpy()), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (
            lambda pair, x, e: pair.check({"x": x}),
            "exposure: expected one number above 0 per datum; got none; try expo",
        ),
        (lambda pair, x, e: pair.generate(5), "exposure: expected one number above 0 per datum; got none; try expo"),
        (
            lambda pair, x, e: pair.check({"x": x, "exposure": e - 1}),
            "exposure: expected numbers above 0; got 0 in row 0; try leaving such rows out",
        ),
        (lambda pair, x, e: pair.check({"x": x, "exposure": e.long()}), "exposure: expected floating-point numbers"),
        (lambda pair, x, e: pair.model(x, e[:-1]), "exposure: expected 8 rows, as x has; got 7"),
        (lambda pair, x, e: pair.check({"x": x + 0.5, "exposure": e}), "support of its likelihood .whole numbers 0, 1"),
        (
            lambda pair, x, e: CountVAE(3, 2, likelihood="normal"),
            "likelihood: expected one of counts: poisson, .*Normal",
        ),
    ],
)
def test_what_is_wrong_with_an_exposure_is_one_line(call, line):
    pair = ppl_vae.Pair(CountVAE(3, 2, hidden=(4,)), CountNormal(3, 2, hidden=(4,)))
    with pytest.raises(InputError, match=line):
        call(pair, torch.ones(8, 3), torch.ones(8))


# --- fits -------------------------------------------------------------------------------------------------------------


def simulated(n=1200, D=10, seed=0):
    """Return counts of rates that depend on two latents, and exposures that differ tenfold."""
    random = np.random.default_rng(seed)
    z, W, b = random.normal(size=(n, 2)), random.normal(size=(2, D)) * 0.8, random.normal(size=D)
    e = np.exp(random.uniform(0, np.log(10), size=n))
    return random.poisson(np.exp(z @ W + b) * e[:, None]), e.astype(np.float32)


def independent(train, test, e_train=None, e_test=None):
    """Return the mean log p(x) per datum of independent Poissons, by SciPy, of rates fitted in closed form."""
    rate = train.mean(0) if e_train is None else train.sum(0) / e_train.sum()
    mean = rate if e_test is None else e_test[:, None] * rate
    return scipy.stats.poisson(mean).logpmf(test).sum(1).mean()


@pytest.mark.slow
def test_a_fit_beats_independent_poissons():
    x, e = simulated()
    data = ppl_vae.data.from_tensors({"x": x, "exposure": e})
    parts = {role: (split["x"].numpy(), split["exposure"].numpy()) for role, split in data.splits.items()}
    pairs = {"vae": {"likelihood": "poisson"}, "count-vae": {"likelihood": "poisson"}}
    means = {}
    for name, options in pairs.items():
        pair = zoo.build(name, data.spec, latent_dim=2, hidden=(50,), **options)
        ppl_vae.fit(pair, data, epochs=40, batch_size=100, lr=1e-2, compile="off", progress=False)
        means[name] = ppl_vae.log_likelihood(pair, data.test, num_particles=200, progress=False)
    (x_train, e_train), (x_test, e_test) = parts["train"], parts["test"]
    plain, offset = independent(x_train, x_test), independent(x_train, x_test, e_train, e_test)
    error = means["count-vae"].data_standard_error
    assert means["vae"].mean > plain + 5 * error
    assert means["count-vae"].mean > offset + 5 * error
    assert means["count-vae"].mean > means["vae"].mean  # which has two latents for two directions and the exposure
