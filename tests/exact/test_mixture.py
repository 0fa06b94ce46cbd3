"""Mixtures against scikit-learn, SciPy and quadrature over the latent."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import FactorAnalysis
from sklearn.mixture import GaussianMixture

from ppl_vae.core.errors import InputError
from ppl_vae.exact import mixture


def random_mixture(C, D, seed=0, B=9, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(C, generator=generator, dtype=dtype).softmax(-1)
    means = 2 * torch.randn(C, D, generator=generator, dtype=dtype)
    roots = torch.randn(C, D, D, generator=generator, dtype=dtype)
    covariances = roots @ roots.mT + 0.1 * torch.eye(D, dtype=dtype)
    return 2 * torch.randn(B, D, generator=generator, dtype=dtype), probabilities, means, covariances


def random_factors(C, D, L, *, diagonal, seed=0, B=7):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    scale = 0.3 + draw(*((C, D) if diagonal else (C,))).abs()
    return 2 * draw(B, D), draw(C).softmax(-1), draw(C, D, L), 2 * draw(C, D), scale


@pytest.mark.parametrize(("C", "D"), [(1, 3), (4, 1), (5, 3)])
def test_gaussians_agree_with_scikit_learn(C, D):
    for seed in range(5):
        x, probabilities, means, covariances = random_mixture(C, D, seed)
        theirs = GaussianMixture(C)
        theirs.weights_, theirs.means_ = probabilities.numpy(), means.numpy()
        theirs.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(covariances.numpy())).transpose(0, 2, 1)
        ours = mixture.gaussians(x, probabilities, means, covariances)
        np.testing.assert_allclose(ours.log_marginal, theirs.score_samples(x.numpy()), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours.posterior, theirs.predict_proba(x.numpy()), rtol=1e-9, atol=1e-12)


def test_float32_in_float64_out():
    x, probabilities, means, covariances = random_mixture(3, 2, dtype=torch.float32)
    in_double = [tensor.double() for tensor in (x, probabilities, means, covariances)]
    ours = mixture.gaussians(x, probabilities, means, covariances).log_marginal
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, mixture.gaussians(*in_double).log_marginal)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_linear_gaussians_agree_with_scipy(seed, diagonal):
    x, probabilities, weight, bias, scale = random_factors(3, 4, 2, diagonal=diagonal, seed=seed)
    density = np.zeros((len(x), 3))
    for y in range(3):
        covariance = weight[y] @ weight[y].mT + torch.diag(scale[y].expand(4) ** 2)
        density[:, y] = probabilities[y].item() * multivariate_normal(bias[y].numpy(), covariance.numpy()).pdf(
            x.numpy()
        )
    ours = mixture.linear_gaussians(x, probabilities, weight, bias, scale)
    np.testing.assert_allclose(ours.log_marginal, np.log(density.sum(1)), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours.posterior, density / density.sum(1, keepdims=True), rtol=1e-8, atol=1e-12)


def test_one_component_agrees_with_scikit_learns_factor_analysis():
    x = (
        random_factors(1, 6, 2, diagonal=True, B=300)[0]
        @ torch.randn(6, 6, generator=torch.Generator().manual_seed(1)).double()
    )
    theirs = FactorAnalysis(2).fit(x.numpy())
    weight, bias, scale = (
        torch.as_tensor(value)[None] for value in (theirs.components_.T, theirs.mean_, theirs.noise_variance_**0.5)
    )
    ours = mixture.linear_gaussians(x, torch.ones(1).double(), weight, bias, scale)
    np.testing.assert_allclose(ours.log_marginal, theirs.score_samples(x.numpy()), rtol=1e-9)
    mean, _ = mixture.latent_moments(x, torch.ones(1).double(), weight, bias, scale)
    np.testing.assert_allclose(mean, theirs.transform(x.numpy()), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("L", [1, 2])
def test_latent_moments_agree_with_a_sum_over_a_grid(L):
    x, probabilities, weight, bias, scale = random_factors(3, 3, L, diagonal=True, seed=2)
    line = torch.linspace(-8, 8, 301, dtype=torch.float64)
    z = torch.cartesian_prod(*[line] * L).reshape(-1, L)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    means = torch.einsum("cdl,gl->cgd", weight, z) + bias.unsqueeze(1)
    log_likelihood = torch.distributions.Normal(means.unsqueeze(1), scale[:, None, None]).log_prob(x[:, None]).sum(-1)
    shares = (probabilities.log()[:, None, None] + log_likelihood + log_prior).movedim(0, 1).flatten(1).softmax(-1)
    shares = shares.reshape(len(x), 3, -1).sum(1)  # p(z|x) on the grid, (B, G)
    mean, covariance = mixture.latent_moments(x, probabilities, weight, bias, scale)
    torch.testing.assert_close(mean, shares @ z, rtol=1e-8, atol=1e-8)
    second = torch.einsum("bg,gl,gm->blm", shares, z, z) - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    torch.testing.assert_close(covariance, second, rtol=1e-7, atol=1e-8)


def test_a_component_without_weight_has_no_part():
    x, _, means, covariances = random_mixture(3, 2)
    probabilities = torch.tensor([0.4, 0.0, 0.6]).double()
    ours = mixture.gaussians(x, probabilities, means, covariances)
    kept = mixture.gaussians(x, probabilities[[0, 2]], means[[0, 2]], covariances[[0, 2]])
    torch.testing.assert_close(ours.log_marginal, kept.log_marginal)
    assert (ours.posterior[:, 1] == 0).all()


def test_gradients():
    x, probabilities, weight, bias, scale = random_factors(2, 3, 1, diagonal=True, B=2)
    inputs = [tensor.requires_grad_() for tensor in (x, probabilities.log(), weight, bias, scale)]

    def value(x, logits, weight, bias, scale):
        arguments = (x, logits.softmax(-1), weight, bias, scale)
        return mixture.linear_gaussians(*arguments).log_marginal, *mixture.latent_moments(*arguments)

    assert torch.autograd.gradcheck(value, inputs)


X, P, MEANS, COVARIANCES = torch.zeros(4, 2), torch.tensor([0.5, 0.5]), torch.zeros(2, 2), torch.eye(2).repeat(2, 1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"probabilities": torch.tensor([0.5, 0.6])},
            "probabilities: expected probabilities that .* sums from 1.1 to 1.1; try",
        ),
        (
            {"probabilities": torch.tensor([1.5, -0.5])},
            "probabilities: expected .* a smallest value of -0.5 and",
        ),
        ({"probabilities": torch.tensor(1.0)}, r"probabilities: expected a vector \(C,\); got shape \(\)"),
        ({"probabilities": torch.full((2,), torch.nan)}, "probabilities: expected finite values; got 2 of 2"),
        ({"means": torch.zeros(3, 2)}, r"means: expected shape \(2, D\) for 2 probabilities; got \(3, 2\)"),
        ({"covariances": -COVARIANCES}, "covariance: expected a positive definite covariance; got .* of -1"),
        ({"covariances": torch.eye(3)}, r"covariance: expected shape \(..., 2, 2\); got \(3, 3\)"),
        ({"x": torch.zeros(4, 3)}, r"x: expected shape \(..., 2\); got \(4, 1, 3\)"),
    ],
)
def test_bad_input(change, message):
    good = {"x": X, "probabilities": P, "means": MEANS, "covariances": COVARIANCES}
    with pytest.raises(InputError, match=message) as caught:
        mixture.gaussians(**(good | change))
    assert "\n" not in str(caught.value)


def test_bad_input_of_linear_gaussians():
    with pytest.raises(InputError, match=r"weight: expected shape \(2, D, L\) for 2 probabilities; got \(2, 1\)"):
        mixture.linear_gaussians(X, P, torch.ones(2, 1), torch.zeros(2), torch.ones(()))
    with pytest.raises(InputError, match=r"scale: expected positive standard deviations; got .* of -1"):
        mixture.linear_gaussians(X, P, torch.ones(2, 2, 1), torch.zeros(2, 2), -torch.ones(2))
