"""Latents summed out one after the other: held against the forward algorithm, and against all sums at once."""

from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_vae
from ppl_vae import Pair
from ppl_vae.objectives import ELBO
from ppl_vae.objectives.elimination import at_dims, factor, log_sum

N, T, C = 6, 12, 3


class Chain(nn.Module):
    """A hidden Markov model of each datum, `order` steps of memory."""

    def __init__(self, order=1):
        super().__init__()
        torch.manual_seed(0)
        self.order = order
        self.start = nn.Parameter(torch.randn(C))
        self.move = nn.Parameter(torch.randn(*(C,) * order, C))
        self.emit = nn.Parameter(torch.randn(C))

    def model(self, x):
        with pyro.plate("data", len(x)):
            states = [torch.tensor(0)] * self.order
            for t in pyro.markov(range(x.shape[1]), history=self.order):
                state = pyro.sample(
                    f"k_{t}", dist.Categorical(logits=self.move[tuple(states)]), infer={"enumerate": "parallel"}
                )
                pyro.sample(f"x_{t}", dist.Normal(self.emit[state], 1.0), obs=x[:, t])
                states = [*states[1:], state]

    def guide(self, x):
        pass

    def forward_algorithm(self, x):
        """log p(x) of one sequence, for a memory of one step."""
        log_move, log_start = self.move.log_softmax(-1), self.move[0].log_softmax(-1)
        alpha = log_start + dist.Normal(self.emit, 1.0).log_prob(x[0])
        for value in x[1:]:
            alpha = (alpha[:, None] + log_move).logsumexp(0) + dist.Normal(self.emit, 1.0).log_prob(value)
        return alpha.logsumexp(0)

    def all_paths(self, x):
        total = []
        for path in itertools.product(range(C), repeat=len(x)):
            log_p, states = 0.0, [0] * self.order
            for state, value in zip(path, x, strict=True):
                log_p += self.move[tuple(states)].log_softmax(-1)[state] + dist.Normal(self.emit[state], 1.0).log_prob(
                    value
                )
                states = [*states[1:], state]
            total.append(log_p)
        return torch.stack(total).logsumexp(0)


def sequences(steps=T):
    return torch.randn(N, steps, generator=torch.Generator().manual_seed(1))


def bound(pair, x, particles=1):
    pair.check({"x": x})
    pair.zero_grad()
    loss = ELBO(particles).differentiable_loss(*pair.programs(), x=x)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in pair.parameters() if p.grad is not None]


def test_the_bound_of_a_chain_is_that_of_the_forward_algorithm():
    chain, x = Chain(), sequences()
    loss, gradients = bound(Pair(chain.model, chain.guide), x)
    chain.zero_grad()
    wanted = -torch.stack([chain.forward_algorithm(row) for row in x]).sum()
    wanted.backward()
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-5, atol=1e-5)
    for got, parameter in zip(gradients, (chain.move, chain.emit), strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [1, 2])
def test_a_chain_of_longer_memory_is_summed_over_all_paths(order):
    chain, x = Chain(order), sequences(4)[:3]
    loss, _ = bound(Pair(chain.model, chain.guide), x)
    wanted = -sum(chain.all_paths(row) for row in x)
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-5, atol=1e-4)


def test_a_chain_has_the_same_bound_for_several_particles():
    chain, x = Chain(), sequences()
    pair = Pair(chain.model, chain.guide)
    torch.testing.assert_close(bound(pair, x)[0], bound(pair, x, 3)[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("compile", ["off", "graph"])
def test_a_chain_is_fitted(compile):
    chain = Chain()
    run = ppl_vae.fit(
        Pair(chain.model, chain.guide), {"x": sequences()}, epochs=5, lr=0.05, compile=compile, progress=False
    )
    assert run.history["train_bound"][-1] > run.history["train_bound"][0]
    assert set(run.config["step"]["paths"].values()) == {"eager" if compile == "off" else "graph"}


def test_factors_are_summed_as_all_at_once():
    torch.manual_seed(0)
    one, two, three = torch.randn(4, 1, 1, 5), torch.randn(4, 3, 1, 5), torch.randn(3, 2, 5)
    dims = {-4: 10, -3: 20, -2: 30}
    factors = [factor(value, dims, 1) for value in (one, two, three)]
    together = one + two + three
    torch.testing.assert_close(at_dims(log_sum(factors, {10, 30}), {20: -3}, 1), together.logsumexp((0, 2), True)[0])
    torch.testing.assert_close(at_dims(log_sum(factors, {10, 20, 30}), {}, 1), together.logsumexp((0, 1, 2)))
