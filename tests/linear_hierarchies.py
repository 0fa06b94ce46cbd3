"""Hierarchies whose maps are all affine, so that log p(x) and every posterior are known."""

from __future__ import annotations

from itertools import pairwise

import torch
from pairs import D
from torch import nn

from ppl_vae import Pair, exact
from ppl_vae.core.process import isolated
from ppl_vae.exact import Layer
from ppl_vae.exact.joint import JointGaussian
from ppl_vae.guides import BottomUp, Ladder, TopDown
from ppl_vae.models import Hierarchical
from ppl_vae.nn import likelihoods

NOISE = 0.6  # of x


GUIDES = ("bottom-up", "top-down", "ladder")


def spread(a):
    return a.exp().log1p() + 1e-4


def before_spread(s):
    return (torch.as_tensor(s) - 1e-4).expm1().log()


class Affine(nn.Module):
    """(mean, a) of N(W u + b, diag(s)^2), s = spread(a): a spread no input changes, as closed forms ask for."""

    def __init__(self, inputs, size):
        super().__init__()
        self.mean, self.a = nn.Linear(inputs, size), nn.Parameter(torch.zeros(size))

    def forward(self, *parts):
        batch = torch.broadcast_shapes(*(u.shape[:-1] for u in parts))
        mean = self.mean(torch.cat([u.expand(*batch, -1) for u in parts], -1))
        return torch.cat([mean, self.a.expand_as(mean)], -1)

    @torch.no_grad()
    def set(self, weight, bias, scale):
        self.mean.weight.copy_(weight)
        self.mean.bias.copy_(bias)
        self.a.copy_(before_spread(scale))

    def layer(self):
        return Layer(self.mean.weight.detach(), self.mean.bias.detach(), spread(self.a.detach()))


def linear_model(latent_dims, x_dim=D):
    conditionals = [Affine(above, size) for above, size in zip(latent_dims[1:], latent_dims, strict=False)]
    return Hierarchical(
        x_dim, latent_dims, hidden=(), likelihood=likelihoods.Normal("learned"), conditionals=conditionals
    )


def linear_guide(kind, model):
    (x_dim,), sizes = model.x_shape, model.latent_dims
    if kind == "bottom-up":
        below = (x_dim, *sizes)
        return BottomUp(x_dim, sizes, networks=[Affine(n, size) for n, size in zip(below, sizes, strict=False)])
    if kind == "top-down":
        above = (*sizes[1:], 0)
        return TopDown(x_dim, sizes, networks=[Affine(x_dim + n, size) for n, size in zip(above, sizes, strict=True)])
    return Ladder(model, hidden=())


def linear_pair(kind, latent_dims, x_dim=D, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = linear_model(latent_dims, x_dim)
        pair = Pair(model, linear_guide(kind, model)).double()
        for parameter in pair.parameters():
            parameter.data.normal_(std=0.4)
        model.decode.likelihood.log_scale.data.fill_(NOISE).log_()
        if kind == "ladder":  # no x in the spread of what x says
            for network, size in zip(pair.guide.evidence.networks, latent_dims, strict=True):
                network.layers[-1].weight.data[size:] = 0
        return pair


def joint(model):
    """The joint distribution of x, z1, ..., zL in closed form."""
    decoder, scale = model.decode.network.layers[-1], model.decode.likelihood.log_scale.detach().exp()
    layers = [Layer(decoder.weight.detach(), decoder.bias.detach(), scale)]
    return exact.hierarchy.joint([*layers, *(head.network.layer() for head in model.conditionals)])


def posterior_of(pair, kind, x):
    """q(z1, ..., zL|x) of a linear guide, built from its parameters: a network of its own."""
    sizes = pair.model.latent_dims
    names = [f"z{k}" for k in range(1, len(sizes) + 1)]
    if kind == "bottom-up":
        first, *others = (head.network.layer() for head in pair.guide.networks)
        q = JointGaussian.root("z1", x @ first.weight.T + first.bias, first.scale)
        for (below, name), line in zip(pairwise(names), others, strict=True):
            q = q.child(name, {below: line.weight}, line.bias, line.scale)
        return q
    if kind == "top-down":
        *others, last = (head.network.layer() for head in pair.guide.networks)
        q = JointGaussian.root(names[-1], x @ last.weight.T + last.bias, last.scale)
        for k in reversed(range(len(others))):
            W, U = others[k].weight.split([x.shape[1], sizes[k + 1]], 1)
            q = q.child(names[k], {names[k + 1]: U}, x @ W.T + others[k].bias, others[k].scale)
        return q
    evidence = []
    for network, size in zip(pair.guide.evidence.networks, sizes, strict=True):
        affine = network.layers[-1]
        means = x @ affine.weight[:size].T + affine.bias[:size]
        evidence.append((means.detach(), spread(affine.bias[size:].detach())))
    q = JointGaussian.root(names[-1], *evidence[-1])
    for k in reversed(range(len(sizes) - 1)):
        (m, s), prior = evidence[k], pair.model.conditionals[k].network.layer()
        variance = 1 / (s**-2 + prior.scale**-2)
        weight = (variance / prior.scale**2)[:, None] * prior.weight
        bias = variance * (m / s**2 + prior.bias / prior.scale**2)
        q = q.child(names[k], {names[k + 1]: weight}, bias, variance.sqrt())
    return q


def make_exact(pair, kind, widened=1.0):
    """Set a guide to the model's posterior, its spreads `widened`; exact where every layer is one number."""
    p, L = joint(pair.model), len(pair.model.latent_dims)
    for k in range(1, L + 1):
        if kind == "bottom-up":
            line = p.regression(f"z{k}", on="x" if k == 1 else f"z{k - 1}")
            weight = next(iter(line.weights.values()))
        else:
            line = p.regression(f"z{k}", on=("x",) if k == L else ("x", f"z{k + 1}"))
            weight = torch.cat(list(line.weights.values()), 1)
        variance = line.covariance.diagonal()
        if kind != "ladder":
            pair.guide.networks[k - 1].network.set(weight, line.bias, widened * variance.sqrt())
            continue
        affine, size = pair.guide.evidence.networks[k - 1].layers[-1], pair.model.latent_dims[k - 1]
        precision, shift = 1 / variance, line.bias / variance
        weight = line.weights["x"] / variance[:, None]
        if k < L:  # what the model says is left out: the guide adds it again
            prior = pair.model.conditionals[k - 1].network.layer()
            precision, shift = precision - prior.scale**-2, shift - prior.bias / prior.scale**2
        affine.weight.data[:size], affine.bias.data[:size] = weight / precision[:, None], shift / precision
        affine.bias.data[size:] = before_spread(widened / precision.sqrt())


def data_of(pair, size=12, seed=0):
    with isolated(seed):
        return {"x": pair.generate(size)["x"]}
