"""A pinhole camera: points in space to pixels and depth, and back.

    u = fx x / z + ux,   v = fy y / z + uy,   d = z          project
    x = (u - ux) d / fx, y = (v - uy) d / fy, z = d          unproject

Lengths are in mm, z away from the camera, u to the right and v down in pixels. fy below 0 means that y points up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError, shown
from ppl_vae.core.shapes import check_last_dimension


@dataclass(frozen=True)
class Camera:
    """The four intrinsics of a pinhole camera.

    Parameters
    ----------
    fx, fy : float
        Focal lengths in pixels, not 0.
    ux, uy : float
        Principal point in pixels.

    Raises
    ------
    InputError
        If one is not finite, or a focal length is 0.
    """

    fx: float
    fy: float
    ux: float
    uy: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or (value == 0 and field.name.startswith("f")):
                expected = "a finite number" + ", not 0" * field.name.startswith("f")
                raise InputError(f"camera's {field.name}", expected=expected, got=shown(value))

    @property
    def y_up(self) -> bool:
        """Whether y points up, against the direction of v."""
        return self.fy < 0

    def project(self, xyz: Tensor) -> Tensor:
        """Return u, v (pixels) and depth d (mm), (..., 3), of points xyz (..., 3) in mm.

        Raises
        ------
        InputError
            If a point is not finite, or not in front of the camera (z <= 0).
        """
        x, y, z = _in_front("joints x, y, z", xyz).unbind(-1)
        return torch.stack([self.fx * x / z + self.ux, self.fy * y / z + self.uy, z], -1)

    def unproject(self, uvd: Tensor) -> Tensor:
        """Return points x, y, z in mm, (..., 3), of uvd (..., 3): pixels u, v and depth d in mm.

        Raises
        ------
        InputError
            If a point is not finite, or not in front of the camera (d <= 0).
        """
        u, v, d = _in_front("joints u, v, d", uvd).unbind(-1)
        return torch.stack([(u - self.ux) * d / self.fx, (v - self.uy) * d / self.fy, d], -1)


def _in_front(what: str, points: Tensor) -> Tensor:
    check_last_dimension(what, points, 3)
    for bad, expected in (
        (~torch.isfinite(points).all(-1), "finite values"),
        (points[..., 2] <= 0, "joints in front of the camera, depth above 0"),
    ):
        if bool(bad.any()):
            index = tuple(bad.nonzero()[0].tolist())
            value = [round(number, 3) for number in points[index].tolist()]
            got = f"{value} at {list(index)} ({int(bad.sum())} such)"
            raise InputError(what, expected=expected, got=got, hint="leaving those rows out")
    return points
