"""Maximum-likelihood factor analysis against scikit-learn, its own EM step, and the conditions of a maximum."""

import math
import warnings

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import FactorAnalysis

from ppl_vae import exact
from ppl_vae.core.errors import InputError

OTHER_MAXIMA = "ignore:factor analysis. expected .* starts to end at one maximum"


def sample(N=400, D=8, L=2, seed=0):
    """Return data of a factor model with unequal noise, so far from a Heywood case."""
    generator = torch.Generator().manual_seed(seed)
    z, weight = torch.randn(N, L, generator=generator), torch.randn(L, D, generator=generator)
    scale = 0.3 + 1.2 * torch.rand(D, generator=generator)
    return (z @ weight + scale * torch.randn(N, D, generator=generator) - 1).double()


def heywood_sample():
    """Return data whose maximum has noise variances at the floor: few rows without a factor structure."""
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(60, 5, generator=generator) @ torch.randn(5, 5, generator=generator)).double()


def mean_log_likelihood(x, weight, bias, scale):
    return exact.log_marginal(x, weight, bias, scale).mean()


def slopes(x, parameters):
    """Return the gradient of the mean log-likelihood in W, b and log scale."""
    weight, bias, log_scale = (
        p.clone().requires_grad_() for p in (parameters.weight, parameters.bias, parameters.scale.log())
    )
    value = mean_log_likelihood(x, weight, bias, log_scale.exp())
    return torch.autograd.grad(value, (weight, bias, log_scale))


@pytest.mark.slow
@pytest.mark.filterwarnings(OTHER_MAXIMA)
@pytest.mark.parametrize("L", [1, 2, 3])
def test_agrees_with_scikit_learn(L):
    """scikit-learn's factor analysis divides by N, as maximum likelihood does: no correction, unlike its PCA."""
    x = sample()
    parameters = exact.factor_analysis_maximum_likelihood(x, L)
    theirs = FactorAnalysis(L, tol=1e-10, max_iter=20_000, svd_method="lapack").fit(x.numpy())
    ours = exact.log_marginal(x, *parameters)
    # Theirs creeps up on the maximum by EM steps; near it the value is flat (1e-7) and the parameters are not (1e-3).
    assert -1e-9 < ours.mean() - theirs.score(x.numpy()) < 1e-7
    np.testing.assert_allclose(ours, theirs.score_samples(x.numpy()), atol=1e-3)
    np.testing.assert_allclose(parameters.scale**2, theirs.noise_variance_, rtol=1e-2)


def test_density_is_scikit_learns_at_scikit_learns_parameters():
    x = sample()
    theirs = FactorAnalysis(2).fit(x.numpy())
    weight, bias = torch.as_tensor(theirs.components_.T.copy()), torch.as_tensor(theirs.mean_)
    ours = exact.log_marginal(x, weight, bias, torch.as_tensor(theirs.noise_variance_).sqrt())
    np.testing.assert_allclose(ours, theirs.score_samples(x.numpy()), rtol=1e-10)


def test_is_stationary_and_beats_perturbed_parameters():
    x = sample()
    best = exact.factor_analysis_maximum_likelihood(x, 2)
    for gradient in slopes(x, best):
        assert gradient.abs().max() < 1e-4  # the stopping rule bounds the value by 1e-10, hence the slope by its root
    generator = torch.Generator().manual_seed(1)
    value = mean_log_likelihood(x, *best)
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(50):
            factor = (size * torch.randn(8, dtype=torch.float64, generator=generator)).exp()
            weight = best.weight + size * torch.randn(8, 2, dtype=torch.float64, generator=generator)
            bias = best.bias + size * torch.randn(8, dtype=torch.float64, generator=generator)
            assert mean_log_likelihood(x, weight, bias, best.scale * factor) < value


def test_an_em_step_from_the_solution_gains_nothing():
    """Rubin & Thayer (1982): one EM step, in its textbook form with D x D matrices."""
    x = sample(D=6, L=3)
    weight, bias, scale = exact.factor_analysis_maximum_likelihood(x, 3)
    covariance = torch.cov(x.T, correction=0)
    beta = weight.mT @ torch.linalg.inv(weight @ weight.mT + (scale**2).diag())
    second_moment = torch.eye(3, dtype=torch.float64) - beta @ weight + beta @ covariance @ beta.mT
    torch.testing.assert_close(second_moment, torch.eye(3, dtype=torch.float64))
    new_weight = covariance @ beta.mT @ torch.linalg.inv(second_moment)
    new_scale = (covariance - new_weight @ beta @ covariance).diagonal().sqrt()
    gain = mean_log_likelihood(x, new_weight, bias, new_scale) - mean_log_likelihood(x, weight, bias, scale)
    assert gain.abs() < 1e-9


