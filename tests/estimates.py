"""Draws of a bound and of its gradient, and how far their mean may lie from the truth."""

from __future__ import annotations

import torch
from torch.nn.utils import stateless

from ppl_vae import LogLikelihood
from ppl_vae.compile.graph import traced

F64 = torch.float64
SE = 4.5  # standard errors: about one false alarm in 150,000 comparisons


def gradients(mine, loss):
    """The gradient of `loss` in every parameter, as one vector."""
    parameters = list(mine.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, parameters, strict=True)]
    )


def _flat(found, parameters):
    filled = (torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True))
    return torch.cat([gradient.flatten() for gradient in filled])


def once(mine, objective, data, seed=0, programs=None):
    """Loss and gradient of one estimate."""
    torch.manual_seed(seed)
    loss = objective.differentiable_loss(*(programs or mine.programs()), **data)
    return loss.detach(), gradients(mine, loss)


def repeated(mine, objective, data, repeats):
    """Losses (repeats,) and gradients (repeats, P) of independent estimates."""
    losses, grads = [], []
    for _ in range(repeats):
        loss = objective.differentiable_loss(*mine.programs(), **data)
        losses.append(loss.detach())
        grads.append(gradients(mine, loss))
    return torch.stack(losses), torch.stack(grads)


class Functional(torch.fx.Interpreter):
    """Runs a recorded graph with fresh noise in the place of noise written into an empty tensor, which vmap refuses."""

    def call_function(self, target, args, kwargs):
        if target is torch.ops.aten.normal_.default:
            (empty,) = args  # mean 0, standard deviation 1
            return torch.randn(empty.shape, dtype=empty.dtype)
        if target is torch.ops.aten.exponential_.default:
            (empty,) = args  # rate 1
            return -torch.log1p(-torch.rand(empty.shape, dtype=empty.dtype))
        return super().call_function(target, args, kwargs)


def drawn(mine, objective, data, repeats, wrap=lambda program: program):
    """`repeated`, all at once: one estimate is recorded as a graph, which is mapped over its noise."""
    named = dict(mine.named_parameters())

    def compute(*values):
        parameters = [value.detach().requires_grad_() for value in values]
        swapped = dict(zip(named, parameters, strict=True))
        with torch.enable_grad(), stateless._reparametrize_module(mine, swapped, tie_weights=True):
            loss = objective.differentiable_loss(*map(wrap, mine.programs()), **data)
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [loss.detach(), _flat(found, parameters)]

    graph = Functional(traced(compute, list(named.values()), fused=True))
    many = torch.func.vmap(lambda _, *values: graph.run(*values), (0, *[None] * len(named)), randomness="different")
    with torch.no_grad():
        return tuple(many(torch.zeros(repeats), *named.values()))


def agree(estimates, truth, message=""):
    """Assert that the mean of independent estimates (R, …) is `truth`, in standard errors."""
    error = estimates.std(0) / len(estimates) ** 0.5
    off = (estimates.mean(0) - truth).abs()
    # The floor is rounding, for entries that do not vary at all.
    assert (off <= SE * error + 1e-5 * (1 + truth.abs())).all(), f"{message}: off by {(off / error).max():.1f} se"


def alike(first, second, message=""):
    """Assert that two sets of independent estimates (R, …) have one mean, in standard errors of the difference."""
    error = (first.var(0) / len(first) + second.var(0) / len(second)).sqrt()
    off = (first.mean(0) - second.mean(0)).abs()
    assert (off <= SE * error + 1e-9 * (1 + first.mean(0).abs())).all(), f"{message}: {(off / error).max():.1f} se"


def part(mine, name):
    """Where in a gradient the parameters of the model, or of the guide, stand."""
    return torch.cat([torch.full((p.numel(),), key.startswith(f"{name}.")) for key, p in mine.named_parameters()])


def result_with(pareto_k, size=None, num_particles=100, **given):
    """An estimate for three data with these diagnostics."""
    one = torch.ones(3, dtype=F64)
    return LogLikelihood(
        **{
            "values": -one * torch.tensor([80.0, 81.5, 83.0], dtype=F64),
            "variances": 0.0225 * one,
            "effective_sample_size": one * (50.0 if size is None else torch.tensor(size)),
            "pareto_k": torch.tensor(pareto_k, dtype=F64),
            "method": "importance",
            "num_particles": num_particles,
            "seconds": 0.5,
            "seed": 3,
            "data": {"name": "digits", "role": "test", "size": 3, "binarization": "fixed", "digest": "abc"},
            "non_finite": 0,
        }
        | given
    )
