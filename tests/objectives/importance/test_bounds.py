"""Importance-weighted bounds: their values against closed forms and each other, scales, masks, weights on the KL."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from estimates import SE, alike, gradients, once, part
from own_pairs import BottomUp, D, L, TwoLayers, batch, pair
from pyro import poutine
from torch import nn

from ppl_vae import Pair
from ppl_vae.guides import LinearGaussian
from ppl_vae.models import PPCA
from ppl_vae.objectives import CIWAE, ELBO, IWELBO, MIWAE, PIWAE, Renyi, ReweightedWakeSleep
from ppl_vae.pairs.handlers import KLWeight

F64 = torch.float64
SAME = {"rtol": 1e-9, "atol": 1e-9}
ALL = {
    "iwelbo": IWELBO(4),
    "iwelbo-stl": IWELBO(4, "stl"),
    "iwelbo-dreg": IWELBO(4, "dreg"),
    "iwelbo-vimco": IWELBO(4, "vimco"),
    "renyi": Renyi(0.5, 4),
    "renyi-dreg": Renyi(2.0, 4, "dreg"),
    "renyi-max": Renyi(-math.inf, 4),
    "ciwae-stl": CIWAE(0.3, 4, "stl"),
    "miwae-dreg": MIWAE(3, 2, "dreg"),
    "piwae": PIWAE(3, 2),
    "piwae-dreg": PIWAE(3, 2, "dreg"),
    "wake": ReweightedWakeSleep(4),
    "wake-dreg": ReweightedWakeSleep(4, gradient="dreg"),
    "wake-sleep": ReweightedWakeSleep(4, insomnia=0.4),
}


def linear():
    """PPCA with a linear guide that is not its posterior, in float64, and data."""
    torch.manual_seed(3)
    model, guide = PPCA(D, L), LinearGaussian(D, L)
    for parameter in [*model.parameters(), *guide.parameters()]:
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return Pair(model, guide).to(F64), {"x": batch(6)["x"].double()}


def layers():
    """Two layers, the guide's in the other order than the model's."""
    torch.manual_seed(0)
    return Pair(TwoLayers(), BottomUp()).to(F64), {"x": batch(5)["x"].double()}


# -- identities, draw by draw -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [linear, layers])
@pytest.mark.parametrize(
    "objective",
    [IWELBO(1), IWELBO(1, "vimco"), Renyi(0.5, 1), Renyi(-math.inf, 1), CIWAE(0.3, 1), MIWAE(1, 1), PIWAE(1, 1)],
)
def test_one_particle_is_the_elbo(make, objective):
    mine, data = make()
    wanted, got = once(mine, ELBO(kl="sampled"), data), once(mine, objective, data)
    torch.testing.assert_close(got, wanted, **SAME)


@pytest.mark.parametrize("make", [linear, layers])
@pytest.mark.parametrize(
    "objective",
    [IWELBO(1, "stl"), IWELBO(1, "dreg"), Renyi(2.0, 1, "dreg"), CIWAE(0.3, 1, "stl"), PIWAE(1, 1, "dreg")],
)
def test_one_particle_without_the_direct_part_is_the_elbo_without_it(make, objective):
    mine, data = make()
    wanted, got = once(mine, ELBO(kl="sampled", gradient="stl"), data), once(mine, objective, data)
    torch.testing.assert_close(got, wanted, **SAME)
    assert not torch.allclose(got[1], once(mine, ELBO(kl="sampled"), data)[1])


@pytest.mark.parametrize("gradient", ["reparameterised", "stl", "dreg"])
def test_bounds_that_are_special_cases(gradient):
    mine, data = layers()
    iw, elbo = once(mine, IWELBO(6, gradient), data), once(mine, ELBO(6, "sampled"), data)
    torch.testing.assert_close(once(mine, Renyi(0.0, 6, gradient), data), iw, **SAME)
    torch.testing.assert_close(once(mine, CIWAE(0.0, 6, gradient), data), iw, **SAME)
    torch.testing.assert_close(once(mine, MIWAE(6, 1, gradient), data), iw, **SAME)
    torch.testing.assert_close(once(mine, PIWAE(6, 1, gradient), data), iw, **SAME)
    if gradient != "reparameterised":
        elbo = once(mine, ELBO(6, "sampled", "stl"), data)
    for objective in (Renyi(1.0, 6, gradient), CIWAE(1.0, 6, gradient), MIWAE(1, 6, gradient)):
        torch.testing.assert_close(once(mine, objective, data), elbo, **SAME)


def test_renyi_is_continuous_at_the_elbo_and_tends_to_the_largest_weight():
    mine, data = linear()
    elbo = once(mine, ELBO(6, "sampled"), data)
    for alpha in (1 - 1e-6, 1 + 1e-6):
        torch.testing.assert_close(once(mine, Renyi(alpha, 6), data), elbo, rtol=1e-4, atol=1e-4)
    for limit, near in ((-math.inf, -1e5), (math.inf, 1e5)):
        torch.testing.assert_close(
            once(mine, Renyi(limit, 6), data), once(mine, Renyi(near, 6), data), rtol=1e-4, atol=1e-4
        )
        for objective in (Renyi(limit, 6, "stl"), Renyi(near, 6, "stl")):
            torch.testing.assert_close(
                once(mine, objective, data), once(mine, Renyi(near, 6, "stl"), data), rtol=1e-4, atol=1e-4
            )


def test_combined_bound_is_a_mean_of_two():
    mine, data = layers()
    (iw, iw_grad), (elbo, elbo_grad) = once(mine, IWELBO(5), data), once(mine, ELBO(5, "sampled"), data)
    wanted = 0.3 * elbo + 0.7 * iw, 0.3 * elbo_grad + 0.7 * iw_grad
    torch.testing.assert_close(once(mine, CIWAE(0.3, 5), data), wanted, **SAME)


@pytest.mark.parametrize("gradient", ["reparameterised", "stl", "dreg"])
def test_partial_bound_takes_each_half_from_its_own(gradient):
    mine, data = layers()
    tight, loose = once(mine, IWELBO(6), data), once(mine, MIWAE(3, 2, gradient), data)
    loss, gradient = once(mine, PIWAE(3, 2, gradient), data)
    torch.testing.assert_close(loss, tight[0], **SAME)
    torch.testing.assert_close(gradient[part(mine, "model")], tight[1][part(mine, "model")], **SAME)
    torch.testing.assert_close(gradient[part(mine, "guide")], loose[1][part(mine, "guide")], **SAME)
    assert not torch.allclose(tight[1], loose[1])


def test_every_value_is_that_of_the_formula():
    """The bounds written out for log weights that a pair gives."""
    mine, data = layers()
    torch.manual_seed(0)
    w = mine.log_weights(data, 6).exp()
    groups = w.reshape(2, 3, -1).mean(1).log().mean(0)
    wanted = {
        IWELBO(6): w.mean(0).log(),
        Renyi(0.5, 6): 2 * w.sqrt().mean(0).log(),
        Renyi(3.0, 6): -0.5 * (w**-2).mean(0).log(),
        CIWAE(0.2, 6): 0.2 * w.log().mean(0) + 0.8 * w.mean(0).log(),
        MIWAE(3, 2): groups,
        PIWAE(3, 2): w.mean(0).log(),
        ReweightedWakeSleep(6): w.mean(0).log(),
    }
    for objective, bound in wanted.items():
        torch.manual_seed(0)
        torch.testing.assert_close(objective.loss(*mine.programs(), **data), -bound.sum().detach(), **SAME)


# -- against closed forms ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bounds_rise_with_the_particles_to_the_exact_value():
    mine, data = linear()
    exact = mine.model.log_marginal(data["x"]).sum().detach()
    R = 400
    draws = {}
    for K in (1, 5, 25, 125):
        draws[K] = -torch.stack([IWELBO(K).loss(*mine.programs(), **data) for _ in range(R)])
    mean = {K: values.mean() for K, values in draws.items()}
    error = {K: values.std() / R**0.5 for K, values in draws.items()}
    for small, large in ((1, 5), (5, 25), (25, 125)):
        assert mean[large] - mean[small] > SE * (error[small] ** 2 + error[large] ** 2).sqrt()
    assert mean[125] < exact + SE * error[125]
    assert exact - mean[125] < 0.05 * (exact - mean[1])


class Normal1(nn.Module):
    """z ~ N(0, 1) and nothing observed that z reaches: log p(x) is a constant, and the guide alone makes the bound."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(1, dtype=F64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros(1, dtype=F64), 1.0).to_event(1), obs=x)


