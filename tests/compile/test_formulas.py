"""Formulas that take the place of torch's functions in a graph: equal to rounding, also at the ends of their range."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from ppl_vae.compile.formulas import use_formulas

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh(dtype):
    x = values(dtype)
    (found,) = rewritten(lambda x: [x.tanh()], x, fused=True)(x)
    torch.testing.assert_close(found.double(), x.double().tanh(), rtol=8 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli(dtype, fused):
    logits = values(dtype)
    logits = logits[logits.isfinite()]
    x = torch.arange(len(logits)).remainder(3).to(dtype) / 2
    kept = logits.clone()
    compute = lambda l, x: [F.binary_cross_entropy_with_logits(l, x, reduction="none")]  # noqa: E731, E741
    (found,) = (graph := rewritten(compute, logits, x, fused=fused))(logits, x)
    assert "binary_cross_entropy" not in str(graph.code)
    assert torch.equal(logits, kept)
    expected = F.binary_cross_entropy_with_logits(logits.double(), x.double(), reduction="none")
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=8 * eps, atol=8 * eps)


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
