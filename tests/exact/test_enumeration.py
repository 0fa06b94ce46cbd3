"""Discrete latents summed out, against loops over every configuration."""

import math
from itertools import product

import pytest
import torch

from ppl_vae.core.errors import InputError
from ppl_vae.exact import Enumeration


def random_table(sizes, B=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(B, *sizes, generator=generator, dtype=dtype) - 50


def loops(table, q):
    """Return log p(x), p(y|x) as a list of dicts, and the bound under q, by plain loops over floats."""
    evidence, posteriors, bounds = [], [], []
    for row, q_row in zip(table, q, strict=True):
        cells = list(product(*(range(size) for size in row.shape)))
        total = math.fsum(math.exp(row[cell].item()) for cell in cells)
        evidence.append(math.log(total))
        posteriors.append({cell: math.exp(row[cell].item()) / total for cell in cells})
        terms = (q_row[cell].item() * (row[cell].item() - math.log(q_row[cell].item())) for cell in cells)
        bounds.append(math.fsum(terms))
    return evidence, posteriors, bounds


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(2,), (5,), (3, 4), (2, 3, 2), (1, 3)])
def test_agrees_with_loops(sizes, dtype):
    for seed in range(5):
        table = random_table(sizes, seed=seed, dtype=dtype)
        q = random_table(sizes, seed=seed + 100, dtype=dtype).flatten(1).softmax(-1).reshape(table.shape)
        evidence, posteriors, bounds = loops(table, q)
        exact = Enumeration(table)
        torch.testing.assert_close(exact.log_marginal, torch.tensor(evidence, dtype=dtype))
        torch.testing.assert_close(exact.elbo(q), torch.tensor(bounds, dtype=dtype))
        for i, posterior in enumerate(posteriors):
            for cell, share in posterior.items():
                assert exact.posterior[(i, *cell)].item() == pytest.approx(share, rel=1e-4)
            for latent, size in enumerate(sizes):
                for value in range(size):
                    alone = math.fsum(share for cell, share in posterior.items() if cell[latent] == value)
                    assert exact.marginal(latent)[i, value].item() == pytest.approx(alone, rel=1e-4)


def test_asks_a_callable_at_every_configuration_in_order():
    """Two biased coins y1, y2 and x = y1 + y2 + noise, by the definition of the joint."""
    x = torch.tensor([0.2, 1.4, 2.5], dtype=torch.float64)
    one, two = torch.tensor([0.3, 0.7]).double(), torch.tensor([0.6, 0.1, 0.3]).double()

    def log_joint(y1, y2):
        assert (y1.shape, y2.shape) == ((6, 1), (6, 1))
        return one[y1].log() + two[y2].log() + torch.distributions.Normal((y1 + y2).double(), 0.5).log_prob(x)

    exact = Enumeration.of(log_joint, (2, 3))
    assert exact.log_joint.shape == (3, 2, 3)
    for i, a, b in product(range(3), range(2), range(3)):
        density = math.exp(-0.5 * ((x[i].item() - a - b) / 0.5) ** 2) / (0.5 * math.sqrt(2 * math.pi))
        expected = math.log(one[a].item() * two[b].item() * density)
        assert exact.log_joint[i, a, b].item() == pytest.approx(expected, rel=1e-6)


def test_the_posterior_makes_the_bound_tight_and_factors_fall_short_by_the_total_correlation():
    exact = Enumeration(random_table((3, 4, 2)))
    torch.testing.assert_close(exact.elbo(exact.posterior), exact.log_marginal)
    factors = [exact.marginal(latent) for latent in range(3)]
    outer = torch.einsum("ba,bc,bd->bacd", *factors)
    total_correlation = (outer * (outer / exact.posterior).log()).flatten(1).sum(-1)
    torch.testing.assert_close(exact.elbo(*factors), exact.log_marginal - total_correlation)
    assert (total_correlation > 0.01).all()


def test_what_cannot_be():
    table = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf]]).double()
    exact = Enumeration(table)
    assert exact.log_marginal.tolist() == [0.0, -math.inf]
    with pytest.raises(InputError, match=r"posterior: expected data with p\(x\) > 0; got 1 with p\(x\) = 0"):
        _ = exact.posterior
    certain, wrong = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.5, 0.5]]).double()
    assert Enumeration(table[:1]).elbo(certain) == 0
    assert Enumeration(table[:1]).elbo(wrong) == -math.inf
    assert Enumeration(table[:1]).posterior.tolist() == [[1.0, 0.0]]


def test_gradients():
    table = random_table((2, 3), B=2).requires_grad_()
    logits = random_table((6,), B=2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda table: Enumeration(table).log_marginal, (table,))
    assert torch.autograd.gradcheck(
        lambda table, logits: Enumeration(table).elbo(logits.softmax(-1).reshape(2, 2, 3)), (table, logits)
    )


TABLE = torch.zeros(4, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Enumeration(torch.zeros(3)), r"log_joint: expected shape \(B, C_1, ..., C_n\); got \(3,\)"),
        (lambda: Enumeration(torch.zeros(3, 0)), r"log_joint: expected shape \(B, C_1, ..., C_n\); got \(3, 0\)"),
        (lambda: Enumeration(TABLE / 0), "log_joint: expected log probabilities; got 24 of 24 NaN or plus infinity"),
        (lambda: Enumeration(TABLE + math.inf), "log_joint: expected log probabilities; got 24 of 24 NaN"),
        (lambda: Enumeration(TABLE).marginal(2), "latent: expected a number from 0 to 1; got 2"),
        (
            lambda: Enumeration(TABLE).elbo(TABLE),
            "q: expected probabilities that sum to one; got .* sums from 0 to 0; try",
        ),
        (lambda: Enumeration(TABLE).elbo(TABLE[:, 0]), r"q: expected shape \('B', 2, 3\), or a factor .* \(4, 3\)"),
        (lambda: Enumeration(TABLE).elbo(), "q: expected .* got none"),
        (lambda: Enumeration(TABLE).elbo(TABLE[:, 0], TABLE[:, 0]), r"q: expected .* got \(4, 3\), \(4, 3\)"),
        (lambda: Enumeration.of(lambda y: y, ()), r"sizes: expected the number of classes .* got \(\)"),
        (lambda: Enumeration.of(lambda y: y, (2, 0)), r"sizes: expected the number of classes .* got \(2, 0\)"),
        (lambda: Enumeration.of(lambda y: y[:, 0], (2,)), r"log_joint: expected shape \(2, B\); got \(2,\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