class Off1(nn.Module):
    """q(z) = N(m, s^2)."""

    def __init__(self, m, s):
        super().__init__()
        self.m, self.s = nn.Parameter(torch.tensor([m], dtype=F64)), nn.Parameter(torch.tensor([s], dtype=F64))

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.m, self.s).to_event(1))


def divergence(alpha, m, s):
    """Renyi's D_alpha(N(m, s^2) || N(0, 1)) in closed form (Gil, Alajaji & Linder 2013, table 2)."""
    mixed = alpha + (1 - alpha) * s**2
    return 0.5 * alpha * m**2 / mixed + (torch.log(1 / s) + torch.log(1 / mixed) / (2 * (alpha - 1)))


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "s"), [(0.5, 0.7), (0.9, 0.6), (2.0, 1.2), (-0.5, 0.9)])
def test_renyi_against_the_closed_form(alpha, s):
    mine, data = Pair(Normal1(), Off1(0.6, s)), {"x": torch.zeros(1, 1, dtype=F64)}
    log_x = -0.5 * math.log(2 * math.pi)
    truth = divergence(alpha, mine.guide.m, mine.guide.s)[0] - log_x
    K, R = 20_000, 60
    torch.manual_seed(1)
    losses, grads = [], []
    for _ in range(R):
        loss = Renyi(alpha, K).differentiable_loss(*mine.programs(), **data)
        losses.append(loss.detach())
        grads.append(gradients(mine, loss))
    losses, grads = torch.stack(losses), torch.stack(grads)
    # The estimate's bias is about the variance of one draw over two, times |1 - alpha|: far below its standard error.
    bias = abs(1 - alpha) * losses.var() / 2
    assert bias < 0.2 * losses.std() / R**0.5
    assert (losses.mean() - truth.detach()).abs() < SE * losses.std() / R**0.5
    wanted = gradients(mine, truth)
    assert ((grads.mean(0) - wanted).abs() < (SE + 0.5) * grads.std(0) / R**0.5).all()


