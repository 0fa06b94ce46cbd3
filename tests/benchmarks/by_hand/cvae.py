"""The same VAE given a label of ten, one-hot beside x and z, by hand: its forward is the loss, in nats per batch."""

import torch
from by_hand.vae import D, L, mlp, normal_kl
from torch import nn
from torch.nn import functional as F

C = 10


class CVAEByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = mlp(L + C, D), mlp(D + C, 2 * L)

    def forward(self, x, c):
        code = F.one_hot(c, C).to(x.dtype)
        mean, log_scale = self.encoder(torch.cat((x, code), -1)).chunk(2, -1)
        scale = log_scale.exp()
        z = mean + scale * torch.randn_like(scale)
        logits = self.decoder(torch.cat((z, code), -1))
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + normal_kl(mean, scale, log_scale)
