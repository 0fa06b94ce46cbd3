"""Programs that reach into differentiation: hooks, functions of their own, transforms, and rarer operations."""

from __future__ import annotations

import torch
from program_parts import D, Guide, L, Model, Program, decoder, decoding, encoder, encoding, guided
from torch import nn


def hooked_parameter():
    """Return a program whose gradient a hook on a parameter doubles."""
    model, guide = Model(), Guide()
    guide.network[0].weight.register_hook(lambda gradient: 2.0 * gradient)
    return model, guide


def clip(parameter):
    parameter.grad.clamp_(-0.01, 0.01)


def hooked_accumulation():
    """Return a program whose gradient is clipped once it has been added up."""
    model, guide = Model(), Guide()
    guide.network[0].weight.register_post_accumulate_grad_hook(clip)
    return model, guide


def hooked_forward():
    model, guide = Model(), Guide()
    guide.network[1].register_forward_hook(lambda module, given, out: 1.5 * out)
    return model, guide


def hooked_before():
    model, guide = Model(), Guide()
    guide.network[0].register_forward_pre_hook(lambda module, given: (given[0].clamp(-1, 1),))
    return model, guide


def hooked_backward():
    """Return a program with a hook that halves the gradient to a layer's input."""
    model, guide = Model(), Guide()
    model.network[2].register_full_backward_hook(lambda module, into, out: tuple(0.5 * g for g in into))
    return model, guide


def hooked_that_counts():
    """Return a program with a hook that keeps what it sees."""
    model, guide = Model(), Guide()
    guide.activations = []
    guide.network[0].register_forward_hook(lambda module, given, out: guide.activations.append(out.detach().mean()))
    return model, guide


def hooked_from_inside():
    """Return a program of which one layer takes its own gradient as a hook, every second call."""

    class Alternates(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.calls = encoder(), 0

        def forward(self, x):
            hidden = self.network[1](self.network[0](x))
            self.calls += 1
            if hidden.requires_grad and self.calls % 2:
                hidden.register_hook(lambda gradient: 0.0 * gradient)
            return self.network[2](hidden)

    return Model(), Guide(Alternates())


class ClampsGradient(Guide):
    """A hook on an activation."""

    def encode(self, x):
        hidden = self.network[1](self.network[0](x))
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: gradient.clamp(-0.05, 0.05))
        return self.network[2](hidden)


class RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return (4 * x).round() / 4

    @staticmethod
    def backward(context, gradient):
        return 0.5 * gradient


class Reversed(torch.autograd.Function):
    """The identity, whose gradient has the other sign, of a strength that Python knows."""

    @staticmethod
    def forward(context, x, strength):
        context.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        return -context.strength * gradient, None


