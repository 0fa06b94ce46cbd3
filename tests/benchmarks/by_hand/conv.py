"""A convolutional VAE of pictures 28x28 by hand, after DCGAN: its forward is the loss, in nats per batch.

Strided convolutions of 32 and 64 channels, batch norm but after the first, ReLU, an affine map to z of 50, and their
mirror. Pictures come flat. With `channels_last`, weights and activations have their channels innermost, the layout that
oneDNN and cuDNN take fastest; PyTorch's own default has them outermost.
"""

import torch
from by_hand.vae import D, L, normal_kl
from torch import nn
from torch.nn import functional as F


class ConvByHand(nn.Module):
    def __init__(self, channels_last=False):
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        halve = {"kernel_size": 4, "stride": 2, "padding": 1}
        self.widen = nn.Linear(L, 64 * 7 * 7, bias=False)
        self.up = nn.Sequential(
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, bias=False, **halve),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 1, **halve),
        )
        self.down = nn.Sequential(
            nn.Conv2d(1, 32, **halve),
            nn.ReLU(),
            nn.Conv2d(32, 64, bias=False, **halve),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 2 * L),
        )
        self.to(memory_format=self.layout)

    def encoder(self, x):
        return self.down(x.view(-1, 1, 28, 28).contiguous(memory_format=self.layout))

    def decoder(self, z):
        h = self.widen(z).view(-1, 64, 7, 7).contiguous(memory_format=self.layout)
        return self.up(h).reshape(-1, D)

    def forward(self, x):
        mean, log_scale = self.encoder(x).chunk(2, -1)
        scale = log_scale.exp()
        logits = self.decoder(mean + scale * torch.randn_like(scale))
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + normal_kl(mean, scale, log_scale)
