"""Estimate and diagnostics of a stream of log weights, in memory that does not grow with K.

    log p^(x) = log (1/K) sum_k w_k,   ESS = (sum w)^2 / sum w^2,   Var[log p^(x)] ~ (K/ESS - 1) / (K - 1)

The variance is that of the logarithm by the delta method; the logarithm's bias is about minus half of it (Burda et al.
2016; Nowozin 2018). Pareto k is that of the T largest weights (Vehtari et al. 2024), which also give the amount by
which the variance is too small (`ppl_vae.evaluation.importance.hidden_tail`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ppl_vae.evaluation.importance.hidden_tail import widened
from ppl_vae.evaluation.importance.pareto import pareto_k, tail_length

#: Log weights that are buffered and fitted together: 1 MiB, of which a fit needs about ten.
NUMBERS_AT_ONCE = 2**17


@dataclass
class WeightStream:
    """Running sums of the log weights of B data, K each in total.

    Sums are float64 and relative to the largest log weight so far. A weight of zero (-inf) is valid; NaN and
    +inf make the estimate NaN or inf, and all three are counted in `non_finite`.
    """

    num_particles: int
    _peak: Tensor | None = None
    _sum: Tensor = field(default_factory=lambda: torch.zeros((), device="cpu"))
    _squares: Tensor = field(default_factory=lambda: torch.zeros((), device="cpu"))
    _tail: Tensor = field(default_factory=lambda: torch.zeros((), device="cpu"))
    non_finite: int = 0

    def add(self, log_weights: Tensor) -> None:
        """Add log weights of shape (k, B), nats."""
        new = log_weights.to(torch.float64)
        self.non_finite += int((~torch.isfinite(new)).sum())
        peak = new.amax(0)
        if self._peak is None:
            self._peak = torch.full_like(peak, -torch.inf)
            self._sum, self._squares = torch.zeros_like(peak), torch.zeros_like(peak)
            self._tail = new[:0]
        peak = torch.maximum(self._peak, peak)
        base = torch.where(torch.isneginf(peak), torch.zeros_like(peak), peak)  # no weight above zero yet
        shrink = torch.exp(self._peak - base)
        weights = torch.exp(new - base)
        self._sum = self._sum * shrink + weights.sum(0)
        self._squares = self._squares * shrink**2 + (weights**2).sum(0)
        self._peak = peak
        tail = torch.cat([self._tail, new])
        keep = min(len(tail), tail_length(self.num_particles) + 1)
        self._tail = tail.topk(keep, dim=0).values

    def estimate(self) -> Tensor:
        """Return log (1/K) sum_k w_k, shape (B,), nats."""
        assert self._peak is not None
        return self._peak + self._sum.log() - torch.tensor(self.num_particles, dtype=torch.float64, device="cpu").log()

    def effective_sample_size(self) -> Tensor:
        """Return (sum w)^2 / sum w^2 in [1, K], shape (B,)."""
        return self._sum**2 / self._squares

    def variance(self) -> Tensor:
        """Return the Monte Carlo variance of `estimate`, shape (B,), nats squared; NaN for K = 1."""
        K = self.num_particles
        if K == 1:
            return torch.full_like(self._sum, torch.nan)
        return (K / self.effective_sample_size() - 1).clamp_min(0) / (K - 1)

    @property
    def tail(self) -> Tensor:
        """The largest log weights of each datum, (B, T)."""
        return self._tail.T


class TailShapes:
    """Pareto k of N data, and the increase of their variances, from tails that arrive in pieces.

    Tails are fitted some hundreds at a time and then discarded. Results are written into preallocated tensors: many
    small live tensors would fragment the heap, which would grow with N.
    """

    def __init__(self, num_particles: int, size: int) -> None:
        self.num_particles = num_particles
        length = min(num_particles, tail_length(num_particles) + 1)
        rows = min(size, max(1, NUMBERS_AT_ONCE // length))
        self._waiting = torch.empty(rows, length, dtype=torch.float64, device="cpu")
        self._estimates = torch.empty(rows, 2, dtype=torch.float64, device="cpu")
        self._shapes, self._hidden = torch.empty(2, size, dtype=torch.float64, device="cpu")
        self._filled = self._fitted = 0

    def add(self, tail: Tensor, values: Tensor, variances: Tensor) -> None:
        """Add the largest log weights of B data, (B, T), with their estimates and variances, (B,) each."""
        estimates = torch.stack([values, variances], 1)
        while len(tail):
            piece = tail[: len(self._waiting) - self._filled]
            rows = slice(self._filled, self._filled + len(piece))
            self._waiting[rows], self._estimates[rows] = piece, estimates[: len(piece)]
            self._filled += len(piece)
            tail, estimates = tail[len(piece) :], estimates[len(piece) :]
            if self._filled == len(self._waiting):
                self._fit()

    def shapes(self) -> Tensor:
        """Return k of all data, (N,)."""
        self._fit()
        return self._shapes

    def hidden(self) -> Tensor:
        """Return the squared error hidden in the tails, to be added to the variances, (N,)."""
        self._fit()
        return self._hidden

    def _fit(self) -> None:
        if self._filled:
            tails, (values, variances) = self._waiting[: self._filled], self._estimates[: self._filled].T
            rows = slice(self._fitted, self._fitted + self._filled)
            self._shapes[rows] = pareto_k(tails, self.num_particles)
            self._hidden[rows] = widened(tails, self.num_particles, values, variances) - variances
            self._fitted, self._filled = rows.stop, 0


class Columns:
    """Estimates and diagnostics of N data from streams of log weights.

    Filled in place: many small live tensors would fragment the heap, which would grow with N.
    """

    def __init__(self, num_particles: int, size: int) -> None:
        names = ("values", "lower_variances", "effective_sample_size")
        self._columns = {name: torch.empty(size, dtype=torch.float64, device="cpu") for name in names}
        self._tails = TailShapes(num_particles, size)
        self._non_finite = 0

    def put(self, rows: slice, stream: WeightStream, values: Tensor, variances: Tensor) -> None:
        """Add the stream of the data at `rows`, in order, with its estimates and variances."""
        self._columns["values"][rows], self._columns["lower_variances"][rows] = values, variances
        self._columns["effective_sample_size"][rows] = stream.effective_sample_size()
        self._tails.add(stream.tail, stream.estimate(), stream.variance())
        self._non_finite += stream.non_finite

    def results(self) -> dict[str, Any]:
        """Return the columns (N,) and the count of log weights that are not finite.

        Variances are the sum of those added (by the delta method) and what the tails hide.
        """
        variances = self._columns["lower_variances"] + self._tails.hidden()
        tails = {"pareto_k": self._tails.shapes(), "variances": variances}
        return self._columns | tails | {"non_finite": self._non_finite}
