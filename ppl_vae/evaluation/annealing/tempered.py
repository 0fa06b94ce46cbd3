"""The densities between f_0 and p(x, z) with their gradients, recorded once for a shape.

    log f_b(u) = log f_0(u) + b log w(u),   w(u) = p(x, u) / f_0(u)

At both ends of a transition log f_0, log w and their gradients are computed apart: for the next b they are then known
where the chains are, and a transition of L leapfrog steps takes L gradients. In between, only that of log f_b is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ppl_vae.compile.proof import other_rows
from ppl_vae.compile.recorded import Proved
from ppl_vae.evaluation.annealing import hmc
from ppl_vae.evaluation.annealing.unconstrained import Unconstrained

Batch = Mapping[str, Tensor]

#: Place of log w in what `Densities.at` returns.
LOG_WEIGHT = 1


class Densities:
    """log f_0, log w and gradients of a chunk of B data and K particles each.

    Parameters
    ----------
    target : Unconstrained
        The densities.
    path : str
        ``"eager"``, ``"graph"`` or ``"inductor"``.
    """

    def __init__(self, target: Unconstrained, path: str) -> None:
        self.target = target
        self._names: list[str] = []
        self._chosen = False
        this = weakref.proxy(self)  # it owns the recordings, which must not own it

        def proved(compute: Callable[..., list[Tensor]], results: Sequence[str]) -> Proved:
            return Proved(
                lambda *inputs: compute(this, *inputs), path, module=target.pair, what="annealing", results=results
            )

        self._slope = proved(Densities._compute_slope, ["a gradient of log f"])
        ends = ["a log density", "a log weight", "a gradient of log f_0", "a gradient of a log weight"]
        self._ends = proved(Densities._compute_ends, ends)

    @property
    def path(self) -> str:
        """How they are computed: ``"eager"``, ``"graph"`` or ``"inductor"``."""
        return self._slope.path

    @property
    def seconds(self) -> float:
        """Seconds spent recording and compiling."""
        return self._slope.seconds + self._ends.seconds

    def at(self, u: Tensor, batch: Batch, *, hold: bool = False) -> Tensor:
        """Return log f_0, log w, grad log f_0 and grad log w at u (K, B, L), side by side: (K, B, 2 + 2 L).

        With `hold`, a recording is compared with the programs.
        """
        start, weight, *slopes = self._run(self._ends, [u], batch, hold)
        if not self._chosen:  # what cannot be recorded here cannot be recorded there: one warning
            self._slope.path, self._chosen = self._ends.path, True
        return torch.cat([start.unsqueeze(-1), weight.unsqueeze(-1), *slopes], -1)

    def slope(self, u: Tensor, beta: Tensor, batch: Batch, *, hold: bool = False) -> Tensor:
        """Return grad log f_beta(u), (K, B, L)."""
        (slope,) = self._run(self._slope, [u, beta], batch, hold)
        return slope

    def _run(self, proved: Proved, inputs: list[Tensor], batch: Batch, hold: bool) -> list[Tensor]:
        self._names = list(batch)
        values = list(batch.values())
        return proved(*inputs, *values, other=lambda: [*inputs, *other_rows(values)], hold=hold)

    def _compute_slope(self, u: Tensor, beta: Tensor, *values: Tensor) -> list[Tensor]:
        def density(u: Tensor) -> tuple[Tensor, Tensor]:
            start, weight = self._log_densities(u, values)
            return start + beta * weight, weight

        return [hmc.gradient(density, u)[0]]

    def _compute_ends(self, u: Tensor, *values: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            both = self._log_densities(u, values)
            slopes = [_slope(log_density, u) for log_density in both]
        return [*(log_density.detach() for log_density in both), *slopes]

    def _log_densities(self, u: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.target.log_densities(u, dict(zip(self._names, values, strict=True)))


def _slope(log_density: Tensor, u: Tensor) -> Tensor:
    """Return the gradient of one of several densities of u; zero where it does not depend on u."""
    if not log_density.requires_grad:
        return torch.zeros_like(u)
    (slope,) = torch.autograd.grad(log_density.sum(), u, retain_graph=True, allow_unused=True, materialize_grads=True)
    return slope


class Tempered:
    """f_b for one b and one batch, as `hmc.transition` takes it.

    Its other value is `known`, what `Densities.at` returns: log f_0, log w and their gradients.
    """

    def __init__(self, densities: Densities, beta: Tensor, batch: Batch, *, hold: bool = False) -> None:
        self.densities, self.beta, self.batch = densities, beta, batch
        self._hold = self._hold_slope = hold

    def slope(self, u: Tensor) -> Tensor:
        """Return grad log f_b(u), (K, B, L)."""
        hold, self._hold_slope = self._hold_slope, False  # of several leapfrog steps one is compared
        return self.densities.slope(u, self.beta, self.batch, hold=hold)

    def gradient(self, u: Tensor) -> hmc.Gradient:
        """Return grad log f_b(u), log f_b(u), and log f_0, log w and their gradients."""
        return self.of(self.densities.at(u, self.batch, hold=self._hold))

    def of(self, known: Tensor) -> hmc.Gradient:
        """Return the same from what is known where the chains are."""
        slope, slope_of_weight = known[..., 2:].chunk(2, -1)
        log_f = torch.addcmul(known[..., 0], self.beta, known[..., 1])
        return torch.addcmul(slope, self.beta, slope_of_weight), log_f, known
