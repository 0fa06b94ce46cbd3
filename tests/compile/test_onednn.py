"""Products handed to oneDNN: the same numbers to rounding, and only where they pay and where nothing is hidden."""

import time

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from ppl_vae.compile import graph as recording
from ppl_vae.compile import onednn as products

ROWS, INNER, OUT = 128, 100, 90  # above a million multiply-adds

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def on_a_processor_where_it_is_faster(monkeypatch):
    monkeypatch.setattr(products, "is_faster", lambda: torch.backends.mkldnn.is_available())


def inputs(dtype=torch.float32, rows=ROWS):
    random = torch.Generator().manual_seed(0)
    shapes = (rows, INNER), (OUT, INNER), (OUT,)
    return [torch.randn(*shape, generator=random, dtype=dtype) / INNER**0.25 for shape in shapes]


def recorded(compute, values):
    graph = make_fx(compute)(*values)
    products.hand_over(graph)
    return graph


def targets(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


COMPUTATIONS = {
    "linear": lambda x, w, b: [F.linear(x, w, b)],
    "no bias": lambda x, w, b: [x @ w.t() + b],
    "transposed": lambda x, w, b: [(w @ x.t()).sum(1) + b],
    "weight not transposed": lambda x, w, b: [x @ w.t().contiguous() + b],
    "tanh": lambda x, w, b: [F.linear(x, w, b).tanh()],
    "tanh of another shape": lambda x, w, b: [F.linear(x.unflatten(0, (2, -1)), w, b).tanh()],
    "sigmoid": lambda x, w, b: [F.linear(x, w, b).sigmoid()],
    "read twice": lambda x, w, b: [(y := F.linear(x, w, b)).tanh() + y],
    "relu": lambda x, w, b: [F.linear(x, w, b).relu()],
}


@needs_onednn
@pytest.mark.parametrize("name", COMPUTATIONS)
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_same_numbers(name, compiled):
    compute, values = COMPUTATIONS[name], inputs()
    assert "ppl_vae.linear.default" in targets(recorded(compute, values))
    (found,) = recording.record(compute, values, compiled=compiled)(*values)
    (expected,) = compute(*(value.double() for value in values))
    # Sums of 100 terms of size one, rounded at each.
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=100 * torch.finfo(torch.float32).eps)
    assert found.shape == expected.shape


@needs_onednn
def test_gradients_are_products_too():
    def compute(x, w, b):
        w = w.requires_grad_()
        return list(torch.autograd.grad(F.linear(x, w, b).tanh().square().sum(), w))

    x, w, b = inputs()
    graph = make_fx(compute)(x, w, b)
    products.hand_over(graph)
    assert targets(graph).count("ppl_vae.linear.default") == 2
    (expected,) = compute(x.double(), w.double(), b.double())
    torch.testing.assert_close(graph(x, w, b)[0].double(), expected, rtol=1e-5, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
def test_nan_is_not_hidden(activation):
    x, w, b = inputs()
    x[3, 4] = torch.nan
    run = recorded(lambda x, w, b: [getattr(F.linear(x, w, b), activation)()], [x, w, b])
    found = run(x, w, b)[0]
    assert found[3].isnan().all()
    assert not found[4].isnan().any()


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (inputs(torch.float64), "another type"),
        (inputs(rows=8), "small"),
        ([*inputs()[:2], torch.randn(ROWS, OUT)], "a bias per row"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_left_alone(values, why):
    graph = recorded(lambda x, w, b: [torch.addmm(b, x, w.t())], values)
    assert "aten.addmm.default" in targets(graph), why


@needs_onednn
@pytest.mark.parametrize(("processor", "faster"), [("Intel Xeon Platinum", False), ("AMD EPYC 7763", True), ("", True)])
def test_on_intels_processors_mkl_takes_the_products(monkeypatch, processor, faster):
    monkeypatch.undo()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": processor}, raising=False)
    assert products.is_faster.__wrapped__() == (faster or not torch.backends.mkl.is_available())
    monkeypatch.setattr(products, "is_faster", products.is_faster.__wrapped__)
    handed_over = "ppl_vae.linear.default" in targets(recorded(COMPUTATIONS["linear"], inputs()))
    assert handed_over == (faster or not torch.backends.mkl.is_available())


def test_without_onednn_all_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert "aten.addmm.default" in targets(recorded(COMPUTATIONS["linear"], inputs()))


@needs_onednn
def test_part_of_a_matrix_is_as_fast():
    """A weight that is a slice of a larger one: oneDNN itself would fall back to a loop, a thousand times slower."""
    x, whole = torch.randn(400, 50), torch.randn(300, 60)

    def seconds(weight):
        (found,) = (graph := recorded(lambda x, w: [x @ w.t()], [x, weight]))(x, weight)
        torch.testing.assert_close(found, x @ weight.t())
        assert any("ppl_vae.linear" in target for target in targets(graph))
        started = time.process_time()
        for _ in range(3):
            graph(x, weight)
        return time.process_time() - started

    assert seconds(whole[:, :50]) < 30 * seconds(whole[:, :50].contiguous())
