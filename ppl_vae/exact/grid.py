"""A grid per datum that follows its posterior, for the trapezoid rules of `quadrature.py`."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: Points whose integrand is this many nats below the largest do not count; 1e-13 of the integral each.
NEGLIGIBLE = 30.0


class Grid(NamedTuple):
    """z = centre + axes u for u on a regular grid from `low` to `high`; a grid per datum, or one for all (B = 1)."""

    centre: Tensor  # (B, L)
    axes: Tensor  # lower triangular, (B, L, L)
    low: Tensor  # (B, L)
    high: Tensor  # (B, L)

    def of(self, chosen: Tensor) -> Grid:
        """Return the grids of the chosen data."""
        return self if len(self.centre) == 1 else Grid(*(part[chosen] for part in self))

    def nodes(self, count: int) -> Tensor:
        """Return z, shape (G, B, L), G = count^L."""
        line = torch.linspace(0, 1, count, dtype=self.low.dtype, device=self.low.device)
        unit = torch.cartesian_prod(*[line] * self.low.shape[-1]).reshape(-1, 1, self.low.shape[-1])
        inner = self.low + (self.high - self.low) * unit
        return self.centre + (self.axes @ inner.unsqueeze(-1)).squeeze(-1)

    @property
    def log_volume(self) -> Tensor:
        """The log of the volume of z that is covered, (B,)."""
        return (self.high - self.low).log().sum(-1) + self.axes.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def log_integral(self, values: Tensor, count: int, every: int) -> Tensor:
        """Return log of the integral of exp(values), (B,), by every so many-th point of each axis."""
        L = self.low.shape[-1]
        table = values.reshape(*[count] * L, -1)[(slice(None, None, every),) * L].flatten(0, L - 1)
        log_cell = self.log_volume - L * math.log((count - 1) / every)
        return table.logsumexp(0) + log_cell

    def fitted(self, values: Tensor, count: int) -> Grid:
        """Return a grid with the posterior's mean and axes that covers every point which counts, and its neighbours.

        Where points at an edge count, the posterior may go on beyond it: the same grid, twice as wide.
        """
        nodes = self.nodes(count)
        centre, covariance = moments(nodes, values.softmax(0))
        cell = self.axes * ((self.high - self.low) / (count - 1)).unsqueeze(-2)  # one spacing along each axis, in z
        # A cell's worth of variance keeps it positive definite where all weight is on one point.
        axes = torch.linalg.cholesky(covariance + cell @ cell.mT)
        turned = _apply_inverse(axes, nodes - centre)
        margin = 2 * torch.linalg.solve_triangular(axes, cell.expand_as(axes), upper=False).abs().sum(-1)
        counts = _counts(values).unsqueeze(-1)
        low = turned.masked_fill(~counts, math.inf).amin(0) - margin
        high = turned.masked_fill(~counts, -math.inf).amax(0) + margin
        half = (self.high - self.low) / 2
        fitted, wider = (centre, axes, low, high), (self.centre, self.axes, self.low - half, self.high + half)
        cut_off = self.cut_off(values, count)
        each = ((cut_off.reshape(-1, *[1] * (new.dim() - 1)), old, new) for old, new in zip(wider, fitted, strict=True))
        return Grid(*(torch.where(*choice) for choice in each))

    def cut_off(self, values: Tensor, count: int) -> Tensor:
        """Tell of each datum whether points at an edge count, (B,)."""
        L = self.low.shape[-1]
        place = torch.cartesian_prod(*[torch.arange(count, device=values.device)] * L).reshape(-1, L)
        at_edge = ((place == 0) | (place == count - 1)).any(-1)
        return _counts(values)[at_edge].any(0)


def moments(nodes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (B, L) and covariance (B, L, L) of nodes (G, B, L), or (G, 1, L), by their weights (G, B)."""
    nodes = nodes.expand(*weights.shape, -1)
    mean = torch.einsum("gb,gbl->bl", weights, nodes)
    apart = nodes - mean
    return mean, torch.einsum("gb,gbl,gbm->blm", weights, apart, apart)


def _apply_inverse(axes: Tensor, vectors: Tensor) -> Tensor:
    """Return axes^-1 v of vectors (G, B, L), `axes` (B, L, L) being lower triangular."""
    return torch.linalg.solve_triangular(axes, vectors.movedim(0, -1), upper=False).movedim(-1, 0)


def _counts(values: Tensor) -> Tensor:
    return values >= values.amax(0) - NEGLIGIBLE