@pytest.mark.slow
@pytest.mark.filterwarnings(OTHER_MAXIMA)
def test_heywood_case_ends_at_the_floor_with_the_slope_pointing_below():
    x = heywood_sample()
    parameters = exact.factor_analysis_maximum_likelihood(x, 2, variance_floor=1e-4)
    floor = 1e-4 * x.var(0, correction=0).mean()
    held = parameters.scale**2 < floor * (1 + 1e-6)
    assert held.any()
    assert (parameters.scale**2 > floor * (1 - 1e-9)).all()
    weight_slope, bias_slope, scale_slope = slopes(x, parameters)
    assert weight_slope.abs().max() < 1e-3
    assert bias_slope.abs().max() < 1e-8
    assert scale_slope[~held].abs().max() < 1e-4
    assert (scale_slope[held] < 0).all()


@pytest.mark.slow
@pytest.mark.filterwarnings(OTHER_MAXIMA)
def test_a_lower_floor_gives_a_higher_likelihood():
    x = heywood_sample()
    values = [
        mean_log_likelihood(x, *exact.factor_analysis_maximum_likelihood(x, 2, variance_floor=floor))
        for floor in (1e-1, 1e-2, 1e-3, 1e-6)
    ]
    assert values == sorted(values)
    assert values[-1] - values[0] > 0.01


def test_digits_with_their_constant_pixels():
    x = torch.as_tensor(load_digits().data / 16)
    parameters = exact.factor_analysis_maximum_likelihood(x, 8, variance_floor=1e-5)
    variances = x.var(0, correction=0)
    constant = variances == 0
    assert constant.sum() == 3
    assert parameters.weight[constant].abs().max() < 1e-12
    torch.testing.assert_close(parameters.scale[constant] ** 2, (1e-5 * variances.mean()).expand(3))
    # Factor analysis contains PPCA wherever PPCA's noise is above the floor.
    ppca = exact.ppca_maximum_likelihood(x, 8)
    assert ppca.scale**2 > 1e-5 * variances.mean()
    assert mean_log_likelihood(x, *parameters) > mean_log_likelihood(x, *ppca) + 1


