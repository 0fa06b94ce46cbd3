"""A skeleton's pose apart from the viewpoint it is seen from.

    joints = pose R,   rows of R: the palm's axes in the camera's frame,   R R' = I, det R = 1

The palm's y axis runs along i -> a, its x axis towards j -> b at right angles to it, and z = x cross y: in `pose` the
palm always lies in one plane, turned one way, and R is the viewpoint (Yang & Yao 2019 part the two so). For any
rotation G, the rows of joints G have the same pose, seen from R G.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError

_LEAST_SINE = 1e-3  # of the angle between the palm's two directions: below, its plane is not known


def split_viewpoint(joints: Tensor, palm: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Return the pose (..., J, 3) in the palm's frame and the viewpoint R (..., 3, 3); `join_viewpoint` inverts it.

    Parameters
    ----------
    joints : Tensor (..., J, 3)
        Positions about the root.
    palm : four of int
        Joints i, a, j, b: the y axis runs from i to a, and x leans towards j -> b.

    Raises
    ------
    InputError
        If `joints` has another shape, or the two directions of a palm are none or one.
    """
    if joints.dim() < 2 or joints.shape[-1] != 3:
        raise InputError("joints", expected="shape (..., J, 3)", got=str(tuple(joints.shape)))
    start, end, near, far = palm
    along = joints[..., end, :] - joints[..., start, :]
    side = joints[..., far, :] - joints[..., near, :]
    normal = torch.linalg.cross(side, along)
    flat = ~(normal.norm(dim=-1) > _LEAST_SINE * along.norm(dim=-1) * side.norm(dim=-1))  # also where one is NaN
    if bool(flat.any()):
        row = flat.reshape(-1).nonzero()[0].item()
        got = f"none in row {row} ({int(flat.sum())} such)"
        raise InputError("palm", expected="two directions that span a plane", got=got, hint="leaving those rows out")
    y, z = (torch.nn.functional.normalize(axis, dim=-1) for axis in (along, normal))
    rotation = torch.stack([torch.linalg.cross(y, z), y, z], -2)
    return joints @ rotation.mT, rotation


def join_viewpoint(pose: Tensor, rotation: Tensor) -> Tensor:
    """Return joints (..., J, 3) of a pose (..., J, 3) seen from viewpoint R (..., 3, 3): each row times R."""
    return pose @ rotation


def rotation_matrix(vector: Tensor) -> Tensor:
    """Return R (..., 3, 3) that turns rows, x R, by |vector| radians about `vector` (..., 3).

    R' = exp([v]x) (Rodrigues). ``join_viewpoint(joints, rotation_matrix(v))`` shows joints from another side.
    """
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(cross).mT


def angle_between(first: Tensor, second: Tensor) -> Tensor:
    """Return the angle (...) in degrees, 0 to 180, by which two viewpoints (..., 3, 3) differ.

    |R - S|^2 = 8 sin^2(angle / 2), which holds its digits where the angle is small.
    """
    chord = (first - second).flatten(-2).norm(dim=-1) / 8**0.5
    return 2 * chord.clamp(0, 1).asin().rad2deg()
