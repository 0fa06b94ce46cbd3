"""Cheaper forms in graphs that are compiled: the same numbers to rounding, infinities and NaN included."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from ppl_vae.compile.rewrites import _factors, rewrite

EPS = torch.finfo(torch.float32).eps


def rewritten(compute, *values):
    return rewrite(make_fx(compute)(*values))


def targets(graph):
    graph.graph.eliminate_dead_code()
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def log_bernoulli(logits, x, dims=(-1,)):
    return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(dims)


def summed(dims):
    return lambda logits, x: (-F.binary_cross_entropy_with_logits(logits, x, reduction="none")).sum(dims)


def logits_and_x(*shape, scale=3.0):
    random = torch.Generator().manual_seed(0)
    return scale * torch.randn(*shape, generator=random), torch.rand(*shape, generator=random).round()


@pytest.mark.parametrize("dims", [(-1,), (1,), (0, 1), (-1, 0)])
@pytest.mark.parametrize("scale", [0.01, 3.0, 100.0])
@pytest.mark.parametrize("D", [784, 64, 100])
def test_log_probabilities_of_a_bernoulli(dims, scale, D):
    logits, x = logits_and_x(50, D, scale=scale)
    graph = rewritten(summed(dims), logits, x)
    assert not any("binary_cross_entropy" in target for target in targets(graph))
    found, expected = graph(logits, x), log_bernoulli(logits.double(), x.double(), dims)
    assert found.shape == expected.shape
    size = log_bernoulli(-logits.abs().double(), torch.ones_like(x).double(), dims).abs().max()  # of the largest terms
    assert (found - expected).abs().max() < 4 * EPS * max(size, D)


def test_targets_between_zero_and_one():
    logits, x = logits_and_x(5, 64)
    x = 0.3 * x + 0.2
    found = rewritten(summed((-1,)), logits, x)(logits, x)
    torch.testing.assert_close(found.double(), log_bernoulli(logits.double(), x.double()), rtol=8 * EPS, atol=0)


def test_logits_that_are_not_finite():
    logits, x = logits_and_x(8, 32)
    for row, value in enumerate((torch.inf, -torch.inf, torch.nan)):
        logits[2 * row, 3] = logits[2 * row + 1, 3] = value
        x[2 * row, 3], x[2 * row + 1, 3] = 0.0, 1.0
    expected = log_bernoulli(logits, x)
    assert expected.isneginf().any()
    assert expected.isnan().any()
    torch.testing.assert_close(rewritten(summed((-1,)), logits, x)(logits, x), expected, equal_nan=True)


@pytest.mark.parametrize(
    "compute",
    [
        summed((0,)),
        lambda logits, x: F.binary_cross_entropy_with_logits(logits, x),
        lambda logits, x: (-F.binary_cross_entropy_with_logits(logits, x, x, reduction="none")).sum(-1),
        lambda logits, x: (-F.binary_cross_entropy_with_logits(logits, x, reduction="none")).sum(-1, keepdim=True),
        lambda logits, x: summed((-1,))(logits.double(), x.double()),
        lambda logits, x: summed((-1,))(logits[:, :31], x[:, :31]),
        lambda logits, x: logits.double().tanh() + x,
    ],
)
def test_all_else_is_left_as_it_is(compute):
    logits, x = logits_and_x(8, 32)
    plain = make_fx(compute)(logits, x)
    assert targets(rewritten(compute, logits, x)) == targets(plain)


@pytest.mark.parametrize(("size", "factors"), [(784, 49), (64, 4), (1024, 64), (100, 5), (31, 1), (16, 1), (1, 1)])
def test_factors(size, factors):
    assert _factors(size) == factors


def test_tanh():
    random = torch.Generator().manual_seed(0)
    size = torch.exp(-60 * torch.rand(100_000, generator=random) + 4)
    x = torch.cat([size, -size, torch.randn(100_000, generator=random), torch.tensor([0.0, 1e-45, 0.1, 0.09999])])
    found = rewritten(torch.tanh, x)(x).double()
    expected = torch.tanh(x.double())
    assert ((found - expected).abs() <= 12 * EPS * expected.abs()).all()
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan])
    torch.testing.assert_close(rewritten(torch.tanh, odd)(odd), torch.tanh(odd), equal_nan=True)


@pytest.mark.slow
def test_compiled():
    from ppl_vae.compile.graph import record
    from ppl_vae.compile.inductor import has_compiler

    if not has_compiler():
        pytest.skip("Inductor needs a C++ compiler")
    logits, x = logits_and_x(20, 784)
    recording = record(lambda logits, x: [summed((-1,))(logits, x), logits.tanh()], [logits, x], compiled=True)
    found, squashed = recording(logits, x)
    torch.testing.assert_close(found.double(), log_bernoulli(logits.double(), x.double()), rtol=8 * EPS, atol=0)
    torch.testing.assert_close(squashed, logits.tanh(), rtol=12 * EPS, atol=0)
