"""Marginal, posterior and bound of the linear-Gaussian model against SciPy, quadrature and sampling."""

import math

import pytest
import torch
from scipy.stats import multivariate_normal

from ppl_vae import exact
from ppl_vae.core.errors import InputError


def random_model(D, L, *, diagonal=False, B=6, batch=(), seed=0):
    """Return x (B, D), and W, b and the noise's standard deviation of a model, or of a batch of them, in float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(*batch, D, L, dtype=torch.float64, generator=generator)
    bias = torch.randn(*batch, D, dtype=torch.float64, generator=generator)
    scale = 0.3 + torch.rand((*batch, D) if diagonal else batch, dtype=torch.float64, generator=generator)
    return 2 * torch.randn(B, D, dtype=torch.float64, generator=generator), weight, bias, scale


def dense_covariance(weight, scale):
    return weight @ weight.mT + torch.diag(scale.expand(len(weight)) ** 2)


def latent_grid(L, half_width=8.0, points=401):
    """Return a grid over z (G, L) with spacing h, and log(p(z) h^L) on it: the trapezoid rule, exact for these."""
    line = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
    z = torch.cartesian_prod(*[line] * L).reshape(-1, L)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    return z, log_prior + L * math.log(line[1] - line[0])


def joint_on_grid(x, weight, bias, scale, z, log_prior):
    """Return log p(x, z) (B, G) of data on a grid over z."""
    likelihood = torch.distributions.Normal(z @ weight.mT + bias, scale)
    return likelihood.log_prob(x.unsqueeze(-2)).sum(-1) + log_prior


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("D", "L"), [(1, 1), (7, 2), (4, 4), (2, 5)])
def test_log_marginal_agrees_with_scipy(D, L, diagonal):
    x, weight, bias, scale = random_model(D, L, diagonal=diagonal)
    expected = multivariate_normal(bias.numpy(), dense_covariance(weight, scale).numpy()).logpdf(x.numpy())
    torch.testing.assert_close(
        exact.log_marginal(x, weight, bias, scale), torch.as_tensor(expected), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("D", "L"), [(1, 1), (3, 1), (3, 2)])
def test_marginal_and_posterior_agree_with_quadrature(D, L, diagonal):
    x, weight, bias, scale = random_model(D, L, diagonal=diagonal)
    z, log_prior = latent_grid(L)
    joint = joint_on_grid(x, weight, bias, scale, z, log_prior)
    torch.testing.assert_close(exact.log_marginal(x, weight, bias, scale), joint.logsumexp(-1), rtol=1e-9, atol=1e-9)

    probability = joint.softmax(-1)
    mean, covariance = exact.posterior(x, weight, bias, scale)
    torch.testing.assert_close(mean, probability @ z, rtol=1e-9, atol=1e-9)
    centred = z - mean.unsqueeze(-2)  # (B, G, L)
    by_quadrature = torch.einsum("bg,bgi,bgj->bij", probability, centred, centred)
    torch.testing.assert_close(covariance.expand_as(by_quadrature), by_quadrature, rtol=1e-8, atol=1e-9)


def test_posterior_covariance_is_noise_times_inverse_and_not_its_inverse():
    x, weight, bias, scale = random_model(9, 3)
    M = weight.mT @ weight + scale**2 * torch.eye(3, dtype=torch.float64)
    mean, covariance = exact.posterior(x, weight, bias, scale)
    torch.testing.assert_close(covariance, scale**2 * torch.linalg.inv(M))
    torch.testing.assert_close(mean, (x - bias) @ weight @ torch.linalg.inv(M))
    misprint = M / scale**2
    torch.testing.assert_close(covariance @ misprint, torch.eye(3, dtype=torch.float64))  # it is the inverse
    assert (covariance - misprint).norm() > 10 * covariance.norm()


def test_posterior_agrees_with_conditioning_the_joint_gaussian():
    x, weight, bias, scale = random_model(5, 2, diagonal=True)
    gain = weight.mT @ torch.linalg.inv(dense_covariance(weight, scale))
    mean, covariance = exact.posterior(x, weight, bias, scale)
    torch.testing.assert_close(mean, (x - bias) @ gain.mT)
    torch.testing.assert_close(covariance, torch.eye(2, dtype=torch.float64) - gain @ weight)


@pytest.mark.parametrize("diagonal", [False, True])
def test_a_batch_of_models_gives_what_one_at_a_time_gives(diagonal):
    x, weight, bias, scale = random_model(5, 2, diagonal=diagonal, batch=(4,))
    together = exact.log_marginal(x, weight, bias, scale)
    mean, covariance = exact.posterior(x, weight, bias, scale)
    assert (together.shape, mean.shape, covariance.shape) == ((4, 6), (4, 6, 2), (4, 2, 2))
    for i in range(4):
        torch.testing.assert_close(together[i], exact.log_marginal(x, weight[i], bias[i], scale[i]))
        one_mean, one_covariance = exact.posterior(x, weight[i], bias[i], scale[i])
        torch.testing.assert_close(mean[i], one_mean)
        torch.testing.assert_close(covariance[i], one_covariance)
    bound = exact.elbo(x, weight, bias, scale, mean, covariance.unsqueeze(-3))
    torch.testing.assert_close(bound, together)  # the posterior makes the bound tight


def test_extra_leading_dimensions_of_data():
    x, weight, bias, scale = random_model(5, 2, B=12)
    shaped = exact.log_marginal(x.reshape(3, 4, 5), weight, bias, scale)
    torch.testing.assert_close(shaped.flatten(), exact.log_marginal(x, weight, bias, scale))


@pytest.mark.parametrize("diagonal", [False, True])
def test_gradients(diagonal):
    inputs = [t.requires_grad_() for t in random_model(4, 2, diagonal=diagonal, B=3)]
    assert torch.autograd.gradcheck(exact.log_marginal, inputs)
    assert torch.autograd.gradcheck(exact.posterior, inputs)


def test_no_matrix_of_data_by_data_is_built():
    D = 200_000  # a D x D matrix would take 320 GB
    x, weight, bias, scale = random_model(D, 3, diagonal=True, B=2)
    value = exact.log_marginal(x, weight, bias, scale)
    noise = torch.distributions.Normal(bias, scale).log_prob(x).sum(-1)
    assert torch.isfinite(value).all()
    assert (value > noise - 100).all()  # W adds variance in three directions only


def test_small_noise_keeps_its_digits():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 2, generator=generator)
    x = torch.randn(20, 2, generator=generator) @ weight.mT + 1e-4 * torch.randn(20, 50, generator=generator)
    scale, bias = torch.tensor(1e-4), torch.zeros(50)
    single = exact.log_marginal(x, weight, bias, scale)
    double = exact.log_marginal(x.double(), weight.double(), bias.double(), scale.double())
    assert single.dtype == torch.float32
    # Float32 rounds x, of size 3, by 2e-7: 0.2% of the noise. The usual form of Woodbury loses everything here.
    torch.testing.assert_close(single.double(), double, rtol=0.01, atol=0)


def test_elbo_falls_short_of_the_marginal_by_the_kl_to_the_posterior():
    x, weight, bias, scale = random_model(6, 2, diagonal=True)
    generator = torch.Generator().manual_seed(1)
    mean_q = torch.randn(6, 2, dtype=torch.float64, generator=generator)
    covariance_q = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
    bound = exact.elbo(x, weight, bias, scale, mean_q, covariance_q)
    gap = exact.gaussian_kl(mean_q, covariance_q, *exact.posterior(x, weight, bias, scale))
    torch.testing.assert_close(bound + gap, exact.log_marginal(x, weight, bias, scale))
    per_datum = exact.elbo(x, weight, bias, scale, mean_q, covariance_q.expand(6, 2, 2))
    torch.testing.assert_close(per_datum, bound)


def test_elbo_agrees_with_samples():
    x, weight, bias, scale = random_model(4, 2, B=1)
    mean_q, root = torch.tensor([[0.3, -0.4]], dtype=torch.float64), torch.tensor([[0.6, 0.0], [0.2, 0.4]]).double()
    noise = torch.randn(200_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    z = mean_q + noise @ root.mT
    log_q = torch.distributions.MultivariateNormal(mean_q, scale_tril=root).log_prob(z)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_weight = joint_on_grid(x, weight, bias, scale, z, log_prior)[0] - log_q
    bound = exact.elbo(x, weight, bias, scale, mean_q, root @ root.mT)[0]
    assert ((log_weight.mean() - bound) / (log_weight.std() / len(z) ** 0.5)).abs() < 4


GOOD = {"x": torch.zeros(2, 3), "weight": torch.ones(3, 1), "bias": torch.zeros(3), "scale": torch.tensor(1.0)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 4)}, r"x: expected shape \(..., B, 3\) for this weight; got \(2, 4\)"),
        ({"x": torch.zeros(3)}, r"x: expected shape \(..., B, 3\) for this weight; got \(3,\)"),
        ({"x": torch.full((2, 3), torch.nan)}, "x: expected finite values; got 6 of 6 not finite"),
        ({"weight": torch.ones(3)}, r"weight: expected shape \(..., D, L\); got \(3,\)"),
        ({"weight": torch.full((3, 1), torch.inf)}, "weight: expected finite values; got 3 of 3 not finite"),
        ({"bias": torch.zeros(1)}, r"bias: expected shape \(..., 3\) for this weight; got \(1,\)"),
        ({"scale": torch.ones(2)}, r"scale: expected a scalar or shape \(..., 3\); got \(2,\)"),
        (
            {"scale": torch.tensor(-0.5)},
            "scale: expected positive standard deviations; got a smallest value of -0.5; try",
        ),
        ({"scale": torch.tensor([1.0, 0.0, 1.0])}, "scale: expected positive standard deviations; got .* of 0; try"),
    ],
)
def test_bad_input(change, message):
    for function in (exact.log_marginal, exact.posterior):
        with pytest.raises(InputError, match=message) as caught:
            function(**(GOOD | change))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        exact.elbo(**(GOOD | change), mean_q=torch.zeros(2, 1), covariance_q=torch.ones(1, 1))


def test_elbo_refuses_a_covariance_that_is_none():
    with pytest.raises(InputError, match="covariance_q: expected a positive definite covariance"):
        exact.elbo(**GOOD, mean_q=torch.zeros(2, 1), covariance_q=-torch.ones(1, 1))
