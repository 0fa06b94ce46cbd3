"""The gradient of a bound in two parts: through the guide's draws (pathwise), and with the draws held fixed (direct).

For z_i = f_i(z_<i, noise; phi) and any function F(z_1 … z_L; theta, phi)

    dF/dphi = dF/dphi with z held fixed (direct) + sum_i <dF/dz_i, df_i/dphi> (path)

where dF/dz_i is the total derivative: it includes the effect of z_i on the z_j drawn given it (Roeder et al. 2017; for
several layers, Bauer & Mnih 2021).
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.pairs.sites import is_enumerated


class DetachedDraws(Messenger):
    """Handler around a guide's trace: detaches each draw from the parameters of its distribution.

    A function of the detached draws has the direct gradient only; `path` adds the pathwise gradient.

    Parameters
    ----------
    through : bool
        Whether `path` will be called; if not, the draws are constants.

    Attributes
    ----------
    drawn, detached : dict of str to Tensor
        The reparameterised draws by site, in the order of the guide: as drawn, and detached.
    """

    def __init__(self, *, through: bool = True) -> None:
        super().__init__()
        self.through = through
        self.drawn: dict[str, Tensor] = {}
        self.detached: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or is_enumerated(msg):
            return
        value = msg["value"].detach()
        if self.through and msg["fn"].has_rsample:
            self.drawn[msg["name"]], self.detached[msg["name"]] = msg["value"], value.requires_grad_()
        msg["value"] = value

    def path(self, objective: Tensor) -> Tensor:
        """Return a tensor whose gradient is the pathwise gradient of `objective`, a function of the detached draws.

        Draws are processed in reverse order, so that dF/dz_j of all later draws is complete when z_i is reached.
        """
        drawn, detached = list(self.drawn.values()), list(self.detached.values())
        surrogate = objective.new_zeros(())
        if not objective.requires_grad or not detached:
            return surrogate
        slopes = list(torch.autograd.grad(objective, detached, retain_graph=True, allow_unused=True))
        for j in reversed(range(len(drawn))):
            if slopes[j] is None:
                continue
            surrogate = surrogate + (slopes[j] * drawn[j]).sum()
            if j > 0 and drawn[j].requires_grad:
                back = torch.autograd.grad(drawn[j], detached[:j], slopes[j], retain_graph=True, allow_unused=True)
                for i, more in enumerate(back):
                    if more is not None:
                        slopes[i] = more if slopes[i] is None else slopes[i] + more
        return surrogate
