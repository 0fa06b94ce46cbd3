"""Feed-forward networks that take any number of leading dimensions: MLP, DCGAN-style convolutions, inputs by logarithm.

Data pass between parts flat, (..., C*H*W), so that an MLP and a convolutional network are interchangeable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.checks import integer_at_least, one_of
from ppl_vae.config import configurable
from ppl_vae.errors import InputError
from ppl_vae.shapes import as_shape, as_widths, check_last_dimension

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}

INITS = ("default", "glorot")


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over all but dimension 1, of (N, C) or (N, C, H, W).

    A training batch with one value per channel has no variance of its own; the running statistics stand in, so
    that a last batch of size one trains as well.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised `x`, shape unchanged."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any rank will do."""


@configurable
class MLP(nn.Module):
    """Multi-layer perceptron: affine maps with a nonlinearity between them, (..., in_features) -> (..., out_features).

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last dimension before and after.
    hidden : sequence of int
        Widths of the hidden layers; empty makes one affine map.
    activation : str
        One of `ACTIVATIONS`.
    batch_norm : bool
        Normalise before each activation, over all leading dimensions together.
    init : {"default", "glorot"}
        PyTorch's own initialisation, or uniform weights (Glorot & Bengio 2010, eq. 16) with biases at zero.

    Raises
    ------
    InputError
        If a size is below one or a name is unknown; when called, if the last dimensions do not add up to `in_features`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        batch_norm: bool = False,
        init: str = "default",
    ) -> None:
        super().__init__()
        one_of("activation", activation, ACTIVATIONS)
        one_of("init", init, INITS)
        self.in_features = integer_at_least("in_features", in_features, 1)
        self.out_features = integer_at_least("out_features", out_features, 1)
        self.batch_norm = batch_norm
        widths = (self.in_features, *as_widths("hidden", hidden))
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers.append(nn.Linear(before, after, bias=not batch_norm))
            if batch_norm:
                layers.append(BatchNorm(after))
            layers.append(ACTIVATIONS[activation]())
        layers.append(nn.Linear(widths[-1], self.out_features))
        self.layers = nn.Sequential(*layers)
        if init == "glorot":
            for layer in self.layers:
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, *beside: Tensor) -> Tensor:
        """Map (..., in_features), whole or as several parts side by side, to (..., out_features).

        Parts broadcast against each other, and each meets its own columns of the first weight, W(u, v) = W_u u + W_v v,
        so that what all classes or particles have in common is multiplied once.
        """
        parts = (x, *beside)
        if sum(part.shape[-1] if part.ndim else 0 for part in parts) != self.in_features:
            got = ", ".join(str(tuple(part.shape)) for part in parts)
            raise InputError("input of MLP", expected=f"last dimension {self.in_features}", got=got)
        layers: list[Any] = list(self.layers)
        first, *rest = layers
        if beside:
            weights = first.weight.split([part.shape[-1] for part in parts], 1)
            h = F.linear(x, weights[0], first.bias)
            for part, weight in zip(beside, weights[1:], strict=True):
                h = h + F.linear(part, weight)
        else:
            h = first(x)
        leading = h.shape[:-1]
        if self.batch_norm:
            h = h.reshape(-1, h.shape[-1])
        for layer in rest:
            h = layer(h)
        return h.reshape(*leading, self.out_features)


@configurable
class LogInputs(nn.Module):
    """A network of log(1 + x), so that counts of any size come to it as numbers of order one (Lopez et al. 2018).

    Parameters
    ----------
    network : Module
        Maps (..., D) to (..., `out_features`).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., D), 0 or more, through the logarithm and the network."""
        return self.network(x.log1p())


@configurable
class ConvEncoder(nn.Module):
    """Strided convolutions, (..., C*H*W) -> (..., out_features), after DCGAN (Radford et al. 2016, section 3).

    Every convolution (kernel 4, stride 2, padding 1) halves the picture, odd sides rounding down; batch normalisation
    follows all but the first, ReLU all; one affine map ends it.

    Parameters
    ----------
    image_shape : tuple of int
        (C, H, W); any H and W of at least 2 ** len(channels).
    out_features : int
        Size of the last dimension after.
    channels : sequence of int
        Channels after each convolution.
    batch_norm : bool
        Whether to normalise.

    Raises
    ------
    InputError
        If a size is below one or the picture too small; when called, if the last dimension is not C*H*W.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int,
        channels: Sequence[int] = (32, 64),
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        channels = as_shape("channels", channels)
        self.image_shape, sizes = _halvings(image_shape, len(channels))
        self.in_features = math.prod(self.image_shape)
        self.out_features = integer_at_least("out_features", out_features, 1)
        layers: list[nn.Module] = []
        widths = (self.image_shape[0], *channels)
        for depth, (before, after) in enumerate(pairwise(widths)):
            normalise = batch_norm and depth > 0
            layers.append(nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1, bias=not normalise))
            if normalise:
                layers.append(BatchNorm(after))
            layers.append(nn.ReLU())
        height, width = sizes[-1]
        layers += [nn.Flatten(), nn.Linear(channels[-1] * height * width, self.out_features)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C*H*W) to (..., out_features)."""
        check_last_dimension("input of ConvEncoder", x, self.in_features)
        return self.layers(x.reshape(-1, *self.image_shape)).reshape(*x.shape[:-1], self.out_features)


@configurable
class ConvDecoder(nn.Module):
    """Transposed convolutions, (..., in_features) -> (..., P*C*H*W), the mirror of `ConvEncoder` (ibid.).

    One affine map, then a transposed convolution (kernel 4, stride 2, padding 1) per entry of `channels`. Each doubles
    the picture and adds the row or column of an odd side, so that H and W come out exactly; batch normalisation and
    ReLU come before each.

    Parameters
    ----------
    in_features : int
        Size of the last dimension before.
    image_shape : tuple of int
        (C, H, W); any H and W of at least 2 ** len(channels).
    parameters_per_pixel : int
        P, the likelihood's `parameters_per_dim`. The output is laid out (P, C, H, W) and flattened.
    channels : sequence of int
        Channels before each transposed convolution.
    batch_norm : bool
        Whether to normalise.

    Raises
    ------
    InputError
        If a size is below one or the picture too small; when called, if the last dimension is not `in_features`.
    """

    def __init__(
        self,
        in_features: int,
        image_shape: Sequence[int],
        parameters_per_pixel: int = 1,
        channels: Sequence[int] = (64, 32),
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        channels = as_shape("channels", channels)
        self.image_shape, sizes = _halvings(image_shape, len(channels))
        self.in_features = integer_at_least("in_features", in_features, 1)
        planes = integer_at_least("parameters_per_pixel", parameters_per_pixel, 1) * self.image_shape[0]
        self.out_features = planes * math.prod(self.image_shape[1:])
        first = (channels[0], *sizes[-1])
        layers: list[nn.Module] = [
            nn.Linear(self.in_features, math.prod(first), bias=not batch_norm),
            nn.Unflatten(1, first),
        ]
        widths = (*channels, planes)
        for depth, (height, width) in enumerate(reversed(sizes[:-1]), start=1):
            if batch_norm:
                layers.append(BatchNorm(widths[depth - 1]))
            layers.append(nn.ReLU())
            layers.append(
                nn.ConvTranspose2d(
                    widths[depth - 1],
                    widths[depth],
                    kernel_size=4,
                    stride=2,
                    padding=1,
                    output_padding=(height % 2, width % 2),
                    # A normalisation brings a bias of its own; none follows the last convolution.
                    bias=not batch_norm or depth == len(channels),
                )
            )
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map (..., in_features) to (..., P*C*H*W)."""
        check_last_dimension("input of ConvDecoder", z, self.in_features)
        return self.layers(z.reshape(-1, self.in_features)).reshape(*z.shape[:-1], self.out_features)


def _halvings(image_shape: Sequence[int], times: int) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Return (C, H, W) checked, and (H, W) before and after each of `times` halvings that round down."""
    shape = as_shape("image_shape", image_shape)
    if len(shape) != 3:
        raise InputError("image_shape", expected="(channels, height, width)", got=str(shape))
    _, height, width = shape
    if min(height, width) < 2**times:
        raise InputError(
            "image_shape",
            expected=f"height and width >= {2**times} for {times} strided convolutions",
            got=str(shape),
            hint="fewer channels",
        )
    return shape, [(height >> depth, width >> depth) for depth in range(times + 1)]
