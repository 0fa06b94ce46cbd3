"""Score-function estimators by value: the gradient of one set of draws, each term of it written out by hand.

Their mean is the same for all control variates, and their variance is seldom looked at.
"""

from __future__ import annotations

import math

import pytest
import torch
from estimates import gradients, once, part
from own_pairs import SharedSwitch, SharedSwitchGuide, Switch, SwitchGuide

from ppl_vae import Pair
from ppl_vae.objectives import ELBO, IWELBO
from ppl_vae.pairs.sites import trace_pair

F64 = torch.float64


def switch():
    torch.manual_seed(0)
    return Pair(Switch(), SwitchGuide()).to(F64), {"x": torch.tensor([[-1.5], [0.2], [2.0]], dtype=F64)}


def draws(mine, data, K, seed):
    """Return log p(x, k) and log q(k|x), (K, B) with gradients, of the draws that an objective gets by that seed."""
    torch.manual_seed(seed)
    run = trace_pair(*mine.programs(), (), data, K)
    k = run.guide["k"]["value"]
    return [torch.stack([s[name]["fn"].log_prob(k if name == "k" else s[name]["value"]) for name in s]).sum(0)
            for s in (run.model, run.guide)]  # fmt: skip


def log_mean(weights):
    return math.log(sum(map(math.exp, weights)) / len(weights))


def vimco_by_hand(log_p, log_q):
    """Return a tensor whose gradient is VIMCO's of the bound (Mnih & Rezende 2016, eqs. 5, 7, 8 and 10)."""
    K, B = log_p.shape
    total = torch.zeros((), dtype=F64)
    for b in range(B):
        w = [(log_p[k, b] - log_q[k, b]).item() for k in range(K)]
        bound, whole = log_mean(w), sum(map(math.exp, w))
        for k in range(K):
            others = [w[j] for j in range(K) if j != k]
            without = log_mean([*others, sum(others) / len(others)]) if others else 0.0
            total = total + (bound - without) * log_q[k, b]
            total = total + math.exp(w[k]) / whole * (log_p[k, b] - log_q[k, b])
    return total


@pytest.mark.parametrize("K", [1, 2, 3, 7])
def test_vimco_of_given_draws(K):
    mine, data = switch()
    for seed in range(5):
        _, got = once(mine, IWELBO(K, "vimco"), data, seed)
        wanted = gradients(mine, -vimco_by_hand(*draws(mine, data, K, seed)))
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
        assert (wanted[part(mine, "guide")] != 0).all()


def test_vimco_where_one_weight_leads():
    """exp(700) to 1: what is left without the leading weight, and the others, are as exact as elsewhere."""
    mine, data = switch()
    with torch.no_grad():
        mine.model.loc.copy_(torch.tensor([0.0, 37.0]))
    data = {"x": torch.tensor([[37.0], [0.0]], dtype=F64)}
    log_p, log_q = draws(mine, data, 4, 0)
    assert ((log_p - log_q).amax(0) - (log_p - log_q).amin(0)).max() > 600
    _, got = once(mine, IWELBO(4, "vimco"), data, 0)
    torch.testing.assert_close(got, gradients(mine, -vimco_by_hand(log_p, log_q)), rtol=1e-10, atol=1e-12)


def elbo_by_hand(log_p, log_q):
    """Return a tensor whose gradient is the score function's, the mean of the other draws as its baseline.

    The direct gradient of -log q, whose mean is zero, is no part of it, as in Pyro's Trace_ELBO.
    """
    K, B = log_p.shape
    total = torch.zeros((), dtype=F64)
    for b in range(B):
        bound = [(log_p[k, b] - log_q[k, b]).item() for k in range(K)]
        for k in range(K):
            others = [bound[j] for j in range(K) if j != k]
            baseline = sum(others) / len(others) if others else 0.0
            total = total + ((bound[k] - baseline) * log_q[k, b] + log_p[k, b]) / K
    return total


@pytest.mark.parametrize("K", [1, 2, 3, 7])
def test_elbo_of_given_draws(K):
    mine, data = switch()
    reached = False  # draws that are all alike leave the guide no gradient
    for seed in range(5):
        _, got = once(mine, ELBO(K, kl="sampled"), data, seed)
        wanted = gradients(mine, -elbo_by_hand(*draws(mine, data, K, seed)))
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
        reached = reached or bool((wanted[part(mine, "guide")] != 0).any())
    assert reached


@pytest.mark.parametrize("K", [2, 5])
def test_elbo_of_given_draws_of_a_latent_that_the_data_share(K):
    mine, data = Pair(SharedSwitch(), SharedSwitchGuide()).to(F64), switch()[1]
    for seed in range(5):
        _, got = once(mine, ELBO(K, kl="sampled"), data, seed)
        torch.manual_seed(seed)
        run = trace_pair(*mine.programs(), (), data, K)
        model, guide = run.model, run.guide
        k = guide["k"]["value"]
        log_p = model["k"]["fn"].log_prob(k) + model["x"]["fn"].log_prob(data["x"]).sum(-1, keepdim=True)
        log_q = guide["k"]["fn"].log_prob(k)
        wanted = gradients(mine, -elbo_by_hand(log_p.reshape(K, 1), log_q.reshape(K, 1)))
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
