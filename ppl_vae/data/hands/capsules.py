"""Pictures of skeletons: a capsule around each bone, seen along z in a cube around the origin.

A capsule is the union of the balls of radius r whose centres a + t (b - a), 0 <= t <= 1, run along a bone. With e the
distance of a pixel's ray from the centre at t, seen along z, its front is

    min over t of f(t) = a_z + t d_z - sqrt(r^2 - e(t)^2),   e(t)^2 = e0^2 + D^2 (t - t0)^2
    d = b - a,   D^2 = d_x^2 + d_y^2

f is convex, with its minimum at t - t0 = -d_z sqrt(r^2 - e0^2) / (D |d|); held to [0, 1] this is the front, and the ray
misses where e(t) >= r there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.core.checks import integer_at_least, positive
from ppl_vae.core.errors import InputError, shown

_ROWS_AT_ONCE = 256  # bounds the memory of drawing
_LEAST = 1e-9  # of D^2, in mm^2: a bone along the ray has no direction in the picture


def draw_capsules(
    joints: Tensor,
    bones: Sequence[tuple[int, int]],
    *,
    size: int = 32,
    half_width: float = 150.0,
    radius: float = 9.0,
    y_up: bool = False,
) -> Tensor:
    """Return pictures (N, size^2) of skeletons: 0 where there is nothing, else how near, in (0, 1].

    A value is the share of the cube that lies behind the nearest surface, so 1 is the cube's front, and `picture > 0`
    is the silhouette. Parts beyond the cube's front or back are drawn at its front or back.

    Parameters
    ----------
    joints : Tensor (N, J, 3)
        Positions in mm about the cube's centre, z away from the viewer.
    bones : sequence of pairs of int
        Indices of the joints that a bone joins.
    size : int
        Height and width in pixels.
    half_width : float
        Half the edge of the cube, mm.
    radius : float
        Radius of the capsules, mm.
    y_up : bool
        Whether y points up in the picture, instead of down.

    Raises
    ------
    InputError
        If `joints` has another shape or is not finite, there are no bones or they name joints there are not, or a
        length is not above 0.
    """
    if joints.dim() != 3 or joints.shape[-1] != 3:
        raise InputError("joints", expected="shape (N, J, 3)", got=str(tuple(joints.shape)))
    if not bool(torch.isfinite(joints).all()):
        raise InputError("joints", expected="finite values", got="NaN or an infinity")
    ends = torch.as_tensor(bones, dtype=torch.long, device=joints.device)
    if ends.dim() != 2 or ends.shape[1] != 2 or not bool(((ends >= 0) & (ends < joints.shape[1])).all()):
        raise InputError("bones", expected=f"pairs of joints 0..{joints.shape[1] - 1}", got=shown(bones))
    size = integer_at_least("size", size, 1)
    half_width, radius = positive("half_width", half_width), positive("radius", radius)
    centres = ((torch.arange(size, device=joints.device) + 0.5) * (2 / size) - 1).to(joints) * half_width
    rows = -centres if y_up else centres
    pictures = [_draw(part[:, ends], centres, rows, half_width, radius) for part in joints.split(_ROWS_AT_ONCE)]
    return torch.cat(pictures).flatten(1)


def _draw(bones: Tensor, across: Tensor, down: Tensor, half_width: float, radius: float) -> Tensor:
    """Return pictures (N, H, W) of bones (N, E, 2, 3): the nearest of their fronts, one bone at a time."""
    front = bones.new_full((len(bones), len(down), len(across)), torch.inf)
    for bone in bones.unbind(1):
        a = bone[:, 0, :, None, None]  # (N, 3, 1, 1)
        d = bone[:, 1, :, None, None] - a
        x, y = across - a[:, 0], down[:, None] - a[:, 1]  # (N, 1, W), (N, H, 1)
        dx, dy, dz = d.unbind(1)
        squared = (dx.square() + dy.square()).clamp_min(_LEAST)
        t0 = (x * dx + y * dy) / squared
        room = radius**2 - (x - t0 * dx).square() - (y - t0 * dy).square()
        t = t0 - dz * (room.clamp_min(0) / (squared * (squared + dz.square()))).sqrt()
        t = t.clamp(0, 1)
        room = radius**2 - (x - t * dx).square() - (y - t * dy).square()
        surface = a[:, 2] + t * dz - room.clamp_min(0).sqrt()
        front = torch.minimum(front, surface.masked_fill(room <= 0, torch.inf))
    near = ((half_width - front) / (2 * half_width)).clamp(torch.finfo(front.dtype).eps, 1)
    return near.masked_fill(front.isinf(), 0)
