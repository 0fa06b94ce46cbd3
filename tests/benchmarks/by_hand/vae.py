"""A VAE 784-200-200-50-200-200-784, tanh, Bernoulli, by hand: its forward is the loss, in nats per batch.

One particle: the negative ELBO with an analytic KL. K of them: the negative importance-weighted bound.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

D, H, L = 784, 200, 50


def mlp(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, H), nn.Tanh(), nn.Linear(H, H), nn.Tanh(), nn.Linear(H, outputs))


def normal_kl(mean, scale, log_scale):
    """Return KL(N(mean, scale^2) || N(0, I)), summed over the batch."""
    return 0.5 * (mean**2 + scale**2 - 1).sum() - log_scale.sum()


class VAEByHand(nn.Module):
    def __init__(self, num_particles=1):
        super().__init__()
        self.K = num_particles
        self.decoder, self.encoder = mlp(L, D), mlp(D, 2 * L)

    def forward(self, x):
        mean, log_scale = self.encoder(x).chunk(2, -1)
        scale = log_scale.exp()
        if self.K > 1:
            noise = torch.randn(self.K, *mean.shape, device=mean.device)
            z = mean + scale * noise
            log_ratio = (0.5 * (noise**2 - z**2) + log_scale).sum(-1)
            logits = self.decoder(z)
            log_p = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
            return -(torch.logsumexp(log_p + log_ratio, 0) - math.log(self.K)).sum()
        logits = self.decoder(mean + scale * torch.randn_like(scale))
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + normal_kl(mean, scale, log_scale)
