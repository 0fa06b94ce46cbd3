"""The parts of a KL by the aggregate posterior: against quadrature, the ELBO, and a known density ratio."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from estimates import agree, once
from own_pairs import BottomUp, D, L, TwoLayers, batch, pair
from scipy.special import logsumexp
from scipy.stats import norm
from torch import nn

from ppl_vae import InputError, Pair, PairError
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.objectives import ELBO, BetaTCVAE, FactorVAE
from ppl_vae.pairs.handlers import KLWeight

PARTS = ("mutual_information", "total_correlation", "dimension_kl")


def quadrature(mean, scale):
    """The parts of the KL, in nats, of q(z) = 1/N sum_n N(mean[n], diag(scale)^2) in two dimensions."""
    axis = np.linspace(-9, 9, 721)
    step = axis[1] - axis[0]
    each = [norm.logpdf(axis[:, None], mean[:, j], scale[j]) for j in (0, 1)]  # (grid, N)
    log_q = logsumexp(each[0][:, None] + each[1][None], axis=-1) - math.log(len(mean))
    marginals = [logsumexp(one, axis=-1) - math.log(len(mean)) for one in each]
    entropy = -(np.exp(log_q) * log_q).sum() * step**2
    alone = [-(np.exp(one) * one).sum() * step for one in marginals]
    given_x = sum(0.5 * math.log(2 * math.pi * math.e * s**2) for s in scale)
    to_prior = sum((np.exp(one) * (one - norm.logpdf(axis))).sum() * step for one in marginals)
    return entropy - given_x, sum(alone) - entropy, to_prior


def linear(spread=2.0):
    """A pair whose codes follow a diagonal line, so that their coordinates depend on each other, and its data."""
    mine = pair()
    with torch.no_grad():
        mine.guide.net.weight.mul_(spread)
        mine.guide.net.weight[1] = 0.8 * mine.guide.net.weight[0]
    return mine, batch(12)


def drawn(mine, data, objective, repeats=1500):
    torch.manual_seed(0)
    with torch.no_grad():
        rows = [objective.parts(*mine.programs(), **data) for _ in range(repeats)]
    return torch.stack([torch.stack([row[name] for name in PARTS]) for row in rows]) / len(data["x"])


@pytest.mark.slow
def test_the_parts_of_the_whole_data_against_quadrature():
    mine, data = linear()
    mean, scale = (t.detach().double().numpy() for t in (mine.guide.net(data["x"]), mine.guide.scale))
    truth = torch.tensor(quadrature(mean, scale), dtype=torch.float32)
    assert truth[1] > 0.1
    agree(drawn(mine, data, BetaTCVAE(len(data["x"]))), truth, "parts")


def test_weighted_sampling_of_the_whole_data_is_off_by_log_n_per_factor():
    # 1/(N B) in the place of 1/N takes log N from log q(z) and from each log q(z_j).
    mine, data = linear()
    N = len(data["x"])
    right, other = (drawn(mine, data, BetaTCVAE(N, sampling=how), 20) for how in ("stratified", "weighted"))
    shift = math.log(N) * torch.tensor([1.0, L - 1, -L])
    torch.testing.assert_close(other, right + shift.expand_as(right), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_stratified_batches_have_the_mean_of_the_whole():
    # Over all batches of three the estimate of q(z_i) has the mean q(z_i) exactly.
    mine, data = linear()
    N, B = 6, 3
    x = data["x"][:N]
    z = mine.guide.net(x).detach() + 0.3
    pairwise = torch.distributions.Normal(mine.guide.net(x), mine.guide.scale).log_prob(z[:, None]).sum(-1).detach()
    objective = BetaTCVAE(N)
    found = [[] for _ in range(N)]
    for chosen in itertools.combinations(range(N), B):
        index = torch.tensor(chosen)
        rows = (pairwise[index][:, index] + objective._log_weights(B, pairwise)).logsumexp(1).exp()
        for i, value in zip(chosen, rows, strict=True):
            found[i].append(value)
    means = torch.stack([torch.stack(values).mean() for values in found])
    torch.testing.assert_close(means, pairwise.exp().mean(1))


@pytest.mark.parametrize("sampling", ["stratified", "weighted"])
def test_with_weights_of_one_it_is_the_elbo_draw_by_draw(sampling):
    mine, data = linear()
    value, gradient = once(mine, BetaTCVAE(50, beta=1.0, sampling=sampling), data)
    elbo, slope = once(mine, ELBO(kl="sampled"), data)
    torch.testing.assert_close(value, elbo)
    torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-4)


def test_each_weight_weighs_its_own_part():
    mine, data = linear()
    torch.manual_seed(0)
    parts = BetaTCVAE(50).parts(*mine.programs(), **data)
    weights = {"alpha": 0.5, "beta": 3.0, "gamma": 2.0}
    value, _ = once(mine, BetaTCVAE(50, **weights), data)
    expected = parts["distortion"] + sum(w * parts[p] for w, p in zip(weights.values(), PARTS, strict=True))
    torch.testing.assert_close(value, expected.detach(), check_dtype=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_size": 1}, "data_size: expected an integer >= 2; got 1"),
        ({"data_size": 9, "beta": -1.0}, "beta: expected a number, 0 or more; got -1.0"),
        ({"data_size": 9, "alpha": "x"}, "alpha: expected a number, 0 or more; got 'x'"),
        ({"data_size": 9, "sampling": "stratifed"}, "unknown sampling: .* try 'stratified'"),
    ],
)
def test_bad_options_of_beta_tcvae(options, message):
    with pytest.raises(InputError, match=message):
        BetaTCVAE(**options)


def test_what_cannot_be_taken_apart_is_refused():
    data = batch(4)
    full = Pair(VAE(D, L, likelihood="normal"), AmortizedNormal(D, L, covariance="full"))
    for objective in (BetaTCVAE(9), FactorVAE(L)):
        with pytest.raises(PairError, match=r"site 'z': expected for .* one latent per datum.* got Multiv"):
            objective.loss(*full.programs(), **data)
        with pytest.raises(PairError, match="got 2 latents"):
            objective.loss(*Pair(TwoLayers(), BottomUp()).programs(), **data)
    mine = pair()
    weight = KLWeight(2.0)
    with pytest.raises(PairError, match=r"expected no scale and no mask.*try kl_weight=1.0"):
        BetaTCVAE(9).loss(*map(weight, mine.programs()), **data)
    with pytest.raises(InputError, match=r"batch: expected 2 to 9 data, .* got 1; try another batch_size"):
        BetaTCVAE(9).loss(*mine.programs(), x=data["x"][:1])


# -- the density ratio ------------------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """Linear in z and its products of two: the log ratio of a Normal to the product of its marginals has that form."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 1)
        nn.init.zeros_(self.linear.weight)

    def forward(self, z):
        return self.linear(torch.cat([z, z.square(), z.prod(-1, keepdim=True)], -1))


