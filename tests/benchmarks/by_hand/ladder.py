"""The ladder VAE by hand: each p(z_k|z_{k+1}) is computed once, for the guide and for the KL.

Latents 64-32-16-8-4, two hidden layers of 512, 256, 128, 64, 64 for each, leaky ReLU, batch norm.
"""

import torch
from torch import nn
from torch.nn import functional as F

D = 784
LATENTS, WIDTHS = (64, 32, 16, 8, 4), (512, 256, 128, 64, 64)


class LadderByHand(nn.Module):
    """Its forward is the loss, in nats per batch."""

    def __init__(self):
        super().__init__()
        below = (D, *WIDTHS)
        self.decoder = nn.Sequential(_hidden(LATENTS[0], WIDTHS[0]), nn.Linear(WIDTHS[0], D))
        self.down = nn.ModuleList(
            nn.Sequential(_hidden(above, m), nn.Linear(m, 2 * n))
            for above, m, n in zip(LATENTS[1:], WIDTHS[1:], LATENTS, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ModuleList((_hidden(before, m), nn.Linear(m, 2 * n)))
            for before, m, n in zip(below, WIDTHS, LATENTS, strict=False)
        )

    def forward(self, x):
        d, found = x, []
        for up, evidence in self.up:
            d = up(d)
            found.append(_normal(evidence(d)))
        mean, scale = found[-1]
        z = mean + scale * torch.randn_like(scale)
        kl = (0.5 * (mean**2 + scale**2 - 1) - scale.log()).sum()
        for (m, s), down in zip(found[-2::-1], reversed(self.down), strict=True):
            n, t = _normal(down(z))
            p_s, p_t = s**-2, t**-2
            variance = 1 / (p_s + p_t)
            mean = variance * (p_s * m + p_t * n)
            z = mean + variance.sqrt() * torch.randn_like(mean)
            kl = kl + (0.5 * ((variance + (mean - n) ** 2) * p_t - 1 - variance.log()) + t.log()).sum()
        return F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum") + kl


def _normal(output):
    """Return mean and scale."""
    mean, a = output.chunk(2, -1)
    return mean, F.softplus(a) + 1e-4


def _hidden(n, m):
    """Return two hidden layers."""
    layers = [(nn.Linear(i, m, bias=False), nn.BatchNorm1d(m), nn.LeakyReLU()) for i in (n, m)]
    return nn.Sequential(*(layer for three in layers for layer in three))


def products(B):
    """Return the chains of matrix products of a batch of B, as `timing.multiply_adds` takes them."""
    up = [(B, *sizes) for n, m in zip((D, *WIDTHS), WIDTHS, strict=False) for sizes in ((n, m), (m, m))]
    evidence = [(B, m, 2 * n) for m, n in zip(WIDTHS, LATENTS, strict=True)]
    down = []
    for above, m, n in zip(LATENTS, WIDTHS, (D, *(2 * n for n in LATENTS)), strict=False):
        down += [(B, above, m), (B, m, m), (B, m, n)]
    return [up + evidence + down]
