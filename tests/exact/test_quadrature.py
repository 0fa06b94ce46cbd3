"""Quadrature over one and two latents against closed forms and SciPy's adaptive rules."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad, quad
from scipy.stats import multivariate_normal, norm
from tiers import fast_in
from torch.distributions import Bernoulli, Normal

from ppl_vae import exact
from ppl_vae.core.errors import InputError
from ppl_vae.exact.quadrature import integrate, integrate_classes

ZERO = {L: torch.zeros(L, dtype=torch.float64) for L in (1, 2)}


def random_linear(L, scale, seed, D=4, B=6):
    """Return x and the parameters of a linear-Gaussian model, and its log likelihood."""
    generator = torch.Generator().manual_seed(seed)
    W, b = torch.randn(D, L, generator=generator).double(), torch.randn(D, generator=generator).double()
    z = torch.randn(B, L, generator=generator).double()
    x = z @ W.mT + b + scale * torch.randn(B, D, generator=generator).double()
    parameters = (W, b, torch.tensor(scale, dtype=torch.float64))
    return x, parameters, lambda z, x: Normal(z @ W.mT + b, scale).log_prob(x).sum(-1)


def decoder(L, D, seed, activation=torch.tanh, gain=1.0):
    """Return z -> logits (..., D) of a random network with one hidden layer of ten."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(L, 10, generator=generator).double(), torch.randn(10, D, generator=generator).double()
    offset = torch.randn(10, generator=generator).double()
    return lambda z: gain * activation(z @ first + offset) @ second


def random_bits(rows, columns, seed):
    return (torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.5).double()


@pytest.mark.parametrize("scale", fast_in({2.0, 0.003}, [2.0, 0.3, 0.03, 0.003]))
@pytest.mark.parametrize("L", fast_in({1}, [1, 2]))
def test_linear_models_from_wide_to_narrow_posteriors(L, scale):
    for seed in range(5):
        x, parameters, log_likelihood = random_linear(L, scale, seed)
        q = integrate(log_likelihood, x, ZERO[L], tolerance=1e-6)
        torch.testing.assert_close(q.log_marginal, exact.log_marginal(x, *parameters), rtol=1e-10, atol=1e-9)
        mean, covariance = exact.posterior(x, *parameters)
        spread = covariance.diagonal().sqrt()
        assert ((q.mean - mean) / spread).abs().max() < 1e-7
        assert ((q.covariance - covariance) / (spread[:, None] * spread)).abs().max() < 1e-7
        assert q.error.max() <= 1e-6


