"""What a graph computes for nothing is left out, and its numbers stay the same bit for bit."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from ppl_vae.compile.executable import executable
from ppl_vae.compile.simplify import simplify

CASES = {
    "views that end where they began": lambda x: [x.view(4, 1, 6).permute(0, 2, 1).squeeze(-1) * 2],
    "a transpose of a transpose": lambda x: [x.t().t() + x],
    "another shape stays": lambda x: [x.view(6, 4).exp()],
    "a transpose stays": lambda x: [x.t() + 1],
    "one, times": lambda x: [x / 1, x * 1.0, x**1],
    "a tensor of ones": lambda x: [x * torch.ones_like(x).neg().div(7) - torch.full((4, 1), 3.0).expand(4, 6) * 0.1],
    "left of a quotient": lambda x: [torch.ones(4, 6).neg().mul(0.5) / x],
    "a broadcast number": lambda x: [x[:, :1] + torch.ones(4, 6) * 3],
    "returned": lambda x: [torch.ones_like(x) * 2],
    "integers": lambda x: [x * torch.ones(4, 6, dtype=torch.int64)],
    "changed in place": lambda x: [(y := torch.zeros_like(x)).add_(x), y * 2],
    "a view changed in place": lambda x: [(y := torch.ones_like(x)).view(-1).mul_(3), x * y],
    "divided, then changed": lambda x: [(y := x * 2, z := y / 1, y.add_(1), z)[-1]],
    "draws": lambda x: [torch.rand(3), x + torch.randn(4, 6)],
    "unused draws": lambda x: [(torch.rand(3), torch.rand(3))[1]],
    "a loss and its gradient": lambda x: list(
        torch.autograd.grad((F.softplus(x.requires_grad_()).sum(-1).neg().neg().sum() / 1 / 20), [x])
    ),
}  # fmt: skip


def counted(graph):
    return sum(node.op == "call_function" for node in graph.graph.nodes)


@pytest.mark.parametrize("name", CASES)
def test_same_numbers(name):
    compute, x = CASES[name], torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    graph = make_fx(compute)(x.clone())
    plain = counted(graph)
    simplify(graph)
    assert counted(graph) <= plain
    for run in (graph, executable(graph)):
        torch.manual_seed(1)
        expected = compute(x.clone())
        state = torch.get_rng_state()
        torch.manual_seed(1)
        found = run(x.clone())
        assert torch.equal(torch.get_rng_state(), state)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "calls"),
    [("views that end where they began", 1), ("one, times", 0), ("a tensor of ones", 2), ("left of a quotient", 2)],
)
def test_what_is_left(name, calls):
    graph = make_fx(CASES[name])(torch.randn(4, 6))
    simplify(graph)
    assert counted(graph) == calls
