"""Hamiltonian Monte Carlo on many independent chains at once (Neal 2011, sections 5.2 and 5.3).

With potential -log f(u) and momentum p ~ N(0, I), one transition is L leapfrog steps of size e,

    p <- p + e/2 grad log f(u),   u <- u + e p,   p <- p + e/2 grad log f(u),

and their end is taken with probability min(1, exp(H_start - H_end)), H(u, p) = -log f(u) + |p|^2 / 2. Leapfrog steps
are reversible and volume-preserving, so the transition leaves f invariant for any step size that does not depend on the
chain itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

#: grad log f(u), (K, B, L), log f(u), (K, B), and the other value of a density there, (K, B, …).
Gradient = tuple[Tensor, Tensor, Tensor]


class Differentiated(Protocol):
    """A density with gradients of its own, such as recorded ones."""

    def slope(self, u: Tensor) -> Tensor:
        """Return grad log f(u) alone, which all but the last of several leapfrog steps need."""
        ...

    def gradient(self, u: Tensor) -> Gradient:
        """Return grad log f(u) and the values of the density."""
        ...


#: Maps u (K, B, L) to log f(u), (K, B) in nats, and to another value per chain, (K, B, …), which the caller needs.
Density = Callable[[Tensor], tuple[Tensor, Tensor]] | Differentiated


def gradient(density: Density, u: Tensor) -> Gradient:
    """Return grad log f(u), (K, B, L), then log f(u), (K, B), and the other value of `density`, (K, B, …)."""
    if not callable(density):
        return density.gradient(u)
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        log_f, other = density(u)
        (slope,) = torch.autograd.grad(log_f.sum(), u)
    return slope, log_f.detach(), other.detach()


def leapfrog(
    density: Density, u: Tensor, momentum: Tensor, slope: Tensor, step_size: Tensor, num_steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Follow the Hamiltonian from (u, momentum) for `num_steps` leapfrog steps.

    Parameters
    ----------
    density : callable
        See `Density`.
    u, momentum, slope : Tensor (K, B, L)
        The start, and grad log f there.
    step_size : Tensor
        e, of a shape that broadcasts with u.
    num_steps : int
        L of the equations above.

    Returns
    -------
    u, momentum : Tensor (K, B, L)
        The end.
    log_f, other : Tensor (K, B), (K, B, …)
        The values of `density` there.
    """
    half = 0.5 * step_size
    momentum = torch.addcmul(momentum, half, slope)
    for _ in range(num_steps - 1):
        u = torch.addcmul(u, step_size, momentum)
        momentum = torch.addcmul(momentum, step_size, _slope(density, u))
    u = torch.addcmul(u, step_size, momentum)
    slope, log_f, other = gradient(density, u)
    return u, torch.addcmul(momentum, half, slope), log_f, other


def _slope(density: Density, u: Tensor) -> Tensor:
    return gradient(density, u)[0] if callable(density) else density.slope(u)


def transition(
    density: Density, u: Tensor, step_size: Tensor, num_steps: int, start: Gradient | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one HMC transition in every chain.

    Parameters
    ----------
    density : callable
        See `Density`.
    u : Tensor (K, B, L)
        K chains for each of B data.
    step_size : Tensor (B,)
        One for the chains of each datum.
    num_steps : int
        Leapfrog steps.
    start : tuple of Tensor, optional
        What `gradient` returns at u, where that is known.

    Returns
    -------
    u : Tensor (K, B, L)
        Where each chain is now. An end whose density is NaN is never accepted.
    other : Tensor (K, B, …)
        The other value of `density` there.
    acceptance : Tensor (K, B)
        Probability of accepting the end.
    """
    slope, log_f, other = gradient(density, u) if start is None else start
    momentum = torch.randn_like(u)
    end, last, log_f_end, other_end = leapfrog(density, u, momentum, slope, step_size.unsqueeze(-1), num_steps)
    gain = log_f_end - log_f + 0.5 * (momentum.square().sum(-1) - last.square().sum(-1))
    acceptance = torch.where(gain.isnan(), torch.zeros_like(gain), gain.clamp_max(0.0).exp())
    taken = torch.rand_like(acceptance) < acceptance
    return _where(taken, end, u), _where(taken, other_end, other), acceptance


def _where(taken: Tensor, end: Tensor, begin: Tensor) -> Tensor:
    """Return for each chain the value at the end where that is taken, and else the one at the beginning."""
    return torch.where(taken.reshape(*taken.shape, *[1] * (end.dim() - taken.dim())), end, begin)


def adapted(step_size: Tensor, acceptance: Tensor, target: float, rate: float) -> Tensor:
    """Return step sizes (B,) moved toward a mean acceptance of `target`: log e + rate (mean acceptance - target).

    A stochastic approximation (Andrieu & Thoms 2008, section 4) on the chains (K, B) of each datum. Chains whose
    step size depends on their own past do not leave their target invariant: adapt on chains that are then discarded.
    """
    return step_size * torch.exp(rate * (acceptance.mean(0) - target))
