"""What whole numbers and four dimensions mean: bytes or counts, channels first or last.

A picture is kept channels first, (C, H, W), and its bytes as multiples of 1/255. Where the numbers do not
decide it, an error of one line asks for an option of `from_tensors`.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError, unknown_name
from ppl_vae.data.own.checks import are_counts

Layout = Literal["first", "last"]
ImageShape = tuple[int, int, int]

_CHANNELS = (1, 3, 4)  # grey; red, green, blue; and how opaque


def layout(shape: tuple[int, ...]) -> Layout | None:
    """Return where the channels of a picture of this shape stand, or None where it may be either way.

    One end of the shape is a number of channels that pictures have, and the other is not; or both are, and only one way
    is the picture square. Channels of another number stand first where there are fewer of them than rows and columns.
    """
    first, middle, last = shape
    if (first in _CHANNELS) != (last in _CHANNELS):
        return "first" if first in _CHANNELS else "last"
    if first in _CHANNELS:
        return None if (middle == last) == (first == middle) else "first" if middle == last else "last"
    return "first" if first < min(middle, last) else None


def channels_first(x: Tensor, image_shape: ImageShape | None, channels: str | None) -> tuple[Tensor, ImageShape | None]:
    """Return x with its channels before its rows, and the shape of a picture where that is known.

    Parameters
    ----------
    x : Tensor
        (N, C, H, W) or (N, H, W, C); flat pictures (N, D), with `image_shape`; or anything else, which stays as it is.
    image_shape : (C, H, W), optional
        The shape of a picture.
    channels : {"first", "last"}, optional
        Where they stand in x; by default inferred from the shapes.

    Raises
    ------
    InputError
        If the shapes do not determine it, or `channels` is given for data that are not pictures.
    """
    if channels not in (None, "first", "last"):
        raise unknown_name("channels", channels, ("first", "last"))
    if x.dim() == 4:
        shape = (x.shape[1], x.shape[2], x.shape[3])
        if channels is None and image_shape is not None:
            turned = tuple(image_shape) == (shape[2], *shape[:2]) != shape
            channels = "last" if turned else "first"
        elif channels is None:
            channels = layout(shape)
        if channels is None:
            got = f"{tuple(x.shape)}, which may be either"
            hint = "channels='first' or channels='last'"
            raise InputError("x", expected="pictures (N, C, H, W) or (N, H, W, C)", got=got, hint=hint)
        x = x.movedim(-1, 1).contiguous() if channels == "last" else x
        return x, image_shape or (x.shape[1], x.shape[2], x.shape[3])
    if channels == "last" and image_shape is not None and x.dim() == 2 and len(image_shape) == 3:
        C, H, W = image_shape
        if x.shape[1] == C * H * W:
            return x.reshape(-1, H, W, C).movedim(-1, 1).flatten(1), image_shape
    elif channels is not None and image_shape is None:
        expected = "pictures, x (N, C, H, W) or (N, H, W, C), or an image_shape"
        raise InputError("channels", expected=expected, got=f"x {tuple(x.shape)}", hint="leaving channels out")
    if x.dim() == 3 and x.dtype == torch.uint8 and image_shape is None:
        image_shape = (1, x.shape[1], x.shape[2])  # bytes in rows and columns
    return x, image_shape


def grey_levels(x: Tensor, levels: int) -> Tensor:
    """Return whole numbers 0..levels-1 as multiples of 1/(levels-1), and numbers that are such already as they are."""
    whole = not x.is_floating_point() or (bool((x > 1).any()) and are_counts(x))
    return x / (levels - 1) if whole else x


def told_apart(x: Tensor, is_picture: bool) -> tuple[Tensor, int | None]:
    """Return x and the number of its grey levels: bytes of pictures divided by 255; counts and the rest as they are.

    Warns
    -----
    UserWarning
        Where it divides.

    Raises
    ------
    InputError
        For whole numbers that may be grey levels or counts: other ones of pictures, and bytes of what is no picture.
    """
    if x.numel() == 0 or not are_counts(x) or not bool((x > 1).any()):
        return x, None
    most, is_bytes = int(x.max()), x.dtype == torch.uint8
    if is_picture and (most == 255 or is_bytes):
        line = "x: whole numbers 0 to 255 of pictures are divided by 255 (levels=256); support='count' keeps counts"
        warnings.warn(line, stacklevel=3)
        return x / 255, 256
    if is_picture or is_bytes or most == 255:
        levels = 256 if most <= 255 and (is_bytes or most == 255) else most + 1
        raise InputError(
            "x",
            expected="a choice whether whole numbers are grey levels or counts",
            got=f"{'bytes' if is_bytes else 'whole numbers'} 0 to {most}",
            hint=f"levels={levels}, which divides by {levels - 1}, or support='count'",
        )
    return x, None