def test_a_narrow_ridge_across_the_axes():
    """z1 + z2 is known to 0.005, z1 - z2 hardly: the posterior's correlation is -0.99997."""
    W = torch.tensor([[1.0, 1.0], [0.1, -0.1]], dtype=torch.float64)
    scale = torch.tensor([0.005, 0.1], dtype=torch.float64)
    x = torch.tensor([[0.3, 0.2], [-1.0, 0.05], [3.0, 0.0]], dtype=torch.float64)
    asked = []

    def log_likelihood(z, x):
        asked.append(len(z) if z.shape[1] > 1 else 0)  # of grids for a datum each
        return Normal(z @ W.mT, scale).log_prob(x).sum(-1)

    q = integrate(log_likelihood, x, ZERO[2], rows=10**6)
    expected = exact.log_marginal(x, W, torch.zeros(2).double(), scale)
    torch.testing.assert_close(q.log_marginal, expected, rtol=1e-9, atol=0)
    assert max(asked) == 65**2  # a grid turned as the ridge is needs no more points than any other


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_bernoulli_decoder_of_one_latent_agrees_with_scipys_quad(seed):
    logits = decoder(1, 8, seed, gain=2.0)
    x = random_bits(3, 8, seed) if seed else torch.ones(3, 8).double()
    log_likelihood = lambda z, x: Bernoulli(logits=logits(z)).log_prob(x).sum(-1)  # noqa: E731
    q = integrate(log_likelihood, x, ZERO[1], function=lambda z: z[..., 0] ** 3)
    for i in range(3):

        def density(z, i=i):
            logit = logits(torch.tensor([[z]], dtype=torch.float64))[0].numpy()
            return np.exp(-np.logaddexp(0, (1 - 2 * x[i].numpy()) * logit).sum()) * norm.pdf(z)

        evidence = quad(density, -10, 10, epsabs=0, epsrel=1e-10, limit=500)[0]
        assert q.log_marginal[i].item() == pytest.approx(math.log(evidence), abs=1e-9)
        mean = quad(lambda z: z * density(z), -10, 10, epsabs=1e-14, epsrel=1e-9, limit=500)[0] / evidence
        assert q.mean[i].item() == pytest.approx(mean, abs=1e-8)
        cube = quad(lambda z: z**3 * density(z), -10, 10, epsabs=1e-14, epsrel=1e-9, limit=500)[0] / evidence
        assert q.expectation[i].item() == pytest.approx(cube, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_bernoulli_decoder_of_two_latents_agrees_with_scipys_dblquad(seed):
    logits = decoder(2, 6, seed)
    x = torch.tensor([[1.0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]], dtype=torch.float64)
    q = integrate(lambda z, x: Bernoulli(logits=logits(z)).log_prob(x).sum(-1), x, ZERO[2])
    for i in range(2):
        sign = (1 - 2 * x[i]).numpy()

        def density(a, b, sign=sign):
            logit = logits(torch.tensor([[a, b]], dtype=torch.float64))[0].numpy()
            return np.exp(-np.logaddexp(0, sign * logit).sum() - 0.5 * (a * a + b * b)) / (2 * np.pi)

        evidence = dblquad(density, -8, 8, -8, 8, epsabs=0, epsrel=1e-6)[0]
        assert q.log_marginal[i].item() == pytest.approx(math.log(evidence), abs=1e-6)


@pytest.mark.parametrize("gap", [1.0, 2.5])
def test_two_modes_far_apart(gap):
    """x = z^2 + noise: z is near sqrt x or its negative."""
    x = torch.tensor([[gap**2]], dtype=torch.float64)
    q = integrate(lambda z, x: Normal(z.square(), 0.05).log_prob(x).sum(-1), x, ZERO[1])
    density = lambda z: norm.pdf(gap**2, z * z, 0.05) * norm.pdf(z)  # noqa: E731
    evidence, _ = quad(density, 0, 8, points=[gap - 0.1, gap, gap + 0.1], epsabs=0, epsrel=1e-10)
    assert q.log_marginal.item() == pytest.approx(math.log(2 * evidence), abs=1e-9)
    assert q.mean.abs().max() < 1e-12
    assert q.covariance.item() == pytest.approx(gap**2, rel=0.05)


def test_a_posterior_far_out_in_the_prior():
    """x says z = 30, beyond the first grid, which ends at 9: the grid has to follow."""
    x = torch.tensor([[30.0], [-14.0], [0.0]], dtype=torch.float64)
    q = integrate(lambda z, x: Normal(z, 0.1).log_prob(x).sum(-1), x, ZERO[1])
    expected = multivariate_normal(0, 1.01).logpdf(x[:, 0])
    np.testing.assert_allclose(q.log_marginal, expected, rtol=1e-10)
    np.testing.assert_allclose(q.mean[:, 0], x[:, 0] / 1.01, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("per_datum", [False, True])
def test_a_prior_of_its_own(per_datum):
    x, (W, b, s), log_likelihood = random_linear(2, 0.4, 1)
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(*((6, 2) if per_datum else (2,)), generator=generator).double()
    scale = torch.tensor([0.5, 3.0]).double()
    q = integrate(log_likelihood, x, loc, scale)
    p = exact.JointGaussian.root("z", loc, scale).child("x", {"z": W}, b, s)
    torch.testing.assert_close(q.log_marginal, p.log_prob(x=x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.mean, p.given(x=x).mean, rtol=1e-7, atol=1e-8)


def test_two_layers_of_one_latent_each():
    """p(z2), p(z1|z2), p(x|z1): the model's own prior goes into the likelihood as a ratio to N(0, I)."""
    layers = [exact.Layer(torch.ones(3, 1), torch.zeros(3), 0.5), exact.Layer(torch.ones(1, 1), torch.ones(1), 0.3)]
    x = torch.tensor([[0.5, 1.0, 1.5], [-1.0, 0.0, -2.0]], dtype=torch.float64)

    def log_likelihood(z, x):
        z1, z2 = z[..., :1], z[..., 1:]
        ratio = Normal(z2 + 1, 0.3).log_prob(z1) - Normal(0.0, 1.0).log_prob(z1)
        return Normal(z1, 0.5).log_prob(x).sum(-1) + ratio[..., 0]

    q, p = integrate(log_likelihood, x, ZERO[2]), exact.hierarchy.joint(layers)
    torch.testing.assert_close(q.log_marginal, p.log_prob(x=x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.mean, p.given(x=x).marginal("z1", "z2").mean, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
def test_kinks_slow_it_down_and_the_error_is_of_the_right_size():
    """ReLU decoders, against 200,000 points, which are good to 1e-7 or so."""
    z = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    log_cell = Normal(0.0, 1.0).log_prob(z)[:, None] + math.log(z[1] - z[0])
    shares = []
    for seed in range(8):
        logits, x = decoder(1, 8, seed, activation=torch.relu, gain=2.0), random_bits(3, 8, seed)
        log_likelihood = lambda z, x, logits=logits: Bernoulli(logits=logits(z)).log_prob(x).sum(-1)  # noqa: E731
        dense = (log_likelihood(z[:, None, None], x) + log_cell).logsumexp(0)
        for tolerance in (1e-2, 1e-4, 2e-5):
            q = integrate(log_likelihood, x, ZERO[1], tolerance=tolerance)
            assert q.error.max() <= tolerance
            shares.append((q.log_marginal - dense).abs() / (q.error + 1e-7))
    shares = torch.cat(shares)
    assert shares.max() < 3
    assert shares.quantile(0.9) < 1  # for all but a few, what is stated is no less than the error
    assert shares.median() > 0.01  # and no empty phrase


def test_float32_models_get_float32_latents():
    x, (W, b, s), _ = random_linear(2, 0.5, 3)
    asked = []

    def log_likelihood(z, x):
        asked.append(z.dtype)
        return Normal(z @ W.float().mT + b.float(), 0.5).log_prob(x.float()).sum(-1)

    q = integrate(log_likelihood, x, torch.zeros(2))
    assert set(asked) == {torch.float32}
    assert q.log_marginal.dtype == torch.float64
    torch.testing.assert_close(q.log_marginal, exact.log_marginal(x, W, b, s), rtol=0, atol=1e-4)


def test_no_more_pairs_are_asked_for_at_once_than_allowed():
    x, parameters, log_likelihood = random_linear(2, 0.5, 4)
    seen = []

    def counted(z, x):
        values = log_likelihood(z, x)
        seen.append(values.numel())
        return values

    q = integrate(counted, x, ZERO[2], rows=600)
    assert max(seen) <= 600
    torch.testing.assert_close(q.log_marginal, exact.log_marginal(x, *parameters), rtol=1e-10, atol=1e-10)


def test_no_graph_is_kept():
    W = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    q = integrate(lambda z, x: Normal(z @ W.mT, 1.0).log_prob(x).sum(-1), torch.zeros(2, 3), ZERO[1])
    assert not q.log_marginal.requires_grad


@pytest.mark.slow
def test_many_data_in_blocks_of_their_own_keep_their_places():
    """So many that no grid holds all at once, some narrow and some wide, some far out: each finds its own rule."""
    generator = torch.Generator().manual_seed(0)
    x = 6 * torch.randn(10_000, 1, generator=generator, dtype=torch.float64)
    scale = torch.logspace(-3, 1, 10_000, dtype=torch.float64)[torch.randperm(10_000, generator=generator)]
    rows = torch.arange(10_000)  # what goes with a datum may be anything its number leads to
    q = integrate(lambda z, i: Normal(z, scale[i, None]).log_prob(x[i]).sum(-1), rows, ZERO[1], 2.0)
    expected = Normal(0.0, (4 + scale**2).sqrt()).log_prob(x[:, 0])
    torch.testing.assert_close(q.log_marginal, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(q.mean[:, 0], 4 / (4 + scale**2) * x[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("L", [1, 2])
def test_classes_summed_out_agree_with_the_mixture_in_closed_form(L):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).double()  # noqa: E731
    x, probabilities, W, b = draw(5, 4), draw(3).softmax(-1), draw(3, 4, L), draw(3, 4)
    s = torch.tensor([0.3, 0.8, 0.1]).double()
    ours = integrate_classes(
        lambda z, x, y: Normal(z @ W[y].mT + b[y], s[y]).log_prob(x).sum(-1), x, probabilities, ZERO[L]
    )
    closed = exact.mixture.linear_gaussians(x, probabilities, W, b, s)
    torch.testing.assert_close(ours.log_joint, closed.log_joint, rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(ours.log_marginal, closed.log_marginal, rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(ours.posterior, closed.posterior, rtol=1e-7, atol=1e-9)


X, ONE = torch.zeros(4, 1), torch.zeros(1)


def likelihood(z, x):
    return Normal(z, 1.0).log_prob(x).sum(-1)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            (likelihood, X, torch.zeros(3)),
            {},
            r"prior_loc: expected shape \(L,\) or \(B, L\) with L = 1 or 2; got",
        ),
        ((likelihood, X, torch.zeros(3, 1)), {}, r"prior_loc: expected shape .* got \(3, 1\)"),
        ((likelihood, X, torch.tensor(0.0)), {}, r"prior_loc: expected shape .* got \(\)"),
        ((likelihood, X, ONE / 0), {}, "prior_loc: expected finite values; got 1 of 1"),
        ((likelihood, X, ONE, 0.0), {}, r"prior_scale: expected positive standard deviations; got .* of 0"),
        ((likelihood, X, ONE, torch.ones(2)), {}, r"prior_scale: expected a scalar or shape \(1,\); got \(2,\)"),
        ((likelihood, X[0, 0], ONE), {}, r"x: expected data of shape \(B, …\); got shape \(\)"),
        ((likelihood, X[:0], ONE), {}, r"x: expected data of shape \(B, …\); got shape \(0, 1\)"),
        ((likelihood, X, ONE), {"tolerance": 0.0}, "tolerance: expected nats above 0; got 0.0"),
        ((likelihood, X, ONE), {"first": 11}, "first: expected points per axis: 5, 9, 13, …; got 11"),
        (
            (lambda z, x: z, X, ONE),
            {},
            r"log_likelihood: expected shape \(1025, 4\); got \(1025, 1, 1\) for z",
        ),
        ((lambda z, x: likelihood(z, x) * math.nan, X, ONE), {}, r"log_likelihood: expected log densities; got .* NaN"),
        (
            (lambda z, x: likelihood(z, x) - math.inf, X, ONE),
            {},
            r"log_likelihood: expected p\(x\|z\) > 0 at some z",
        ),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(InputError, match=message) as caught:
        integrate(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_rules_that_do_not_agree_are_refused_with_their_difference():
    message = r"quadrature: expected rules that agree to 1e-12 nats; got a difference of .* on 16385 points per axis"
    with pytest.raises(InputError, match=message):
        integrate(lambda z, x: likelihood((7 * z).floor(), x), X, ZERO[1], tolerance=1e-12)
    with pytest.raises(InputError, match=r"quadrature: expected rules that agree to 0.0001 nats"):
        integrate(lambda z, x: z[..., 0].square() + x[:, 0], X, ZERO[1])  # the integral does not exist
