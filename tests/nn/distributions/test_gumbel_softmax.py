"""The straight-through Gumbel-softmax: draws of a categorical, the gradient of the relaxed ones."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from pyro.distributions import OneHotCategorical
from torch.distributions import kl_divergence
from torch.nn import functional as F

from ppl_vae.nn.distributions.gumbel_softmax import GumbelSoftmax

F64 = torch.float64
LOGITS = torch.tensor([[0.3, -1.0, 1.2, 0.0], [2.0, 0.0, -3.0, 0.5]], dtype=F64)


@pytest.mark.parametrize("temperature", [0.01, 0.5, 5.0])
def test_draws_have_the_frequencies_of_the_categorical(temperature):
    n = 20_000
    drawn = GumbelSoftmax(temperature, LOGITS).rsample((n,))
    assert drawn.shape == (n, 2, 4)
    assert torch.equal(drawn.sort(-1).values, torch.eye(4, dtype=F64)[-1].expand(n, 2, 4))  # one-hot to the last bit
    for row in range(2):
        expected = n * LOGITS[row].softmax(-1)
        assert scipy.stats.chisquare(drawn[:, row].sum(0), expected).pvalue > 1e-5
    # Against the next row's probabilities it would be seen.
    assert scipy.stats.chisquare(drawn[:, 0].sum(0), n * LOGITS[1].softmax(-1)).pvalue < 1e-9


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_gradient_is_that_of_the_relaxed_draw(temperature):
    """As torch's own function has it, from the same noise."""
    weight, found = torch.randn(2, 4, dtype=F64), []
    for draw in (
        lambda logits: GumbelSoftmax(temperature, logits).rsample(),
        lambda logits: F.gumbel_softmax(logits.log_softmax(-1), temperature, hard=True),
    ):
        logits = LOGITS.clone().requires_grad_()
        torch.manual_seed(3)
        value = draw(logits)
        found.append((value.detach(), *torch.autograd.grad((value * weight).sum(), logits)))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_sampling_has_no_gradient():
    relaxed = GumbelSoftmax(0.5, LOGITS.clone().requires_grad_())
    assert relaxed.has_rsample
    assert relaxed.rsample().requires_grad
    assert not relaxed.sample().requires_grad


def test_log_prob_and_kl_are_those_of_the_categorical():
    relaxed, plain = GumbelSoftmax(0.5, LOGITS), OneHotCategorical(logits=LOGITS)
    codes = torch.eye(4, dtype=F64).unsqueeze(1)
    torch.testing.assert_close(relaxed.log_prob(codes), plain.log_prob(codes))
    prior = OneHotCategorical(logits=torch.zeros(4, dtype=F64))
    by_hand = (LOGITS.softmax(-1) * (LOGITS.log_softmax(-1) + torch.tensor(4.0, dtype=F64).log())).sum(-1)
    torch.testing.assert_close(kl_divergence(relaxed, prior), by_hand)
    with pytest.raises(ValueError, match="support"):
        GumbelSoftmax(0.5, LOGITS, validate_args=True).log_prob(torch.full((2, 4), 0.25, dtype=F64))


def test_log_prob_has_a_gradient_through_the_draw():
    logits = LOGITS.clone().requires_grad_()
    relaxed = GumbelSoftmax(0.5, logits)
    value = relaxed.rsample()
    (slope,) = torch.autograd.grad(relaxed.log_prob(value).sum(), value)
    torch.testing.assert_close(slope, LOGITS.log_softmax(-1))


def test_expanding_keeps_the_temperature():
    relaxed = GumbelSoftmax(0.3, LOGITS[0]).expand((5, 2))
    assert isinstance(relaxed, GumbelSoftmax)
    assert relaxed.temperature == 0.3
    assert relaxed.batch_shape == (5, 2)
    assert relaxed.rsample((3,)).shape == (3, 5, 2, 4)
    assert len(relaxed.rsample((20,)).reshape(-1, 4).unique(dim=0)) == 4  # each draw is one of its own