def test_renyi_falls_with_alpha():
    mine, data = linear()
    values = [float(once(mine, Renyi(alpha, 20), data)[0]) for alpha in (-math.inf, -1.0, 0.0, 0.5, 1.0, 3.0, math.inf)]
    assert values == sorted(values)
    assert len(set(values)) == 7


# -- scales, masks and weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_scale_that_all_sites_share_stays_outside_of_the_logarithm(name):
    mine, data = linear()
    loss, gradient = once(mine, ALL[name], data)
    scaled = [poutine.scale(program, scale=0.25) for program in mine.programs()]
    torch.testing.assert_close(once(mine, ALL[name], data, programs=scaled), (loss / 4, gradient / 4), **SAME)


@pytest.mark.parametrize("name", ["iwelbo", "iwelbo-stl", "iwelbo-vimco", "renyi", "ciwae-stl", "piwae"])
def test_a_scale_that_is_a_tensor(name):
    mine, data = linear()
    loss, gradient = once(mine, ALL[name], data)
    for scale in (torch.tensor(0.25, dtype=F64), torch.full((6,), 0.25, dtype=F64)):
        scaled = [poutine.scale(program, scale=scale) for program in mine.programs()]
        torch.testing.assert_close(once(mine, ALL[name], data, programs=scaled), (loss / 4, gradient / 4), **SAME)


def test_the_scale_inside_would_be_seen():
    mine, data = layers()
    torch.manual_seed(0)
    log_w = mine.log_weights(data, 4)
    inside = -(torch.logsumexp(0.25 * log_w, 0) - math.log(4)).sum()
    assert (once(mine, IWELBO(4), data)[0] / 4 - inside).abs() > 0.1


