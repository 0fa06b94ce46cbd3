"""Binary sprites drawn from five known factors, after dSprites (Matthey, Higgins, Hassabis & Lerchner 2017).

A pixel is ink when its centre p lies in the canonical shape, scaled, turned by t and moved to c: with y downward and
(dx, dy) = (p - c)/scale, u = cos t dx - sin t dy and v = sin t dx + cos t dy lie in it. On a canvas of 64 units,
c = 16 + 32 (posX, posY), and the canonical shapes are

- square:  max(|u|, |v|) <= 9.6
- ellipse: (u/12.764)^2 + (v/7.2155)^2 <= 1
- heart:   inside u = 9.595 sin^3 a, v = -0.662 (13 cos a - 5 cos 2a - 2 cos 3a - cos 4a) - 1.4378
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ppl_vae.core.errors import InputError
from ppl_vae.data.seeding import generator
from ppl_vae.data.sets.synthetic import check_count, eighty_ten_ten
from ppl_vae.data.spec import Spec
from ppl_vae.data.split import Dataset

#: Factor -> its values, in the order of the columns of ``factors``; shape 0 square, 1 ellipse, 2 heart; orientation in
#: radians (as in dSprites, both 0 and 2 pi occur); positions as a share of the canvas' middle half.
FACTORS: dict[str, tuple[float, ...]] = {
    "shape": (0.0, 1.0, 2.0),
    "scale": tuple(np.linspace(0.5, 1, 6).tolist()),
    "orientation": tuple(np.linspace(0, 2 * math.pi, 40).tolist()),
    "posX": tuple(np.linspace(0, 1, 32).tolist()),
    "posY": tuple(np.linspace(0, 1, 32).tolist()),
}
_ROWS_AT_ONCE = 512  # bounds the memory of drawing


def sprites(seed: int = 0, *, num_rows: int = 10_000, size: int = 32) -> Dataset:
    """Return sprites with distinct factors drawn by `seed` from all 737280 combinations, 80/10/10.

    x (N, size^2) in {0, 1}, y the shape (N,), ``factors`` (N, 5) float: the values of `FACTORS`, column by column.

    Parameters
    ----------
    seed : int
        Seed of the choice of factors.
    num_rows : int
        Number of images in all, 10 to 737280.
    size : int
        Height and width in pixels, at least 8.

    Raises
    ------
    InputError
        If an option is out of range.
    """
    counts = [len(values) for values in FACTORS.values()]
    num_rows, size = check_count("num_rows", num_rows, 10, math.prod(counts)), check_count("size", size, 8)
    chosen = torch.randperm(math.prod(counts), generator=generator(seed, "sprites"), device="cpu")[:num_rows]
    columns = zip(FACTORS.values(), torch.unravel_index(chosen, counts), strict=True)
    factors = torch.stack([torch.tensor(values, device="cpu")[index] for values, index in columns], dim=1)
    tensors = {"x": draw_sprites(factors, size), "y": factors[:, 0].long(), "factors": factors}
    spec = Spec("sprites", (size * size,), "binary", image_shape=(1, size, size), num_classes=3, levels=2)
    return eighty_ten_ten(tensors, spec)


def draw_sprites(factors: Tensor, size: int = 32) -> Tensor:
    """Return the images (N, size^2) in {0, 1} of any factors (N, 5), on the grid of `FACTORS` or off it.

    Raises
    ------
    InputError
        If `factors` has another shape, a shape other than 0, 1 or 2, a scale <= 0, or a value that is not finite.
    """
    if factors.dim() != 2 or factors.shape[1] != len(FACTORS):
        expected = f"shape (N, 5): {', '.join(FACTORS)}"
        raise InputError("factors", expected=expected, got=f"{tuple(factors.shape)}")
    bad = (
        ~torch.isfinite(factors).all(1)
        | ~torch.isin(factors[:, 0], torch.arange(3.0, device="cpu").to(factors))
        | (factors[:, 1] <= 0)
    )
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        got = f"{[round(value, 6) for value in factors[row].tolist()]} in row {row}"
        raise InputError("factors", expected="shape 0, 1 or 2, scale above 0, finite values", got=got)
    size = check_count("size", size, 1)
    return torch.cat([_draw(rows, size) for rows in factors.double().split(_ROWS_AT_ONCE)])


def _draw(factors: Tensor, size: int) -> Tensor:
    shape, scale, turn, pos_x, pos_y = factors[:, :, None, None].unbind(dim=1)  # each (N, 1, 1)
    centres = (torch.arange(size, dtype=torch.float64, device="cpu") + 0.5) * (64 / size)
    dx = (centres - (16 + 32 * pos_x)) / scale  # (N, 1, size)
    dy = (centres[:, None] - (16 + 32 * pos_y)) / scale  # (N, size, 1)
    u = turn.cos() * dx - turn.sin() * dy  # (N, size, size)
    v = turn.sin() * dx + turn.cos() * dy
    ink = torch.where(shape == 0, _square(u, v), torch.where(shape == 1, _ellipse(u, v), _heart(u, v)))
    return ink.flatten(1).float()


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) <= 9.6


def _ellipse(u: Tensor, v: Tensor) -> Tensor:
    return (u / 12.764) ** 2 + (v / 7.2155) ** 2 <= 1


def _heart(u: Tensor, v: Tensor) -> Tensor:
    """Return whether (u, v) lies between the two points of the heart's edge at u.

    At given u the edge has cos a = +c and -c: the even powers of c in v are the middle of the two points, the odd ones
    half their distance.
    """
    c2 = 1 - (u.abs() / 9.595) ** (2 / 3)
    inside = c2 >= 0
    c2 = c2.clamp(min=0)
    middle = -0.662 * (4 - 2 * c2 - 8 * c2**2) - 1.4378
    half = 0.662 * (19 - 8 * c2) * c2.sqrt()
    return inside & ((v - middle).abs() <= half)
