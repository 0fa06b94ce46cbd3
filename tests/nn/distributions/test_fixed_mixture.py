"""A mixture of given weights, held against torch's own mixture and against moments in closed form."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from estimates import SE, agree
from pyro import poutine
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ppl_vae.compile.graph import record
from ppl_vae.nn.distributions.fixed_mixture import FixedMixture

F64 = torch.float64
A, L = 3, 2


@pytest.fixture
def parts():
    """Weights (2, A), one of them zero, means and standard deviations (2, A, L)."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([[0.5, 0.2, 0.3], [0.0, 0.6, 0.4]], dtype=F64)
    loc = 2 * torch.randn(2, A, L, generator=generator, dtype=F64)
    scale = 0.3 + torch.rand(2, A, L, generator=generator, dtype=F64)
    return weights, loc.requires_grad_(), scale.requires_grad_()


def mixture(weights, loc, scale):
    return FixedMixture(weights, dist.Normal(loc, scale).to_event(1))


def moments(weights, loc, scale):
    """Mean and second moments of each coordinate."""
    w = weights.unsqueeze(-1)
    return (w * loc).sum(-2), (w * (loc**2 + scale**2)).sum(-2)


def test_log_prob_equals_torch_s_own_mixture(parts):
    weights, loc, scale = parts
    theirs = MixtureSameFamily(Categorical(logits=weights.log()), Independent(Normal(loc, scale), 1))
    z = torch.randn(50, 2, L, dtype=F64, generator=torch.Generator().manual_seed(1))
    ours = mixture(*parts).log_prob(z)
    assert ours.shape == (50, 2)
    torch.testing.assert_close(ours, theirs.log_prob(z))
    torch.testing.assert_close(mixture(*parts).mean, theirs.mean)
    wanted = torch.autograd.grad(theirs.log_prob(z).sum(), [loc, scale])
    for got, truth in zip(torch.autograd.grad(ours.sum(), [loc, scale]), wanted, strict=True):
        torch.testing.assert_close(got, truth)


def test_moments_of_draws(parts):
    torch.manual_seed(0)
    z = mixture(*parts).sample((20_000,))
    assert not z.requires_grad
    mean, second = moments(*parts)
    agree(z, mean.detach(), "mean")
    agree(z**2, second.detach(), "second moment")


def test_a_component_of_no_weight_is_never_drawn(parts):
    weights, loc, scale = parts
    far = loc.detach().clone()
    far[1, 0] = 1e3
    z = mixture(weights, far, scale.detach()).sample((5000,))
    assert z[:, 1].abs().max() < 100
    assert z[:, 0].isfinite().all()


@pytest.mark.slow
def test_gradient_of_an_expectation(parts):
    """E[sum_j z_j^2 + z_0 z_1] has a gradient in closed form, in every mean and standard deviation."""
    weights, loc, scale = parts
    w = weights.unsqueeze(-1)
    exact = (w * (loc**2 + scale**2)).sum() + (weights * loc.prod(-1)).sum()
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(exact, [loc, scale])])
    torch.manual_seed(0)
    found = []
    for _ in range(400):
        z = mixture(*parts).rsample((10,))
        value = (z**2).sum((1, 2)) + z.prod(-1).sum(1)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(value.mean(), [loc, scale])]))
    agree(torch.stack(found), wanted, "gradient")


def test_gradient_at_components_of_no_weight_is_zero_and_finite(parts):
    _, loc, scale = parts
    z = mixture(*parts).rsample()
    (mixture(*parts).log_prob(z).sum() + z.sum()).backward()
    for parameter in (loc, scale):
        assert parameter.grad.isfinite().all()
        assert not parameter.grad[1, 0].any()
        assert parameter.grad[0].any()


def test_the_weights_have_no_gradient(parts):
    weights, loc, scale = parts
    mixed = mixture(weights.clone().requires_grad_(), loc, scale)
    assert not mixed.weights.requires_grad


def test_under_a_plate_of_particles_each_draws_its_own(parts):
    def program():
        with pyro.plate("particles", 500, dim=-2), pyro.plate("data", 2, dim=-1):
            return pyro.sample("z", mixture(*parts))

    torch.manual_seed(0)
    site = poutine.trace(program).get_trace().nodes["z"]
    z, wide = site["value"], site["fn"]
    assert z.shape == (500, 2, L)
    assert (wide.batch_shape, wide.event_shape, wide.has_rsample) == ((500, 2), (L,), True)
    assert len(z[:, 0].unique(dim=0)) == 500
    torch.testing.assert_close(wide.log_prob(z), mixture(*parts).log_prob(z))
    agree(z, mixture(*parts).mean, "mean")
    assert wide.expand((3, 500, 2)).sample((4,)).shape == (4, 3, 500, 2, L)


def test_recorded_equals_eager(parts):
    weights, loc, scale = parts

    def compute(loc, scale):
        mixed = mixture(weights, loc, scale)
        z = mixed.rsample((5,))
        return [z, mixed.log_prob(z)]

    torch.manual_seed(3)
    wanted = compute(loc, scale)
    graph = record(compute, [loc, scale])
    torch.manual_seed(3)
    for got, truth in zip(graph.run(loc, scale), wanted, strict=True):
        torch.testing.assert_close(got, truth)


def test_components_of_full_covariance():
    generator = torch.Generator().manual_seed(0)
    T = torch.randn(A, L, L, generator=generator, dtype=F64).tril() + 2 * torch.eye(L, dtype=F64)
    loc, weights = torch.randn(A, L, generator=generator, dtype=F64), torch.full((A,), 1 / A, dtype=F64)
    mixed = FixedMixture(weights, dist.MultivariateNormal(loc, scale_tril=T))
    torch.manual_seed(1)
    z = mixed.sample((20_000,))
    assert ((z.mean(0) - loc.mean(0)).abs() < SE * z.std(0) / 20_000**0.5).all()
    theirs = MixtureSameFamily(Categorical(weights), torch.distributions.MultivariateNormal(loc, scale_tril=T))
    torch.testing.assert_close(mixed.log_prob(z[:50]), theirs.log_prob(z[:50]))
