"""How far predicted joints lie from true ones, in mm.

    e_nj = |predicted_nj - true_nj|                         error of joint j of hand n
    share(t) = 1/N sum_n 1[max_j e_nj <= t]                 hands whose worst joint is within t (Taylor et al. 2012)
    area(T) = 1/T int_0^T share(t) dt = 1/N sum_n max(0, 1 - max_j e_nj / T)

Frames of a video are alike, so a standard error over frames would be far too small; none is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.core.checks import positive
from ppl_vae.core.errors import InputError, shown


@dataclass(frozen=True, eq=False)
class JointErrors:
    """Errors of predicted joints.

    Attributes
    ----------
    values : Tensor (N, J)
        Distance from the true joint, mm, float64.
    """

    values: Tensor

    @property
    def mean(self) -> float:
        """Mean over hands and joints, mm."""
        return float(self.values.mean())

    @property
    def per_joint(self) -> Tensor:
        """Mean over hands, mm, (J,)."""
        return self.values.mean(0)

    @property
    def worst(self) -> Tensor:
        """Error of each hand's worst joint, mm, (N,)."""
        return self.values.amax(1)

    def share_within(self, thresholds: Tensor | Sequence[float]) -> Tensor:
        """Return the share of hands whose worst joint is within each of `thresholds` (T,), mm."""
        limits = torch.as_tensor(thresholds, dtype=self.values.dtype, device=self.values.device)
        return (self.worst[:, None] <= limits).double().mean(0)

    def area(self, limit: float = 80.0) -> float:
        """Return the area under `share_within` from 0 to `limit` mm, as a share of the whole: 1 is without error."""
        return float((1 - self.worst / positive("limit", limit)).clamp_min(0).mean())

    def __str__(self) -> str:
        """Return the mean, the share within 40 mm, and the area to 80 mm."""
        return (
            f"{self.mean:.2f} mm per joint; worst joint within 40 mm in {float(self.share_within([40.0])):.1%} of "
            f"{len(self.values):,} hands, area to 80 mm {self.area():.3f}"
        )


def joint_errors(predicted: Tensor, true: Tensor, *, unit: Tensor | float = 1.0) -> JointErrors:
    """Return the errors of `predicted` (N, J, 3) against `true` (N, J, 3).

    Parameters
    ----------
    predicted, true : Tensor (N, J, 3)
        Joints about one origin: both relative to the root, or both in the camera's frame.
    unit : Tensor (N,) or float
        Millimetres in a unit of theirs, above 0: ``split["unit"]`` for ``joints3d``.

    Raises
    ------
    InputError
        If the shapes differ or are others, there are no rows, a value is not finite, or a unit not above 0.
    """
    if true.dim() != 3 or true.shape[-1] != 3 or len(true) == 0:
        raise InputError("true joints", expected="shape (N, J, 3), N >= 1", got=str(tuple(true.shape)))
    if predicted.shape != true.shape:
        raise InputError("predicted joints", expected=f"shape {tuple(true.shape)}", got=str(tuple(predicted.shape)))
    for name, joints in (("predicted joints", predicted), ("true joints", true)):
        bad = ~torch.isfinite(joints).flatten(1).all(1)
        if bool(bad.any()):
            got = f"another in row {int(bad.nonzero()[0])} ({int(bad.sum())} such rows)"
            raise InputError(name, expected="finite values", got=got)
    mm = torch.as_tensor(unit, dtype=torch.float64, device=true.device)
    if mm.shape not in ((), (len(true),)) or not bool((mm > 0).all()):
        raise InputError("unit", expected=f"a number above 0, or one for each of {len(true)} rows", got=shown(unit))
    return JointErrors((predicted.double() - true.double()).norm(dim=-1) * mm.expand(len(true))[:, None])