@pytest.mark.slow
def test_the_density_ratio_finds_a_known_total_correlation():
    rho = 0.8
    truth = torch.tensor(-0.5 * math.log(1 - rho**2))  # of a Normal with correlation rho
    root = torch.tensor([[1.0, 0.0], [rho, math.sqrt(1 - rho**2)]])
    found = []
    for seed in range(12):
        torch.manual_seed(seed)
        objective = FactorVAE(2)
        objective.module = Quadratic()
        z = torch.randn(4000, 2) @ root.T
        lbfgs = torch.optim.LBFGS(objective.module.parameters(), max_iter=60, line_search_fn="strong_wolfe")

        def cross_entropy(seed=seed, objective=objective, z=z, lbfgs=lbfgs):
            torch.manual_seed(seed)  # one permutation for all iterations
            lbfgs.zero_grad()
            loss = objective.classification(z)
            loss.backward()
            return loss

        lbfgs.step(cross_entropy)
        found.append(objective.total_correlation(torch.randn(20_000, 2) @ root.T).detach())
    agree(torch.stack(found), truth, "total correlation")
    assert torch.stack(found).std() < 0.1 * truth


def test_the_value_is_the_bound_less_gamma_times_the_ratio():
    mine, data = linear()
    objective = FactorVAE(L, gamma=5.0, hidden=(8,))
    value, _ = once(mine, objective, data)
    torch.manual_seed(0)
    elbo = ELBO().loss(*mine.programs(), **data)
    torch.manual_seed(0)
    z = mine.posterior(data)["z"][0]
    torch.testing.assert_close(value, elbo + 5.0 * objective.module(z).sum().detach())


def test_the_classifier_and_the_pair_do_not_reach_each_other():
    mine, data = linear()

    def gradients(gamma):
        torch.manual_seed(0)
        objective = FactorVAE(L, gamma=gamma, hidden=(8,))
        for p in [*mine.parameters(), *objective.module.parameters()]:
            p.grad = None
        torch.manual_seed(1)
        objective.differentiable_loss(*mine.programs(), **data).backward()
        parts = (mine.model, mine.guide, objective.module)
        return [torch.cat([p.grad.flatten() for p in part.parameters()]) for part in parts]

    model, guide, classifier = gradients(0.0)
    with_penalty = gradients(7.0)
    torch.testing.assert_close(with_penalty[0], model)
    torch.testing.assert_close(with_penalty[2], classifier)
    assert (with_penalty[1] - guide).abs().max() > 1e-3
    torch.manual_seed(1)
    _, slope = once(mine, ELBO(), data, seed=1)
    torch.testing.assert_close(torch.cat([model, guide]), slope)


def test_permuted_codes_keep_each_coordinate():
    seen = []

    class Watching(nn.Module):
        def forward(self, z):
            seen.append(z)
            return z.sum(-1, keepdim=True)

    objective = FactorVAE(3)
    objective.module = Watching()
    z = torch.randn(40, 3)
    objective.classification(z)
    torch.testing.assert_close(seen[1].sort(0).values, z.sort(0).values)
    assert not torch.equal((seen[1][:, 0] - z[:, 0]), (seen[1][:, 1] - z[:, 1]))
    rows = {tuple(row.tolist()) for row in z}
    assert sum(tuple(row.tolist()) in rows for row in seen[1]) < 5