class SavesAndMasks(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(context, gradient):
        (x,) = context.saved_tensors
        return torch.where(x > 0, gradient, 0.1 * gradient)


class Applies(nn.Module):
    """A network with a function of its own in the middle."""

    def __init__(self, function, *more):
        super().__init__()
        self.network, self.function, self.more = encoder(), function, more

    def forward(self, x):
        return self.network[2](self.function(self.network[1](self.network[0](x)), *self.more))


@torch.jit.script
def scripted(x: torch.Tensor, slope: float) -> torch.Tensor:
    return torch.where(x > 0, x, slope * x)


@torch.jit.script
def scripted_branch(x: torch.Tensor) -> torch.Tensor:
    if float(x.sum()) > 0:
        return 2 * x
    return -x


def mapped(x):
    return torch.func.vmap(lambda row: row / (1 + row.square().sum().sqrt()))(x)


def differentiated(x):
    """Return x with the gradient of a function of it added."""
    return x + 0.1 * torch.func.grad(lambda h: h.sin().sum())(x)


def transformed(x):
    spectrum = torch.fft.rfft(x, dim=-1)
    damped = spectrum * torch.exp(-0.1 * torch.arange(spectrum.shape[-1]).to(x))
    return torch.fft.irfft(damped * torch.polar(torch.ones(()).to(x), torch.full((), 0.3).to(x)), n=x.shape[-1])


def complex_numbers(x):
    z = torch.complex(x, x.flip(-1))
    return (z * z.conj()).real.sqrt() + torch.view_as_real(z.exp()).sum(-1).clamp(-2, 2)


def sparse_product(x):
    places = torch.tensor([[0, 1, 2, 5], [1, 0, 3, 7]])
    matrix = torch.sparse_coo_tensor(places, torch.ones(4).to(x), (8, 8)).coalesce()
    return x + torch.sparse.mm(matrix, x.T).T


def contracted(x):
    weights = torch.linspace(-1, 1, 8).to(x)
    return torch.einsum("bi,bj,j->bi", x, x, weights) + torch.einsum("...i->...", x)[..., None]


def in_place(x):
    copy = x.clone()
    copy[:, 0] *= 2
    copy[:, 1:3] += 1
    copy.relu_()
    return copy


def solved(x):
    gram = torch.eye(8).to(x) + x.T @ x / len(x)
    lower = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(x.T, lower).T + torch.linalg.slogdet(gram).logabsdet / 10


def without_gradient(x):
    with torch.no_grad():
        centre = x.mean(0)
    return x - centre


class GradientInside(Guide):
    """Starts from the network's code and takes one step up the gradient of a term of it."""

    def encode(self, x):
        code = self.network(x)
        with torch.enable_grad():
            at = code if code.requires_grad else code.detach().requires_grad_()
            (slope,) = torch.autograd.grad(at.sin().sum(), at, create_graph=True)
        return code + 0.1 * slope


class Rearranged(nn.Module):
    """A decoder by einsum over any leading dimensions."""

    def __init__(self):
        super().__init__()
        self.cores = nn.Parameter(torch.randn(L, L, D) / 2)

    def forward(self, z):
        return torch.einsum("...i,...j,ijd->...d", z, z, self.cores)


class ScriptedDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = decoder()

    def forward(self, z):
        return scripted(self.network(z), 0.2)


PROGRAMS = {
    "hook on a parameter": Program(hooked_parameter),
    "hook on an added-up gradient": Program(hooked_accumulation),
    "forward hook": Program(hooked_forward),
    "forward pre-hook": Program(hooked_before),
    "full backward hook": Program(hooked_backward),
    "forward hook that keeps what it sees": Program(hooked_that_counts),
    "hook on an activation": Program(guided(ClampsGradient)),
    "hook on an activation, every second call": Program(hooked_from_inside, outside=True),
    "function of its own": Program(encoding(lambda: Applies(RoundStraightThrough.apply))),
    "gradient reversed": Program(encoding(lambda: Applies(Reversed.apply, 0.7))),
    "function that saves": Program(encoding(lambda: Applies(SavesAndMasks.apply))),
    "scripted function": Program(encoding(lambda: Applies(scripted, 0.2))),
    "scripted function with a branch": Program(encoding(lambda: Applies(scripted_branch))),
    "scripted function in the model": Program(decoding(ScriptedDecoder), ais=True),
    "vmap": Program(encoding(lambda: Applies(mapped))),
    "torch.func.grad": Program(encoding(lambda: Applies(differentiated))),
    "fft": Program(encoding(lambda: Applies(transformed))),
    "complex numbers": Program(encoding(lambda: Applies(complex_numbers))),
    "sparse product": Program(encoding(lambda: Applies(sparse_product))),
    "einsum": Program(encoding(lambda: Applies(contracted)), recorded=True),
    "einsum in the model": Program(decoding(Rearranged), recorded=True, ais=True),
    "in place on a copy": Program(encoding(lambda: Applies(in_place)), recorded=True),
    "linear algebra": Program(encoding(lambda: Applies(solved))),
    "no_grad inside": Program(encoding(lambda: Applies(without_gradient))),
    "gradient inside the guide": Program(guided(GradientInside)),
}
