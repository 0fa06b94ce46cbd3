"""The one-dimensional example: its closed forms against quadrature and a numerical optimiser, SVI against both."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from scipy.optimize import minimize
from torch.distributions import Normal

from ppl_vae import exact

PATH = Path(__file__).parents[1] / "examples" / "linear_gaussian_1d.py"
DATA = [(3.0, 2.0), (-1.0, 0.5), (0.0, 1.0)]


@pytest.fixture(scope="module")
def example():
    specification = importlib.util.spec_from_file_location("linear_gaussian_1d", PATH)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def over_data(function, mu, s):
    """Return the mean of a function of x (B, 1) over N(mu, s^2) by Gauss-Hermite: exact for one quadratic in x."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    values = function(torch.as_tensor(mu + s * nodes).unsqueeze(-1))
    return (values * torch.as_tensor(weights / weights.sum())).sum().item()


def model(p):
    """Return weight, bias and scale of p(x|z) as `exact` takes them."""
    return (torch.tensor(v, dtype=torch.float64) for v in ([[p.c]], [p.d], abs(p.c)))


def bound_by_exact(p, mu, s, variance=1.0):
    covariance = torch.tensor([[variance]], dtype=torch.float64)
    return over_data(lambda x: exact.elbo(x, *model(p), p.a * x + p.b, covariance), mu, s)


def bound_by_quadrature(p, mu, s, variance=1.0):
    """Return E_x E_q[log p(x|z) + log p(z) - log q(z|x)] from densities alone, on a grid over x and z."""
    x = torch.linspace(mu - 9 * s, mu + 9 * s, 1001, dtype=torch.float64)
    noise = torch.linspace(-9, 9, 1001, dtype=torch.float64)
    z = p.a * x.unsqueeze(-1) + p.b + math.sqrt(variance) * noise
    log_q = Normal(0.0, 1.0).log_prob(noise) - 0.5 * math.log(variance)
    log_weight = Normal(p.c * z + p.d, abs(p.c)).log_prob(x.unsqueeze(-1)) + Normal(0.0, 1.0).log_prob(z) - log_q
    inner = torch.trapezoid(Normal(0.0, 1.0).log_prob(noise).exp() * log_weight, noise)
    return torch.trapezoid(Normal(mu, s).log_prob(x).exp() * inner, x).item()


@pytest.mark.slow
@pytest.mark.parametrize(("mu", "s"), DATA)
@pytest.mark.parametrize("variance", [1.0, 0.5])
def test_expected_bound_agrees_with_quadrature(example, mu, s, variance):
    for p in (example.lecture(mu, s), example.optimum(mu, s), example.Parameters(0.3, -0.7, 1.4, 0.2)):
        closed_form = example.expected_bound(p, mu, s, variance)
        assert closed_form == pytest.approx(bound_by_quadrature(p, mu, s, variance), rel=1e-8)
        assert closed_form == pytest.approx(bound_by_exact(p, mu, s, variance), rel=1e-10)


@pytest.mark.parametrize(("mu", "s"), DATA)
def test_misfit_and_gap_are_what_the_bound_lacks(example, mu, s):
    for p in (example.lecture(mu, s), example.optimum(mu, s), example.Parameters(0.3, -0.7, 1.4, 0.2)):
        mean_log_marginal = over_data(lambda x, p=p: exact.log_marginal(x, *model(p)), mu, s)
        assert example.misfit(p, mu, s) == pytest.approx(-example.entropy(s) - mean_log_marginal, abs=1e-10)
        assert example.gap(p, mu, s) == pytest.approx(mean_log_marginal - bound_by_exact(p, mu, s), abs=1e-10)
        assert example.expected_bound(p, mu, s, 0.7) == pytest.approx(
            -example.entropy(s) - example.misfit(p, mu, s) - example.gap(p, mu, s, 0.7), abs=1e-10
        )


