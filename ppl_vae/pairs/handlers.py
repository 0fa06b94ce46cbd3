"""Effect handlers that reach both programs of any pair, whatever the objective."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ppl_vae.pairs.plates import in_data_plate


class KLWeight(Messenger):
    """Scale every latent site: E_q[log p(x|z)] - beta KL(q(z|x) || p(z)).

    Both programs must run under it, so that log p(z) and log q(z|x) carry the same weight.

    Parameters
    ----------
    beta : float or Tensor
        The weight. An instance serves one step: its product with another scale is computed once, so that both programs
        have the very same tensor as their scale, which a KL in closed form requires.
    """

    def __init__(self, beta: float | Tensor) -> None:
        super().__init__()
        self.beta = beta
        self._products: dict[float, float | Tensor] = {1.0: beta}

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            scale = msg["scale"]
            if isinstance(scale, int | float):
                msg["scale"] = self._products.setdefault(scale, scale * self.beta)
            else:
                msg["scale"] = scale * self.beta


class Frozen(Messenger):
    """Leave parameters that do not require a gradient as they are, where Pyro's store would make them require one."""

    def _pyro_param(self, msg: Any) -> None:
        given = msg["args"][1] if len(msg["args"]) > 1 else None
        if isinstance(given, nn.Parameter) and not given.requires_grad:
            msg["value"], msg["done"] = given, True


class GlobalScale(Messenger):
    """Scale every site outside the plate ``data`` by B/N, so that a mini-batch stands for its share of the data set.

    With it, the loss of a mini-batch divided by B is an unbiased estimate of the loss of the data set divided by N,
    for global latents. Local sites keep their scale.
    """

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction

    def _pyro_sample(self, msg: Any) -> None:
        if not in_data_plate(msg):
            msg["scale"] = msg["scale"] * self.fraction