def test_scaling_a_column_changes_only_its_scale():
    """Factor analysis, unlike PPCA, does not care about units: the density changes by the Jacobian alone."""
    x, units = sample(), torch.tensor([10.0, 0.1, 1, 1, 3, 1, 1, 0.5], dtype=torch.float64)
    plain = exact.factor_analysis_maximum_likelihood(x, 2)
    scaled = exact.factor_analysis_maximum_likelihood(x * units, 2)
    torch.testing.assert_close(scaled.scale, plain.scale * units, rtol=1e-4, atol=0)
    difference = exact.log_marginal(x, *plain) - exact.log_marginal(x * units, *scaled)
    torch.testing.assert_close(difference, units.log().sum().expand(400), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings(OTHER_MAXIMA)
@pytest.mark.parametrize("seed", range(20))
def test_converges_on_awkward_data(seed):
    """Random shapes, ranks and sizes, half of them with more latents than can be identified."""
    generator = np.random.default_rng(seed)
    D = int(generator.integers(2, 12))
    L, N, rank = (int(generator.integers(low, high)) for low, high in ((1, D), (D + 2, 80), (1, D + 1)))
    x = generator.normal(size=(N, rank)) @ generator.normal(size=(rank, D)) * 10 ** generator.uniform(-3, 3)
    x = torch.as_tensor(x + generator.choice([0, 0.1, 1]) * generator.normal(size=(N, D)))
    best = exact.factor_analysis_maximum_likelihood(x, L)
    floor = 1e-6 * x.var(0, correction=0).mean()
    weight = best.weight
    em_scale = torch.maximum(x.var(0, correction=0) - weight.square().sum(-1), floor).sqrt()
    gain = mean_log_likelihood(x, weight, best.bias, em_scale) - mean_log_likelihood(x, *best)
    assert gain.abs() < 1e-7


def few_rows(seed):
    """Return few data, and a number of latents: which columns end at the floor depends on the start."""
    generator = np.random.default_rng(1000 + seed)
    D = int(generator.integers(4, 10))
    L = int(generator.integers(1, D // 2))
    x = generator.normal(size=(int(generator.integers(L + 2, D + 2)), D))
    if seed % 2:
        factors = generator.standard_t(3, size=(len(x), L)) @ generator.normal(size=(L, D))
        x = factors + generator.uniform(0.01, 1.5, size=D) * x
    return torch.as_tensor(x), L


def climbed_by_scipy(x, L, starts, floor_share=1e-6):
    """Return the best mean log-likelihood by L-BFGS-B in W and log Psi, from so many random starts."""
    D = x.shape[1]
    covariance = torch.cov(x.T, correction=0)
    floor = floor_share * covariance.diagonal().mean()
    generator = np.random.default_rng(0)

    def minus(parameters):
        parameters = torch.tensor(parameters, requires_grad=True)
        weight, log_noise = parameters[: D * L].view(D, L), parameters[D * L :]
        whole = weight @ weight.mT + log_noise.exp().diag()
        value = 0.5 * (D * math.log(2 * math.pi) + torch.logdet(whole) + torch.linalg.solve(whole, covariance).trace())
        value.backward()
        return value.item(), parameters.grad.numpy()

    bounds = [(None, None)] * (D * L) + [(math.log(floor), None)] * D
    best = -math.inf
    for _ in range(starts):
        noise = covariance.diagonal().numpy() * generator.uniform(0.01, 1, D)
        weight = generator.normal(size=D * L) * covariance.diagonal().mean().sqrt().item()
        found = scipy.optimize.minimize(
            minus, np.concatenate([weight, np.log(noise)]), jac=True, bounds=bounds, method="L-BFGS-B",
            options={"maxiter": 300, "ftol": 1e-9},
        )  # fmt: skip
        best = max(best, -found.fun)
    return best


@pytest.mark.slow
@pytest.mark.filterwarnings(OTHER_MAXIMA)
@pytest.mark.parametrize(
    ("seed", "short"), [(4, 1.5), (6, 0.5), (17, 0.1), (18, 1.0), (0, None), (9, None), (20, None), (24, None)]
)
def test_no_random_start_ends_above_the_maximum_of_few_rows(seed, short):
    """Three starts alone end `short` nats per datum below what random ones reach."""
    x, L = few_rows(seed)
    three, best = (
        mean_log_likelihood(x, *exact.factor_analysis_maximum_likelihood(x, L, num_starts=n)) for n in (3, 60)
    )
    random = climbed_by_scipy(x, L, starts=6)
    assert random < best + 1e-6
    assert short is None or random > three + short


@pytest.mark.slow
def test_says_when_starts_disagree():
    x, L = few_rows(6)
    line = (
        r"factor analysis: expected \d+ starts to end at one maximum; got \d+ that end up to .* nats per datum lower; "
        "try a larger variance_floor, fewer latents, or more data"
    )
    with pytest.warns(UserWarning, match=line):
        exact.factor_analysis_maximum_likelihood(x, L)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact.factor_analysis_maximum_likelihood(sample(), 2)  # one maximum, away from the floor


def test_keeps_the_type_of_the_data():
    x = sample()
    single, double = (exact.factor_analysis_maximum_likelihood(x.to(t), 2) for t in (torch.float32, torch.float64))
    for ours, theirs in zip(single, double, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.ones(10, 4), {}, "x: expected a column that varies; got constant columns only"),
        (sample(), {"num_starts": 2}, "num_starts: expected 3 or more; got 2"),
        (sample(), {"variance_floor": 0.0}, "variance_floor: expected a positive share of the mean variance; got 0.0"),
        (
            sample(),
            {"max_iterations": 2},
            "factor analysis: expected convergence to 1e-10 nats per datum in 2 steps; got .* nats per datum still to "
            "be had; try a larger max_iterations or variance_floor, or fewer latents",
        ),
    ],
)
def test_bad_input(x, options, message):
    with pytest.raises(InputError, match=message):
        exact.factor_analysis_maximum_likelihood(x, 2, **options)
