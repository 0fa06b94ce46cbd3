"""KL between Gaussians against torch.distributions, quadrature and sampling."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from ppl_vae import exact
from ppl_vae.core.errors import InputError


def random_covariance(generator: torch.Generator, *shape: int) -> torch.Tensor:
    root = torch.randn(*shape, shape[-1], dtype=torch.float64, generator=generator)
    return root @ root.mT + 0.1 * torch.eye(shape[-1], dtype=torch.float64)


def random_pair(L: int, *batch: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean_q, mean_p = torch.randn(2, *batch, L, dtype=torch.float64, generator=generator)
    return mean_q, random_covariance(generator, *batch, L), mean_p, random_covariance(generator, *batch, L)


@pytest.mark.parametrize("L", [1, 2, 7])
def test_full_kl_agrees_with_torch_distributions(L):
    mean_q, covariance_q, mean_p, covariance_p = random_pair(L, 5, 3)
    expected = kl_divergence(MultivariateNormal(mean_q, covariance_q), MultivariateNormal(mean_p, covariance_p))
    torch.testing.assert_close(exact.gaussian_kl(mean_q, covariance_q, mean_p, covariance_p), expected)


def test_full_kl_agrees_with_samples():
    mean_q, covariance_q, mean_p, covariance_p = random_pair(3, seed=1)
    q, p = MultivariateNormal(mean_q, covariance_q), MultivariateNormal(mean_p, covariance_p)
    noise = torch.randn(200_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    z = mean_q + noise @ torch.linalg.cholesky(covariance_q).mT
    log_ratio = q.log_prob(z) - p.log_prob(z)
    standard_error = log_ratio.std() / len(z) ** 0.5
    z_score = (log_ratio.mean() - exact.gaussian_kl(mean_q, covariance_q, mean_p, covariance_p)) / standard_error
    assert z_score.abs() < 4


def test_diagonal_kl_agrees_with_the_full_one_and_broadcasts():
    generator = torch.Generator().manual_seed(3)
    mean_q = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    scale_q = torch.rand(6, 4, dtype=torch.float64, generator=generator) + 0.1
    mean_p = torch.randn(4, dtype=torch.float64, generator=generator)
    scale_p = torch.rand(4, dtype=torch.float64, generator=generator) + 0.1
    full = exact.gaussian_kl(mean_q, torch.diag_embed(scale_q**2), mean_p, torch.diag_embed(scale_p**2))
    torch.testing.assert_close(exact.diagonal_gaussian_kl(mean_q, scale_q, mean_p, scale_p), full)
    assert full.shape == (6,)


def test_kl_in_one_dimension_agrees_with_quadrature():
    values = [torch.tensor([v], dtype=torch.float64) for v in (0.3, 0.7, -1.1, 1.6)]
    q, p = torch.distributions.Normal(*values[:2]), torch.distributions.Normal(*values[2:])
    z = torch.linspace(-10, 10, 20_001, dtype=torch.float64)
    integral = torch.trapezoid(q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z)), z)
    torch.testing.assert_close(exact.diagonal_gaussian_kl(*values), integral, rtol=1e-9, atol=0)


def test_kl_from_itself_is_zero_and_not_symmetric():
    mean_q, covariance_q, mean_p, covariance_p = random_pair(4)
    assert exact.gaussian_kl(mean_q, covariance_q, mean_q, covariance_q).abs() < 1e-12
    forward = exact.gaussian_kl(mean_q, covariance_q, mean_p, covariance_p)
    backward = exact.gaussian_kl(mean_p, covariance_p, mean_q, covariance_q)
    assert (forward - backward).abs() > 0.1


def test_kl_is_differentiable():
    root_q, root_p = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    mean_q, _, mean_p, _ = random_pair(3)

    def kl(mean_q, root_q, mean_p, root_p):
        identity = torch.eye(3, dtype=torch.float64)
        return exact.gaussian_kl(mean_q, root_q @ root_q.mT + identity, mean_p, root_p @ root_p.mT + identity)

    assert torch.autograd.gradcheck(kl, [t.requires_grad_() for t in (mean_q, root_q, mean_p, root_p)])


MEAN, COVARIANCE = torch.zeros(2), torch.eye(2)


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        (torch.ones(2, 2), "covariance_q: expected a positive definite covariance; got a smallest eigenvalue"),
        (torch.zeros(2, 2), "covariance_q: expected a positive definite covariance; got a smallest eigenvalue of 0"),
        (torch.diag(torch.tensor([1.0, -1.0])), "covariance_q: expected a positive definite covariance; .* of -1; try"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "covariance_q: expected a symmetric matrix; got an asymmetry of 0.5"),
        (torch.ones(2, 3), r"covariance_q: expected square matrices \(..., L, L\); got shape \(2, 3\)"),
        (torch.full((2, 2), torch.inf), "covariance_q: expected finite values; got 4 of 4 not finite"),
    ],
)
def test_a_covariance_that_is_none_is_refused(covariance, message):
    with pytest.raises(InputError, match=message):
        exact.gaussian_kl(MEAN, covariance, MEAN, COVARIANCE)
    with pytest.raises(InputError, match=message.replace("covariance_q", "covariance_p")):
        exact.gaussian_kl(MEAN, COVARIANCE, MEAN, covariance)


def test_a_covariance_singular_but_for_rounding_is_refused():
    direction = torch.tensor([[1.0], [1 / 3]], dtype=torch.float64)
    with pytest.raises(InputError, match="expected a positive definite covariance"):
        exact.gaussian_kl(
            MEAN.double(), direction @ direction.mT + 1e-17 * torch.eye(2), MEAN.double(), COVARIANCE.double()
        )


def test_a_tiny_covariance_is_not_a_singular_one():
    tiny = 1e-30 * torch.eye(2, dtype=torch.float64)
    assert exact.gaussian_kl(MEAN.double(), tiny, MEAN.double(), tiny) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MEAN, -torch.ones(2), MEAN, torch.ones(2)), "scale_q: expected positive standard deviations; got .* of -1"),
        ((MEAN, torch.ones(2), MEAN, torch.zeros(2)), "scale_p: expected positive standard deviations; got .* of 0"),
        ((MEAN / 0, torch.ones(2), MEAN, torch.ones(2)), "mean_q: expected finite values; got 2 of 2 not finite"),
    ],
)
def test_bad_input_of_the_diagonal_kl(arguments, message):
    with pytest.raises(InputError, match=message):
        exact.diagonal_gaussian_kl(*arguments)


def test_sizes_that_differ_are_refused():
    message = "Gaussians: expected one size L of the last dimension; got mean_q 1, {0}_q 2, mean_p 2, {0}_p 2"
    with pytest.raises(InputError, match=message.format("covariance")):
        exact.gaussian_kl(MEAN[:1], COVARIANCE, MEAN, COVARIANCE)
    with pytest.raises(InputError, match=message.format("scale")):
        exact.diagonal_gaussian_kl(MEAN[:1], torch.ones(2), MEAN, torch.ones(2))


def test_a_mean_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="mean_p: expected finite values; got 1 of 2 not finite"):
        exact.gaussian_kl(MEAN, COVARIANCE, torch.tensor([0.0, torch.nan]), COVARIANCE)
