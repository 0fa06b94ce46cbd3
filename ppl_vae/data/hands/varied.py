"""More hands to train on: turned, and with bones of other lengths, since other people's hands are tested.

    b_e' = b_e exp(s e_e) R,   e_e ~ N(0, 1) for each bone e,   R' = exp([v]x), v ~ N(0, t^2 I)

A joint is the sum of the bones on the way to it from the root; then the mean length of a hand's bones is brought back
to what it was. What is seen of the hand (2D joints, pictures) is made anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.core.checks import integer_at_least, not_negative
from ppl_vae.core.errors import InputError, shown
from ppl_vae.data.hands.recorded import Hands
from ppl_vae.data.hands.viewpoint import join_viewpoint, rotation_matrix
from ppl_vae.data.seeding import generator
from ppl_vae.data.split import Dataset, Split, whole


def with_varied_hands(
    data: Dataset, copies: int, *, degrees: float = 20.0, stretch: float = 0.1, seed: int = 0
) -> Dataset:
    """Return hands with `copies` varied ones after each training hand; validation and test parts stay as they are.

    Parameters
    ----------
    data : Dataset
        Hands, whose `truth` is a `Hands`.
    copies : int
        Varied hands for each hand, 0 or more.
    degrees : float
        Standard deviation t of the turn about each axis of the camera's frame.
    stretch : float
        Standard deviation s of the logarithm of a bone's length.
    seed : int
        Of the variation.

    Raises
    ------
    InputError
        For other data than hands, or a number that is negative.
    """
    whole(data)
    hands = data.truth
    if not isinstance(hands, Hands):
        raise InputError("data", expected="hands", got=shown(data.name), hint="data.load('hands-nyu')")
    copies = integer_at_least("copies", copies, 0)
    degrees, stretch = not_negative("degrees", degrees), not_negative("stretch", stretch)
    if copies == 0:
        return data
    train = {name: tensor.repeat(copies, *[1] * (tensor.dim() - 1)) for name, tensor in data.train.items()}
    joints, random = train["joints3d"], generator(seed, "varied hands")
    turns = torch.randn(len(joints), 3, generator=random, device="cpu") * math.radians(degrees)
    noise = torch.randn(len(joints), len(hands.bones), generator=random, device="cpu") * stretch
    stretched = stretch_bones(hands.whole(joints), hands.bones, hands.root, noise.exp())
    moving = [joint for joint in range(len(hands.joint_names)) if joint != hands.root]
    turned = join_viewpoint(stretched[:, moving], rotation_matrix(turns))
    train |= {"joints3d": turned} | hands.views(turned, train["root"], train["unit"])
    both = {name: torch.cat([tensor, train[name]]) for name, tensor in data.train.items()}
    return Dataset(Split(both, data.spec, role="train"), data.validation, data.test, hands)


def stretch_bones(joints: Tensor, bones: Sequence[tuple[int, int]], root: int, factors: Tensor) -> Tensor:
    """Return hands (N, J, 3) about their root whose bones are longer by `factors` (N, E), of the same mean length.

    Raises
    ------
    InputError
        If the bones do not lead to every joint from the root, each by one way.
    """
    paths = _paths(len(joints[0]), bones, root).to(joints)
    starts, ends = (list(joint) for joint in zip(*bones, strict=True))
    old = joints[:, ends] - joints[:, starts]  # (N, E, 3)
    new = old * factors[..., None]
    shrink = old.norm(dim=-1).mean(-1) / new.norm(dim=-1).mean(-1)
    return (paths @ new) * shrink[:, None, None]


def _paths(count: int, bones: Sequence[tuple[int, int]], root: int) -> Tensor:
    """Return (J, E): 1 where a bone (i, j) is passed from i to j on the way from the root to a joint, -1 backwards."""
    paths = {root: torch.zeros(len(bones), device="cpu")}
    for _ in bones:
        for e, (i, j) in enumerate(bones):
            for start, end, sign in ((i, j, 1.0), (j, i, -1.0)):
                if start in paths and end not in paths:
                    paths[end] = paths[start].clone()
                    paths[end][e] = sign
    if len(paths) < count or len(bones) != count - 1:
        got = f"{len(bones)} bones, which lead to {len(paths)} of {count} joints"
        raise InputError("bones", expected="one way from the root to each joint", got=got)
    return torch.stack([paths[joint] for joint in range(count)])
