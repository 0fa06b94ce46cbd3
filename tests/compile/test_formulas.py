"""Formulas that take the place of torch's functions in a graph: equal to rounding, also at the ends of their range."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from ppl_vae.compile.formulas import _factors, use_formulas
from ppl_vae.compile.graph import record
from ppl_vae.compile.inductor import has_compiler

EDGES = [0.0, 1e-30, 1e-8, 1e-4, 0.5, 1.0, 3.0, 8.0, 17.0, 50.0, 90.0, 1000.0, torch.inf]


def values(dtype):
    edges = torch.tensor([*EDGES, *(-value for value in EDGES)], dtype=dtype)
    return torch.cat([edges, 4 * torch.randn(1000, dtype=dtype, generator=torch.Generator().manual_seed(0))])


def rewritten(compute, *inputs, fused):
    graph = make_fx(compute)(*inputs)
    before = str(graph.code)
    use_formulas(graph, fused=fused)
    assert (str(graph.code) != before) or not fused
    return graph


def test_tanh():
    random = torch.Generator().manual_seed(0)
    size = torch.exp(-60 * torch.rand(100_000, generator=random) + 4)
    x = torch.cat([size, -size, values(torch.float32), torch.tensor([1e-45, 0.1, 0.09999])])
    (found,) = rewritten(lambda x: [x.tanh()], x, fused=True)(x)
    torch.testing.assert_close(found.double(), x.double().tanh(), rtol=12 * torch.finfo(x.dtype).eps, atol=0)


def test_tanh_of_doubles_is_left_alone():
    x = values(torch.float64)
    graph = make_fx(lambda x: [x.tanh()])(x)
    use_formulas(graph, fused=True)
    assert "aten.tanh" in str(graph.code)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli(dtype, fused):
    logits = values(dtype)
    x = torch.arange(len(logits)).remainder(3).to(dtype) / 2
    kept = logits.clone()
    compute = lambda l, x: [F.binary_cross_entropy_with_logits(l, x, reduction="none")]  # noqa: E731, E741
    (found,) = (graph := rewritten(compute, logits, x, fused=fused))(logits, x)
    assert "binary_cross_entropy" not in str(graph.code)
    assert torch.equal(logits, kept)
    expected = F.binary_cross_entropy_with_logits(logits.double(), x.double(), reduction="none")
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=8 * eps, atol=16 * eps, equal_nan=True)


def log_bernoulli(dims=(-1,)):
    return lambda logits, x: (-F.binary_cross_entropy_with_logits(logits, x, reduction="none")).sum(dims)


def logits_and_x(*shape, scale=3.0):
    random = torch.Generator().manual_seed(0)
    return scale * torch.randn(*shape, generator=random), torch.rand(*shape, generator=random).round()


def summed(compute, logits, x):
    """Return the result of a graph that has one logarithm for many pixels."""
    graph = rewritten(compute, logits, x, fused=True)
    assert "aten.prod" in str(graph.code)
    assert "binary_cross_entropy" not in str(graph.code)
    return graph(logits, x)


@pytest.mark.parametrize("dims", [(-1,), (1,), (0, 1), (-1, 0)])
@pytest.mark.parametrize("scale", [0.01, 3.0, 100.0])
@pytest.mark.parametrize("D", [784, 64, 100])
def test_sums_over_pixels(dims, scale, D):
    logits, x = logits_and_x(50, D, scale=scale)
    found = summed(log_bernoulli(dims), logits, x)
    expected = log_bernoulli(dims)(logits.double(), x.double())
    assert found.shape == expected.shape
    size = log_bernoulli(dims)(-logits.abs().double(), torch.ones_like(x).double()).abs().max()  # of the largest terms
    assert (found - expected).abs().max() < 4 * torch.finfo(torch.float32).eps * max(size, D)


def test_sums_of_grey_pixels_and_of_logits_that_are_not_finite():
    logits, x = logits_and_x(8, 32)
    grey = 0.3 * x + 0.2
    expected = log_bernoulli()(logits.double(), grey.double())
    torch.testing.assert_close(summed(log_bernoulli(), logits, grey).double(), expected, rtol=1e-6, atol=0)
    for row, value in enumerate((torch.inf, -torch.inf, torch.nan)):
        logits[2 * row, 3] = logits[2 * row + 1, 3] = value
        x[2 * row, 3], x[2 * row + 1, 3] = 0.0, 1.0
    expected = log_bernoulli()(logits, x)
    assert expected.isneginf().any()
    assert expected.isnan().any()
    torch.testing.assert_close(summed(log_bernoulli(), logits, x), expected, equal_nan=True)


@pytest.mark.parametrize(
    "compute",
    [
        log_bernoulli((0,)),
        lambda logits, x: (-F.binary_cross_entropy_with_logits(logits, x, reduction="none")).sum(-1, keepdim=True),
        lambda logits, x: log_bernoulli()(logits[:, :31], x[:, :31]),
    ],
)
def test_other_sums_keep_a_logarithm_for_each_pixel(compute):
    logits, x = logits_and_x(8, 32)
    graph = rewritten(compute, logits, x, fused=True)
    assert "aten.prod" not in str(graph.code)
    torch.testing.assert_close(graph(logits, x), compute(logits, x))


@pytest.mark.parametrize(("size", "factors"), [(784, 49), (64, 4), (1024, 64), (100, 5), (31, 1), (16, 1), (1, 1)])
def test_factors(size, factors):
    assert _factors(size) == factors


@pytest.mark.slow
def test_compiled():
    if not has_compiler():
        pytest.skip("Inductor needs a C++ compiler")
    logits, x = logits_and_x(20, 784)
    recording = record(lambda logits, x: [log_bernoulli()(logits, x), logits.tanh()], [logits, x], compiled=True)
    found, squashed = recording(logits, x)
    torch.testing.assert_close(found.double(), log_bernoulli()(logits.double(), x.double()), rtol=1e-6, atol=0)
    torch.testing.assert_close(squashed.double(), logits.double().tanh(), rtol=2e-6, atol=0)


def test_an_affine_map():
    x, w, b = torch.randn(5, 3), torch.randn(4, 3), torch.randn(4)
    graph = rewritten(lambda x, w, b: [F.linear(x, w, b)], x, w, b, fused=True)
    assert "addmm" not in str(graph.code)
    torch.testing.assert_close(graph(x, w, b)[0], F.linear(x, w, b), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_nan_stays(fused):
    x = torch.tensor([0.5, torch.nan])
    compute = lambda x: [x.tanh(), F.binary_cross_entropy_with_logits(x, x * 0 + 1, reduction="none")]  # noqa: E731
    for result in rewritten(compute, x, fused=fused)(x):
        assert result.isnan().tolist() == [False, True]


@pytest.mark.parametrize("options", [{"weight": torch.ones(4)}, {"pos_weight": torch.ones(4)}, {"reduction": "sum"}])
def test_other_forms_are_left_alone(options):
    x = torch.randn(4)
    compute = lambda x: [F.binary_cross_entropy_with_logits(x, x * 0, **({"reduction": "none"} | options))]  # noqa: E731
    graph = make_fx(compute)(x)
    use_formulas(graph, fused=False)
    assert "binary_cross_entropy" in str(graph.code)