@pytest.mark.slow
@pytest.mark.parametrize(("mu", "s"), DATA)
def test_optimum_is_what_a_numerical_optimiser_finds(example, mu, s):
    best = example.optimum(mu, s)
    generator = np.random.default_rng(0)
    for _ in range(5):
        start = generator.normal(size=4) + np.array([0, 0, 0, mu])

        def negative(v):
            return -bound_by_exact(example.Parameters(v[0], v[1], math.exp(v[2]), v[3]), mu, s)

        a, b, log_c, d = minimize(negative, start, method="BFGS").x
        np.testing.assert_allclose([a, b, math.exp(log_c), d], best, atol=1e-4)
    turned = example.Parameters(-best.a, -best.b, -best.c, best.d)
    assert bound_by_exact(turned, mu, s) == pytest.approx(bound_by_exact(best, mu, s))


@pytest.mark.parametrize(("mu", "s"), DATA)
def test_the_lecture_falls_short_by_half_log_two(example, mu, s):
    theirs, best = example.lecture(mu, s), example.optimum(mu, s)
    log2 = math.log(2)
    assert bound_by_exact(best, mu, s) - bound_by_exact(theirs, mu, s) == pytest.approx(log2 / 2)
    assert example.misfit(theirs, mu, s) == pytest.approx(log2 / 2 - 1 / 4)
    assert example.misfit(best, mu, s) == pytest.approx(0, abs=1e-12)
    assert example.gap(best, mu, s) == pytest.approx((1 - log2) / 2)
    assert example.gap(theirs, mu, s) - example.gap(best, mu, s) == pytest.approx(1 / 4)


def test_freeing_the_variance_makes_the_bound_tight_at_the_same_parameters(example):
    mu, s = 3.0, 2.0

    def negative(v):
        p = example.Parameters(v[0], v[1], math.exp(v[2]), v[3])
        return -bound_by_exact(p, mu, s, math.exp(v[4]))

    found = minimize(negative, [0.1, 0.1, 0.1, 0.1, 0.1], method="BFGS")
    a, b, log_c, d, log_variance = found.x
    np.testing.assert_allclose([a, b, math.exp(log_c), d], example.optimum(mu, s), atol=1e-4)
    assert math.exp(log_variance) == pytest.approx(0.5, abs=1e-4)
    assert -found.fun == pytest.approx(-example.entropy(s), abs=1e-8)


def test_sample_has_the_moments_of_the_data(example):
    x = example.draw_data(3.0, 2.0, 500).double()
    assert x.mean().item() == pytest.approx(3, abs=1e-5)
    assert x.var(correction=0).item() == pytest.approx(4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_svi_finds_the_optimum(example, seed):
    mu, s = 3.0, 2.0
    fitted = example.fit_by_svi(mu, s, seed=seed, epochs=300)
    short = example.expected_bound(example.optimum(mu, s), mu, s) - example.expected_bound(fitted, mu, s)
    assert 0 <= short < 0.002  # a hundredth of what the lecture's answer lacks, and more than gradient noise leaves
    np.testing.assert_allclose(fitted, example.optimum(mu, s), atol=0.05)


@pytest.mark.slow
def test_script_prints_the_table_and_saves_the_figure(example, tmp_path, capsys):
    out = tmp_path / "new" / "figure.png"
    example.main(["--quick", "--out", str(out)])
    printed = capsys.readouterr().out
    rows = {line[:24].strip(): line[24:].split() for line in printed.splitlines() if line[24:].count(".") == 8}
    assert list(rows) == ["lecture", "optimum", "SVI", "optimum, variance 1/2"]
    assert rows["lecture"][4:] == ["-2.6121", "-0.3466", "0.0966", "0.4034"]
    assert rows["optimum"][4:] == ["-2.2655", "+0.0000", "0.0000", "0.1534"]
    assert abs(float(rows["SVI"][5])) < 0.02
    assert "falls 0.3466 = (log 2)/2 nats per datum short" in printed
    picture = imread(out)
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.05  # not an empty page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--s", "-1"], "argument --s: expected a positive number; got -1"),
        (["--s", "0"], "argument --s: expected a positive number; got 0"),
        (["--mu", "nan"], "argument --mu: expected a finite number; got nan"),
    ],
)
def test_bad_options(example, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        example.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