def test_a_scale_per_datum_weighs_the_data():
    mine, data = linear()
    counts = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0, 1.5], dtype=F64)
    torch.manual_seed(0)
    bounds = mine.log_weights(data, 4).exp().mean(0).log()
    loss = -(counts * bounds).sum()
    scaled = [poutine.scale(program, scale=counts) for program in mine.programs()]
    got = once(mine, IWELBO(4), data, programs=scaled)
    torch.testing.assert_close(got, (loss.detach(), gradients(mine, loss)), **SAME)


@pytest.mark.parametrize("name", ["iwelbo", "iwelbo-dreg", "renyi", "piwae-dreg", "wake"])
def test_a_plate_that_subsamples_scales_the_bound(name):
    mine, full = pair(), batch(12)["x"]
    rows = torch.tensor([1, 7, 8])

    def model():
        with pyro.plate("data", 12, subsample=rows, dim=-1) as index:
            z = pyro.sample("z", dist.Normal(mine.model.loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(mine.model.net(z), mine.model.scale).to_event(1), obs=full[index])

    def guide():
        with pyro.plate("data", 12, subsample=rows, dim=-1) as index:
            pyro.sample("z", dist.Normal(mine.guide.net(full[index]), mine.guide.scale).to_event(1))

    loss, gradient = once(mine, ALL[name], {"x": full[rows]})
    programs = Pair(model, guide).programs()
    torch.testing.assert_close(once(mine, ALL[name], {}, programs=programs), (4 * loss, 4 * gradient))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_a_weight_on_the_kl_goes_inside(beta):
    mine, data = layers()
    weight = KLWeight(torch.tensor(beta, dtype=F64))
    weighted = [weight(program) for program in mine.programs()]
    torch.testing.assert_close(
        once(mine, IWELBO(1), data, programs=weighted), once(mine, ELBO(kl="sampled"), data, programs=weighted), **SAME
    )
    model, guide, normal, x = mine.model, mine.guide, torch.distributions.Normal, data["x"]
    torch.manual_seed(0)
    z = mine.posterior(data, 4)  # the same draws as the bound's
    q = normal(guide.first(x), 0.5).log_prob(z["z1"]) + normal(guide.second(z["z1"]), 0.8).log_prob(z["z2"])
    p = normal(0.0, 1.0).log_prob(z["z2"]) + normal(model.up(z["z2"]), 1.0).log_prob(z["z1"])
    log_w = normal(model.out(z["z1"]), 1.0).log_prob(x).sum(-1) + beta * (p - q).sum(-1)
    wanted = -(log_w.exp().mean(0).log()).sum()
    torch.testing.assert_close(once(mine, IWELBO(4), data, programs=weighted)[0], wanted.detach(), **SAME)


@pytest.mark.parametrize("name", ALL)
def test_a_mask_leaves_data_out(name):
    """What is masked counts nothing: two masks that complete each other add up to the whole."""
    if name == "wake-sleep":
        pytest.skip("its dreams take noise of their own")
    mine, data = linear()
    kept = torch.tensor([True, False, True, True, False, True])
    parts = []
    for mask in (kept, ~kept):
        masked = [poutine.mask(program, mask=mask) for program in mine.programs()]
        parts.append(once(mine, ALL[name], data, programs=masked))
    whole = once(mine, ALL[name], data)
    torch.testing.assert_close(tuple(a + b for a, b in zip(*parts, strict=True)), whole, **SAME)


@pytest.mark.slow
def test_bounds_of_a_small_batch_and_of_one_twice_its_size():
    """Particles and data do not mix: the bound of two batches at once is the sum of theirs."""
    mine, data = layers()
    twice = {"x": data["x"].repeat(2, 1)}
    R = 300
    one = torch.stack([IWELBO(3).loss(*mine.programs(), **data) for _ in range(R)])
    two = torch.stack([IWELBO(3).loss(*mine.programs(), **twice) for _ in range(R)])
    alike(2 * one, two)
