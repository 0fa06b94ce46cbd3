"""PPCA with its linear guide, by hand: its forward is the loss, in nats per batch."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class PPCAByHand(nn.Module):
    def __init__(self, x_dim, latent_dim):
        super().__init__()
        decode, encode = nn.Linear(latent_dim, x_dim), nn.Linear(x_dim, latent_dim)
        self.weight, self.bias = decode.weight, decode.bias
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.gain, self.offset = encode.weight, encode.bias
        self.tril = nn.Parameter(torch.zeros(latent_dim, latent_dim))

    def forward(self, x):
        T = self.tril.tril(-1) + self.tril.diagonal().exp().diag_embed()
        mean = F.linear(x, self.gain, self.offset)
        x_hat = F.linear(mean + torch.randn_like(mean) @ T.T, self.weight, self.bias)
        scale = self.log_scale.exp()
        distortion = 0.5 * ((x - x_hat) / scale).square().sum()
        distortion = distortion + x.numel() * (self.log_scale + 0.5 * math.log(2 * math.pi))
        kl = 0.5 * (mean.square().sum() + len(x) * (T.square().sum() - T.shape[0]))
        return distortion + kl - len(x) * self.tril.diagonal().sum()
