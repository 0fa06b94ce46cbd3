"""DCGAN-style convolutional networks that take any number of leading dimensions.

Pictures are passed flat, (..., C*H*W), so that an `MLP` and a convolutional network are interchangeable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_shape, check_last_dimension
from ppl_vae.nn.mlp import BatchNorm


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
                    # A normalisation has a bias of its own; none follows the last convolution.
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
