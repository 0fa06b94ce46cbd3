"""The maximum-likelihood solution of PPCA against scikit-learn, SciPy and perturbed parameters."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from ppl_vae import exact
from ppl_vae.core.errors import InputError


def sample(N=200, D=6, L=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z, weight = torch.randn(N, L, generator=generator), torch.randn(L, D, generator=generator)
    return (z @ weight + 0.5 * torch.randn(N, D, generator=generator) + 3).double()


def mean_log_likelihood(x, parameters):
    return exact.log_marginal(x, *parameters).mean()


@pytest.fixture(scope="module")
def digits():
    return torch.as_tensor(load_digits().data / 16)


@pytest.mark.parametrize("L", [1, 2, 5])
def test_agrees_with_scikit_learn_up_to_its_divisor(L):
    """scikit-learn divides variances by N - 1: its model covariance is exactly N / (N - 1) of the ML one."""
    x = sample()
    weight, bias, scale = exact.ppca_maximum_likelihood(x, L)
    pca = PCA(L).fit(x.numpy())
    stretch = (len(x) / (len(x) - 1)) ** 0.5
    torch.testing.assert_close(scale * stretch, torch.tensor(pca.noise_variance_).sqrt())
    ours = exact.log_marginal(x, weight * stretch, bias, scale * stretch)
    torch.testing.assert_close(ours, torch.as_tensor(pca.score_samples(x.numpy())), rtol=1e-9, atol=1e-9)


def test_scikit_learn_averages_fewer_variances_where_data_are_few():
    """With N <= D scikit-learn spreads the discarded variance over N - L directions, ML over all D - L."""
    N, D, L = 10, 30, 3
    x = sample(N, D)
    pca = PCA(L, svd_solver="full").fit(x.numpy())
    _, _, scale = exact.ppca_maximum_likelihood(x, L)
    from_theirs = pca.noise_variance_ * (N - 1) / N * (N - L) / (D - L)
    np.testing.assert_allclose(scale**2, from_theirs, rtol=1e-10)


def test_covariance_has_the_leading_eigenvectors_and_the_mean_of_the_rest():
    x = sample(D=8)
    weight, bias, scale = exact.ppca_maximum_likelihood(x, 3)
    eigenvalues, vectors = np.linalg.eigh(np.cov(x.numpy().T, bias=True))
    eigenvalues[:5] = eigenvalues[:5].mean()
    expected = multivariate_normal(x.numpy().mean(0), vectors * eigenvalues @ vectors.T).logpdf(x.numpy())
    np.testing.assert_allclose(exact.log_marginal(x, weight, bias, scale), expected, rtol=1e-10)


def test_is_stationary_and_beats_perturbed_parameters():
    x = sample()
    best = exact.ppca_maximum_likelihood(x, 2)
    parameters = [p.clone().requires_grad_() for p in best]
    for gradient in torch.autograd.grad(mean_log_likelihood(x, parameters), parameters):
        assert gradient.abs().max() < 1e-10
    generator = torch.Generator().manual_seed(1)
    value = mean_log_likelihood(x, best)
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(50):
            other = [p + size * torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in best]
            assert mean_log_likelihood(x, other) < value


def test_beats_the_saddle_points_of_other_eigenvectors():
    """Any L eigenvectors are a stationary point; only the leading ones are the maximum (Tipping & Bishop, app. A)."""
    x = sample(D=5, L=3)
    value = mean_log_likelihood(x, exact.ppca_maximum_likelihood(x, 2))
    eigenvalues, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    for chosen in torch.combinations(torch.arange(5), 2)[:-1]:
        rest = eigenvalues[[i for i in range(5) if i not in chosen]].mean()
        weight = vectors[:, chosen] * (eigenvalues[chosen] - rest).clamp_min(0).sqrt()
        assert mean_log_likelihood(x, (weight, x.mean(0), rest.sqrt())) < value - 1e-3


def test_recovers_the_model_that_made_the_data():
    D, L = 6, 2
    generator = torch.Generator().manual_seed(3)
    truth = torch.randn(D, L, generator=generator).double()
    errors = []
    for N in (1_000, 100_000):
        z, noise = torch.randn(N, L, generator=generator), torch.randn(N, D, generator=generator)
        weight, _, scale = exact.ppca_maximum_likelihood(z.double() @ truth.mT + 0.5 * noise, L)
        errors.append((weight @ weight.mT - truth @ truth.mT).norm().item() + abs(scale.item() - 0.5))
    assert errors[1] < errors[0] / 3  # a hundredfold data: a tenth of the error, give or take


def test_digits_with_their_constant_pixels(digits):
    weight, bias, scale = exact.ppca_maximum_likelihood(digits, 8)
    constant = digits.std(0) == 0
    assert constant.sum() == 3
    assert weight[constant].abs().max() < 1e-12
    stretch = (len(digits) / (len(digits) - 1)) ** 0.5
    theirs = PCA(8, svd_solver="full").fit(digits.numpy()).score(digits.numpy())
    np.testing.assert_allclose(
        exact.log_marginal(digits, weight * stretch, bias, scale * stretch).mean(), theirs, rtol=1e-10
    )


def test_columns_are_orthogonal_falling_and_of_fixed_sign(digits):
    weight = exact.ppca_maximum_likelihood(digits, 8).weight
    gram = weight.mT @ weight
    lengths = gram.diagonal()
    assert (gram - lengths.diag()).abs().max() < 1e-10
    assert (lengths.diff() < 0).all()
    assert (weight.gather(0, weight.abs().argmax(0, keepdim=True)) > 0).all()


def test_keeps_the_type_of_the_data_but_computes_in_double():
    x = (sample() + 100).float()
    single, double = exact.ppca_maximum_likelihood(x, 2), exact.ppca_maximum_likelihood(x.double(), 2)
    for ours, theirs in zip(single, double, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-6, atol=1e-6)
    assert exact.ppca_maximum_likelihood((10 * x).long(), 2).weight.dtype == torch.float64


@pytest.mark.parametrize("fit", [exact.ppca_maximum_likelihood, exact.factor_analysis_maximum_likelihood])
@pytest.mark.parametrize(
    ("x", "L", "message"),
    [
        (sample(N=2), 2, r"x: expected more rows than latents \(N > 2\); got N = 2; try fewer latents, or more data"),
        (sample(N=0), 2, r"x: expected more rows than latents \(N > 2\); got N = 0"),
        (sample(), 6, "latent_dim: expected 1 to D - 1 = 5 for data of D = 6 columns; got 6"),
        (sample(), 0, "latent_dim: expected 1 to D - 1 = 5 for data of D = 6 columns; got 0"),
        (sample()[0], 2, r"x: expected a matrix \(N, D\); got shape \(6,\); try x.reshape"),
        (sample() / 0, 2, "x: expected finite values; got 1200 of 1200 not finite"),
    ],
)
def test_bad_data(fit, x, L, message):
    with pytest.raises(InputError, match=message) as caught:
        fit(x, L)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "x",
    [torch.ones(10, 4), sample(N=3, D=6), sample(N=50, D=2, L=1) @ torch.ones(2, 5, dtype=torch.float64)],
    ids=["constant", "N = L + 1", "rank L"],
)
def test_data_without_noise_are_refused(x):
    with pytest.raises(
        InputError, match="x: expected data that 2 latents do not reproduce perfectly; got no variance left"
    ):
        exact.ppca_maximum_likelihood(x, 2)
