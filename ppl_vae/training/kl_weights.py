"""Rules for the weight of the KL, for any pair.

    E_q[log p(x|z)] - beta KL(q(z|x) || p(z))

beta > 1 is the beta-VAE (Higgins et al. 2017, eq. 4). A rule is immutable; the fit keeps the state that it
adapts. Where a loss has the form D + beta R, R = d loss / d beta is the KL itself, differentiable, for any pair: rules
that use the KL get it so, and nothing is read back from the device.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ppl_vae.core.checks import not_negative, positive
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError, shown

#: Range of a learned multiplier. At an end of it the constraint has no solution, or does not bind.
MULTIPLIERS = (1e-4, 1e4)


class KLRule:
    """How the weight of the KL changes over a fit. A subclass defines it by step (`at`), or by the KL (`after`)."""

    #: Whether the rule uses the KL of each batch.
    measures: ClassVar[bool] = False
    #: Column of the history that holds what `at` or `after` returned last.
    column: ClassVar[str] = "kl_weight"

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            raise AttributeError(f"{type(self).__name__} is frozen")
        super().__setattr__(name, value)

    def on(self, data_dim: int, latent_dim: int) -> KLRule:
        """Return the rule for data of D coordinates and L latents."""
        return self

    def at(self, step: int, steps_per_epoch: int) -> float | None:
        """Return the setting for a step, counted from 0; None where `after` alone changes it from 1."""
        raise NotImplementedError

    def weight(self, setting: Tensor) -> Tensor:
        """Return beta, the scale of every latent site of both programs."""
        return setting

    def loss(self, loss: Tensor, kl: Tensor, setting: Tensor, size: int) -> Tensor:
        """Return the loss to differentiate, from that under `weight` and the KL, both summed over `size` data."""
        return loss

    def after(self, setting: Tensor, kl: Tensor) -> Tensor:
        """Return the next step's setting, from the KL of this batch in nats per datum."""
        return setting


@configurable
class Constant(KLRule):
    """One weight `beta` for the whole fit (Higgins et al. 2017, eq. 4)."""

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = not_negative("beta", beta)

    def at(self, step: int, steps_per_epoch: int) -> float:
        """Return beta."""
        return self.beta


@configurable
class WarmUp(KLRule):
    """Up linearly to `beta` over so many `epochs` (Bowman et al. 2016; Sønderby et al. 2016)."""

    def __init__(self, epochs: float, beta: float = 1.0) -> None:
        self.epochs, self.beta = not_negative("epochs", epochs), not_negative("beta", beta)

    def at(self, step: int, steps_per_epoch: int) -> float:
        """Return beta times the share of the warm-up that is done."""
        rising = round(self.epochs * steps_per_epoch)
        return self.beta * (min(1.0, (step + 1) / rising) if rising else 1.0)


@configurable
class Cyclical(KLRule):
    """From 0 up to `beta` again and again (Fu et al. 2019).

    Each cycle takes `period` epochs: up linearly over the share `rising` of it, and level for the rest.
    """

    def __init__(self, period: float, rising: float = 0.5, beta: float = 1.0) -> None:
        self.period, self.rising = positive("period", period), positive("rising", rising)
        if self.rising > 1:
            raise InputError(
                "rising", expected="a share of the period, at most 1", got=shown(rising), hint="rising=0.5"
            )
        self.beta = not_negative("beta", beta)

    def at(self, step: int, steps_per_epoch: int) -> float:
        """Return the weight at this point of its cycle."""
        length = max(1, round(self.period * steps_per_epoch))
        return self.beta * min(1.0, step % length / (self.rising * length))


@configurable
class Normalised(KLRule):
    """A weight that means the same trade-off for all sizes: beta_norm = beta L / D (Higgins et al. 2017).

    D is the number of coordinates of a datum, L that of its largest latent.
    """

    def __init__(self, beta_norm: float) -> None:
        self.beta_norm = not_negative("beta_norm", beta_norm)

    def on(self, data_dim: int, latent_dim: int) -> Constant:
        """Return the constant beta = beta_norm D / L."""
        if latent_dim < 1:
            raise InputError("beta_norm", expected="a pair with a latent for each datum", got="none")
        return Constant(self.beta_norm * data_dim / latent_dim)


@configurable
class Constrained(KLRule):
    """Maximise E_q[log p(x|z)] subject to KL <= `delta` nats per datum.

        min over theta, phi, max over lambda >= 0:  -E_q[log p(x|z)] + lambda (KL - delta)
        lambda <- clip(lambda exp(rate (KL / delta - 1)))   after each step, with the KL of its batch

    Dual ascent on log lambda, which starts at lambda = 1; Rezende & Viola 2018 bound the reconstruction instead, and
    ascend in the same way. The weight that the fit ends with is the beta for which a beta-VAE has this KL.
    """

    measures = True

    def __init__(self, delta: float, rate: float = 0.01) -> None:
        self.delta, self.rate = positive("delta", delta), positive("rate", rate)

    def at(self, step: int, steps_per_epoch: int) -> None:
        """Return None: the multiplier is learned."""

    def after(self, setting: Tensor, kl: Tensor) -> Tensor:
        """Return the multiplier, up where the KL is above delta and down where it is below."""
        return (setting * torch.exp(self.rate * (kl / self.delta - 1.0))).clamp(*MULTIPLIERS)


@configurable
class Capacity(KLRule):
    """Hold the KL at a capacity that grows: -E_q[log p(x|z)] + gamma |KL - C| (Burgess et al. 2018).

    C rises linearly from 0 to `to` nats per datum over so many `epochs`; KL is the batch's mean. The history has C in
    its column ``kl_capacity``.
    """

    measures = True
    column = "kl_capacity"

    def __init__(self, to: float, epochs: float, gamma: float = 1000.0) -> None:
        self.to, self.epochs, self.gamma = (
            not_negative("to", to),
            not_negative("epochs", epochs),
            positive("gamma", gamma),
        )

    def at(self, step: int, steps_per_epoch: int) -> float:
        """Return C."""
        rising = round(self.epochs * steps_per_epoch)
        return self.to * (min(1.0, (step + 1) / rising) if rising else 1.0)

    def weight(self, setting: Tensor) -> Tensor:
        """Return 1: `loss` weights |KL - C| instead."""
        return torch.ones_like(setting)

    def loss(self, loss: Tensor, kl: Tensor, setting: Tensor, size: int) -> Tensor:
        """Return the loss with gamma |KL - C| in the place of the KL."""
        return loss - kl + self.gamma * (kl - size * setting).abs()


def as_rule(value: float | KLRule) -> KLRule:
    """Return a rule as it is, and a number as that constant weight.

    Raises
    ------
    InputError
        If it is neither, or a number below 0.
    """
    if isinstance(value, KLRule):
        return value
    return Constant(kl_number(value))


def kl_number(value: float) -> float:
    """Return a constant weight as a float, or raise `InputError` if it is none."""
    return not_negative("kl_weight", value, "a number, 0 or more, or a rule of ppl_vae.kl_weights")
