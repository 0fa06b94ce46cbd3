"""Programs with layers that depend on the batch, on the mode, on shapes, or that keep weights in their own way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from program_parts import (
    D,
    Guide,
    L,
    Model,
    Program,
    decoder,
    decoding,
    encoder,
    encoding,
    guided,
    picture_model,
    pictures,
)
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


def with_layer(layer):
    """Return a maker of an encoder with a layer in the middle."""
    return lambda: nn.Sequential(nn.Linear(D, 8), layer(), nn.Tanh(), nn.Linear(8, 2 * L))


def writer_with(layer):
    """Return a maker of a decoder with a layer in the middle."""
    return lambda: nn.Sequential(nn.Linear(L, 8), layer(), nn.Tanh(), nn.Linear(8, D))


def convolutions(*more):
    return nn.Sequential(nn.Conv2d(1, 3, 3), *more, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2 * L))


class DecodesPictures(nn.Module):
    """Transposed convolutions of four dimensions, no more."""

    def __init__(self):
        super().__init__()
        self.up, self.grow = nn.Linear(L, 12), nn.ConvTranspose2d(3, 1, 3, stride=2, padding=1, output_padding=1)
        self.last = nn.Conv2d(1, 1, 3, padding=2)

    def forward(self, z):
        return self.last(self.grow(self.up(z).view(len(z), 3, 2, 2)))


class ViewsRows(nn.Module):
    """Flattens all that is not the first dimension."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.view(x.size(0), -1))


class Tied(nn.Module):
    """One matrix there and back."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2 * L, D) / 3)
        self.first, self.second = nn.Linear(2 * L, 2 * L), nn.Linear(2 * L, 2 * L)
        self.second.weight = self.first.weight

    def forward(self, x):
        code = F.linear(x, self.weight)
        back = F.linear(code, self.weight.T)
        return self.second(self.first(F.linear(back - x, self.weight)).tanh())


class ByMode(nn.Module):
    """Noise while training, none after."""

    def __init__(self):
        super().__init__()
        self.network = encoder()

    def forward(self, x):
        return self.network(x + 0.3 * torch.randn_like(x) if self.training else x)


class AlwaysDrops(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = encoder()

    def forward(self, x):
        return self.network(F.dropout(x, 0.3, training=True))


class Checkpointed(nn.Module):
    """A network with dropout, computed again on the way back."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.first = nn.Linear(D, 16)
        self.rest = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2 * L))
        self.use_reentrant = use_reentrant

    def forward(self, x):
        return checkpoint(self.rest, self.first(x), use_reentrant=self.use_reentrant)


class CheckpointedInPieces(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 2 * L))

    def forward(self, x):
        return checkpoint_sequential(self.network, 2, x, use_reentrant=False)


class Lazy(nn.Module):
    """Layers that find out their sizes when they are first called."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(2 * L))
        self.network(torch.zeros(1, D))

    def forward(self, x):
        return self.network(x)


class Experts(nn.Module):
    """Each row by the expert that a gate chooses for it."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(D, 3), nn.ModuleList([encoder() for _ in range(3)])

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        chosen = weights.argmax(-1)
        out = torch.zeros(len(x), 2 * L).to(x)
        for number, expert in enumerate(self.experts):
            rows = chosen == number
            if rows.any():
                out[rows] = expert(x[rows]) * weights[rows, number, None]
        return out


class Normalised(Guide):
    """Batch norm whose momentum is one over the number of batches."""

    def __init__(self):
        super().__init__(nn.Sequential(nn.BatchNorm1d(D, momentum=None), encoder()))


PROGRAMS = {
    "plain networks": Program(lambda: (Model(), Guide()), recorded=True, ais=True, fused=True),
    "batch norm 1d in the guide": Program(encoding(with_layer(lambda: nn.BatchNorm1d(8))), recorded=True),
    "batch norm 1d in the model": Program(decoding(writer_with(lambda: nn.BatchNorm1d(8)))),
    "batch norm 1d of cumulative momentum": Program(guided(Normalised)),
    "batch norm without averages": Program(
        encoding(with_layer(lambda: nn.BatchNorm1d(8, track_running_stats=False))), recorded=True
    ),
    "convolutions": Program(encoding(convolutions, picture_model), pictures, recorded=True, fused=True),
    "convolutions and batch norm 2d": Program(
        encoding(lambda: convolutions(nn.BatchNorm2d(3)), picture_model), pictures, recorded=True
    ),
    "convolutions and dropout 2d": Program(
        encoding(lambda: convolutions(nn.Dropout2d(0.3)), picture_model), pictures, recorded=True
    ),
    "convolutions and instance norm": Program(
        encoding(lambda: convolutions(nn.InstanceNorm2d(3, affine=True)), picture_model), pictures
    ),
    "convolutions in the model": Program(
        lambda: (Model(DecodesPictures(), (1, 6, 6)), Guide(convolutions())), pictures
    ),
    "view of rows in the guide": Program(
        encoding(lambda: ViewsRows(encoder(36)), picture_model), pictures, recorded=True
    ),
    "view of rows in the model": Program(decoding(lambda: ViewsRows(decoder()))),
    "group norm": Program(encoding(with_layer(lambda: nn.GroupNorm(2, 8))), recorded=True),
    "group norm in the model": Program(decoding(writer_with(lambda: nn.GroupNorm(2, 8)))),
    "layer norm": Program(decoding(writer_with(lambda: nn.LayerNorm(8))), recorded=True),
    "spectral norm, older": Program(
        lambda: (Model(), Guide(nn.Sequential(spectral_norm(nn.Linear(D, 8)), nn.Tanh(), nn.Linear(8, 2 * L))))
    ),
    "spectral norm": Program(
        lambda: (Model(), Guide(nn.Sequential(parametrizations.spectral_norm(nn.Linear(D, 8)), nn.Linear(8, 2 * L))))
    ),
    "weight norm, older": Program(
        lambda: (Model(), Guide(nn.Sequential(weight_norm(nn.Linear(D, 8)), nn.Tanh(), nn.Linear(8, 2 * L))))
    ),
    "weight norm": Program(
        lambda: (Model(), Guide(nn.Sequential(parametrizations.weight_norm(nn.Linear(D, 8)), nn.Linear(8, 2 * L))))
    ),
    "orthogonal weights": Program(
        lambda: (Model(), Guide(nn.Sequential(parametrizations.orthogonal(nn.Linear(D, D)), encoder())))
    ),
    "tied weights": Program(encoding(Tied), recorded=True),
    "dropout": Program(encoding(with_layer(lambda: nn.Dropout(0.4))), recorded=True),
    "alpha dropout": Program(encoding(with_layer(lambda: nn.AlphaDropout(0.2)))),
    "random slopes": Program(encoding(with_layer(nn.RReLU))),
    "dropout in every mode": Program(encoding(AlwaysDrops), recorded=True),
    "noise by mode": Program(encoding(ByMode), recorded=True),
    "checkpoint around dropout": Program(encoding(lambda: Checkpointed(use_reentrant=False))),
    "checkpoint around dropout, reentrant": Program(encoding(lambda: Checkpointed(use_reentrant=True))),
    "checkpoint in pieces": Program(encoding(CheckpointedInPieces)),
    "lazy layers": Program(encoding(Lazy)),
    "gated experts": Program(encoding(Experts)),
}
