"""Bounds of M2 in a loop over data and classes, apart from the library: networks by their layers, densities by formula.

bound of (x, y)   = bound of  log p(x|y, z) + log p(z) - log q(z|x, y),  plus log p(y)
bound of x        = sum_y q(y|x) (bound of (x, y) - log q(y|x))
objective         = sum of both, + alpha sum log q(y|x) over labelled data         (Kingma et al. 2014, eq. 6 to 9)
"""

from __future__ import annotations

import math

import torch
from pairs import C, D, L
from torch.nn import functional as F

from ppl_vae import Pair
from ppl_vae.guides import AmortizedMixture
from ppl_vae.models import M2

F64 = torch.float64
HIDDEN = (5,)
B = 6
Y = torch.tensor([0, 2, 1, 3, 3, 0])
SOME = torch.tensor([True, False, True, True, False, False])
GIVEN = {"x only": {}, "all": {"y": Y}, "some": {"y": Y, "labelled": SOME}}


def pair_of(alpha=0.7, seed=0, latent_dim=L, **guide):
    """A small M2 in float64, of Bernoulli data, its parameters large enough for classes to differ."""
    torch.manual_seed(seed)
    one_hot = guide.get("classes") == "relaxed"
    pair = Pair(
        M2(D, latent_dim, C, hidden=HIDDEN, one_hot=one_hot),
        AmortizedMixture(D, latent_dim, C, hidden=HIDDEN, alpha=alpha, **guide),
    ).to(F64)
    for parameter in pair.parameters():
        parameter.data.mul_(2)
    return pair


def pictures(size=B, seed=1):
    """Return x (size, D) of zeros and ones."""
    return (torch.rand(size, D, generator=torch.Generator().manual_seed(seed)) < 0.5).to(F64)


def beside(h, y):
    """Return h (…, H) with the one-hot code of one class beside it."""
    code = torch.eye(C, dtype=F64)[y]
    return torch.cat((h, code.expand(*h.shape[:-1], C)), -1)


def run(network, h):
    """Run an MLP layer by layer, on one input."""
    for layer in network.layers:
        h = layer(h)
    return h


def log_x(pair, x, z, y):
    """Log p(x|y, z) of one class y, for z (…, B, L)."""
    logits = run(pair.model.decode.network, beside(z, y))
    return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def normal(value, loc, log_scale):
    """Log density of a diagonal Normal."""
    return (-0.5 * ((value - loc) / log_scale.exp()) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)


def drawn(pair, x, y, noise):
    """Draws (…, B, L) of q(z|x, y) for one class y, its mean and log standard deviation."""
    loc, log_scale = run(pair.guide.posterior.network, beside(x, y)).chunk(2, -1)
    return loc + log_scale.exp() * noise, loc, log_scale


def kl_of(loc, log_scale):
    """KL(N(loc, scale^2) || N(0, 1)), summed over coordinates."""
    return 0.5 * ((2 * log_scale).exp() + loc**2 - 1 - 2 * log_scale).sum(-1)


def known(given, b):
    """The label of datum b, or None."""
    if "y" not in given or ("labelled" in given and not given["labelled"][b]):
        return None
    return int(given["y"][b])


def objective_by_hand(pair, x, given, noise, bound, alpha, *, closed=False):
    """The objective of the batch: `noise` (C, K, B, L), `bound` of log weights (K,), the KL of z `closed` or drawn."""
    total = torch.zeros((), dtype=F64)
    log_q = run(pair.guide.classifier.network, x).log_softmax(-1)
    for b in range(len(x)):
        bounds = []
        for y in range(C):
            z, loc, log_scale = drawn(pair, x[b], y, noise[y, :, b])
            distortion = log_x(pair, x[b], z, y)
            if closed:
                bounds.append(bound(distortion) - kl_of(loc, log_scale) - math.log(C))
            else:
                log_z = normal(z, torch.zeros(()), torch.zeros(())) - normal(z, loc, log_scale)
                bounds.append(bound(distortion + log_z) - math.log(C))
        label = known(given, b)
        if label is None:
            total = total + sum(log_q[b, y].exp() * (bounds[y] - log_q[b, y]) for y in range(C))
        else:
            total = total + bounds[label] + alpha * log_q[b, label]
    return total
