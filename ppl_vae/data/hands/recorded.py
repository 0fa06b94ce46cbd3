"""Real hands: the joints of two videos, as 2D joints, 3D joints and pictures of one hand (Spurr et al. 2018).

NYU (Tompson, Stein, LeCun & Perlin 2014): 8252 frames, 14 joints, two subjects, 1 tested, 2 trained on.
ICVL (Tang, Chang, Tejani & Kim 2014): 1596 frames, 16 joints, two sequences, 0 tested, 1 trained on.

    joints3d = (x - x_root) / unit                              x in mm in the camera's frame, unit in mm
    joints2d = ((u - u_root) / fx, (v - v_root) / fy) / scale   the same axes as joints3d
    depth, silhouette                                           a capsule around each bone, in a cube about the root

The root is at the origin by definition and in neither: the density of a constant has no bound.

Neighbouring frames are alike, so parts are never drawn frame by frame: the test part is another subject or sequence,
and the validation part is the end of the training video, after a gap of frames that are in no part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import InputError
from ppl_vae.data.hands.camera import Camera
from ppl_vae.data.hands.capsules import draw_capsules
from ppl_vae.data.readers import read_npz, reading
from ppl_vae.data.sets.synthetic import check_count
from ppl_vae.data.spec import Spec
from ppl_vae.data.split import Dataset, Role, Split
from ppl_vae.data.store import VARIABLE, locate

SCALES = ("own", "depth")
SIZES = ("known", "unknown")
_VALIDATION = 0.15  # of the training video
_SUBJECT_2 = 2440  # NYU's first frame of the second subject
_MARGIN = 1.2  # half the cube's edge over the outermost joint of the training part: other hands reach further
_RADIUS = 0.055  # of a capsule, as a share of that half


@dataclass(frozen=True)
class _Source:
    """Where a set lies, which joints show how its palm is turned, and after how many frames a pose is forgotten."""

    file: str
    palm: tuple[str, str, str, str]
    gap: int


_SOURCES = {
    "nyu": _Source("nyu_test.npz", ("Wrist2", "Palm", "Wrist2", "Wrist1"), 100),
    "icvl": _Source("icvl_test.npz", ("Palm", "Index.R", "Pinky.R", "Index.R"), 50),
}


@dataclass(frozen=True)
class Hands:
    """What the hands of a set have in common: names, bones, camera, and the way back to mm, pixels and pictures.

    Attributes
    ----------
    joint_names : tuple of str
        Names of the J joints of a whole hand.
    bones : tuple of pairs of int
        The joints of a whole hand that each bone joins.
    root : int
        The joint of a whole hand that is its origin, the palm.
    palm : four of int
        What `split_viewpoint` takes, with a whole hand.
    camera : Camera
        The camera that saw them.
    image_shape : (1, size, size)
        How to lay ``depth`` and ``silhouette`` out.
    half_width : float
        Half the edge of the cube that is drawn, in units of ``joints3d``.
    scale_2d : {"own", "depth"}
        What joints2d are divided by; see `read_hands`.
    """

    joint_names: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    root: int
    palm: tuple[int, int, int, int]
    camera: Camera
    image_shape: tuple[int, int, int]
    half_width: float
    scale_2d: str

    def whole(self, joints: Tensor) -> Tensor:
        """Return whole hands (..., J, 2 or 3): joints (..., J - 1, 2 or 3) with their root, at 0."""
        if joints.dim() < 2 or joints.shape[-2] != len(self.joint_names) - 1:
            expected = f"shape (..., {len(self.joint_names) - 1}, 2 or 3), without the root"
            raise InputError("joints", expected=expected, got=str(tuple(joints.shape)))
        before, after = joints.tensor_split([self.root], -2)
        return torch.cat([before, torch.zeros_like(joints[..., :1, :]), after], -2)

    def positions(self, joints3d: Tensor, root: Tensor, unit: Tensor) -> Tensor:
        """Return x, y, z in mm in the camera's frame, (..., J, 3), of joints3d; with root (..., 3), unit (...)."""
        return self.whole(joints3d) * unit[..., None, None] + root[..., None, :]

    def pixels(self, joints2d: Tensor, root: Tensor, scale: Tensor) -> Tensor:
        """Return u, v, (..., J, 2), of joints2d; with root (..., 3), scale (...)."""
        focal = joints2d.new_tensor([self.camera.fx, self.camera.fy])
        return self.camera.project(root)[..., None, :2] + self.whole(joints2d) * scale[..., None, None] * focal

    def views(self, joints3d: Tensor, root: Tensor, unit: Tensor) -> dict[str, Tensor]:
        """Return what is seen of hands (N, J - 1, 3) at root (N, 3), unit (N,): joints2d, depth, silhouette; scale."""
        focal = joints3d.new_tensor([self.camera.fx, self.camera.fy])
        pixels = self.camera.project(joints3d * unit[:, None, None] + root[:, None])[..., :2]
        joints2d, scale = self.flat((pixels - self.camera.project(root)[:, None, :2]) / focal, root, unit)
        depth = self.draw(joints3d)
        return {"joints2d": joints2d, "scale": scale, "depth": depth, "silhouette": (depth > 0).to(depth)}

    def flat(self, rays: Tensor, root: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Return joints2d and their scale (N,) of ((u - u_root) / fx, (v - v_root) / fy), (N, J - 1, 2)."""
        own = self.scale_2d == "own"
        scale = rays.square().sum(-1).mean(-1).sqrt() if own else unit / root[:, 2]
        return rays / scale[:, None, None], scale

    def draw(self, joints3d: Tensor) -> Tensor:
        """Return the depth pictures (N, size^2) in [0, 1] of joints3d; above 0 is the silhouette."""
        return draw_capsules(
            self.whole(joints3d),
            self.bones,
            size=self.image_shape[1],
            half_width=self.half_width,
            radius=_RADIUS * self.half_width,
            y_up=self.camera.y_up,
        )


def hands_nyu(seed: int = 0, *, image_size: int = 32, scale_2d: str = "own", hand_size: str = "known") -> Dataset:
    """Return the hands of NYU: train and validation are subject 2, test is subject 1; see `read_hands`."""
    del seed  # the parts are consecutive frames
    return read_hands("nyu", image_size=image_size, scale_2d=scale_2d, hand_size=hand_size)


def hands_icvl(seed: int = 0, *, image_size: int = 32, scale_2d: str = "own", hand_size: str = "known") -> Dataset:
    """Return the hands of ICVL: train and validation are sequence 1, test is sequence 0; see `read_hands`."""
    del seed  # the parts are consecutive frames
    return read_hands("icvl", image_size=image_size, scale_2d=scale_2d, hand_size=hand_size)


def read_hands(name: str, *, image_size: int = 32, scale_2d: str = "own", hand_size: str = "known") -> Dataset:
    """Return the hands of one set; `Dataset.truth` is a `Hands`, which leads back to mm and pixels.

    ``joints3d`` (N, J - 1, 3), ``joints2d`` (N, J - 1, 2), ``depth`` (N, image_size^2) in [0, 1], nearer is brighter,
    and ``silhouette`` in {0, 1}. Beside them ``root`` (N, 3) in mm, ``unit`` (N,) in mm, ``scale`` (N,), and ``frame``
    (N,), the row of the published file.

    Parameters
    ----------
    name : {"nyu", "icvl"}
        Which set.
    image_size : int
        Height and width of a picture, 4 at least.
    scale_2d : {"own", "depth"}
        What joints2d are divided by: the root mean square of their own distances from the root, which shows neither
        how far nor how large a hand is; or unit / depth of the root, which makes those of a flat hand x, y of joints3d.
    hand_size : {"known", "unknown"}
        Whether a unit is the mean length of the bones of a part's own hand, in mm, so that hands of all sizes are
        alike, or that of the training hand throughout.

    Raises
    ------
    InputError
        If there is no file, or it is damaged, holds joints that are not finite or not in front of the camera, or too
        few frames; if an option is out of range.
    """
    for option, value, known in (("scale_2d", scale_2d, SCALES), ("hand_size", hand_size, SIZES)):
        one_of(option, value, known)
    image_size = check_count("image_size", image_size, 4)
    source = _SOURCES[name]
    found = locate("hands", [source.file])
    if found is None:
        hint = f"putting it into hands/ in the folder that {VARIABLE} names"
        raise InputError(f"hands/{source.file}", expected="a file of this name", got="none", hint=hint)
    (path,) = found
    with reading(path, "file of hand joints"):
        uvd, trained, camera, joint_names, bones = _read(path)
        root = joint_names.index("Palm")
        start, end, near, far = (joint_names.index(joint) for joint in source.palm)
        xyz = camera.unproject(uvd)

    parts = _parts(trained, source.gap)
    relative = xyz - xyz[:, root, None]
    lengths = torch.stack([(relative[:, i] - relative[:, j]).norm(dim=-1) for i, j in bones], 1).mean(1)
    unit = torch.where(trained, lengths[parts["train"]].mean(), lengths[~trained].mean())
    if hand_size == "unknown":
        unit = lengths[parts["train"]].mean().expand(len(uvd))
    moving = [joint for joint in range(len(joint_names)) if joint != root]
    joints3d = relative[:, moving] / unit[:, None, None]
    rays = (uvd[:, moving, :2] - uvd[:, root, None, :2]) / uvd.new_tensor([camera.fx, camera.fy])
    half_width = float(joints3d[parts["train"]].abs().max()) * _MARGIN
    palm, image_shape = (start, end, near, far), (1, image_size, image_size)
    hands = Hands(joint_names, bones, root, palm, camera, image_shape, half_width, scale_2d)
    joints2d, scale = hands.flat(rays, xyz[:, root], unit)
    depth = hands.draw(joints3d.float())
    tensors = {
        "joints3d": joints3d.float(),
        "joints2d": joints2d.float(),
        "depth": depth,
        "silhouette": (depth > 0).float(),
        "root": xyz[:, root].float(),
        "unit": unit.float(),
        "scale": scale.float(),
        "frame": torch.arange(len(uvd), device="cpu"),
    }
    spec = Spec(f"hands-{name}", (len(moving), 3))
    train, validation, test = (
        Split({key: tensor[rows] for key, tensor in tensors.items()}, spec, role=role) for role, rows in parts.items()
    )
    return Dataset(train, validation, test, hands)


def _read(path: Path) -> tuple[Tensor, Tensor, Camera, tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Return uvd (N, J, 3), whether each frame is trained on (N,), the camera, the joints' names and the bones."""
    names = ["uvd", "camera", "joint_names", "edges"]
    held = read_npz(path, *names, *(["sequence"] if path.name.startswith("icvl") else []))
    uvd = torch.from_numpy(held["uvd"].astype(np.float64))
    joint_names = tuple(map(str, held["joint_names"]))
    if uvd.shape[1:] != (len(joint_names), 3):
        raise ValueError(f"joints of shape {tuple(uvd.shape)}, and {len(joint_names)} names")
    bones = tuple((int(i), int(j)) for i, j in held["edges"])
    trained = held["sequence"] == 1 if "sequence" in held else np.arange(len(uvd)) >= _SUBJECT_2
    return uvd, torch.from_numpy(trained), Camera(*map(float, held["camera"])), joint_names, bones


def _parts(trained: Tensor, gap: int) -> dict[Role, Tensor]:
    """Return the rows of each part: the trained video without its end, that end after a gap, and the other video."""
    rows, test = trained.nonzero()[:, 0], (~trained).nonzero()[:, 0]
    held_out = round(_VALIDATION * len(rows))
    if held_out < 1 or len(rows) <= held_out + gap or len(test) < 1:
        got = f"{len(rows)} and {len(test)}"
        raise InputError("frames to train on and to test on", expected=f"more than {gap} and some", got=got)
    return {"train": rows[: -held_out - gap], "validation": rows[-held_out:], "test": test}
