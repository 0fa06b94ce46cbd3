"""Two modalities of one latent, the halves of a picture, joined by a product of experts, by hand.

e_m(z) = exp(-1/2 z'A_m z + z'h_m),   q(z|x) = N(u, P^-1),   P = I + sum_m A_m,   u = P^-1 sum_m h_m
"""

import torch
from by_hand.vae import L, mlp
from torch import nn
from torch.nn import functional as F

SIZE = 392


class CrossModalByHand(nn.Module):
    """Its forward is the loss, in nats per batch."""

    def __init__(self):
        super().__init__()
        self.decoders = nn.ModuleList(mlp(L, SIZE) for _ in range(2))
        self.encoders = nn.ModuleList(mlp(SIZE, 2 * L) for _ in range(2))

    def forward(self, left, right):
        h, P = 0.0, 1.0
        for encoder, x in zip(self.encoders, (left, right), strict=True):
            shift, a = encoder(x).chunk(2, -1)
            h, P = h + shift, P + (2 * a).exp()
        mean, scale = h / P, P.rsqrt()
        z = mean + scale * torch.randn_like(scale)
        loss = 0.5 * (mean**2 + scale**2 - 1 + P.log()).sum()
        for decoder, x in zip(self.decoders, (left, right), strict=True):
            loss = loss + F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        return loss
