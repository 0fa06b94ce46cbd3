"""log p(x) of one- and two-dimensional latents by quadrature, whatever the decoder.

    log p(x) = log ∫ p(x|z) N(z; m, diag s^2) dz

by the trapezoid rule, whose error falls exponentially with the number of points where the integrand is smooth and
vanishes at the ends (Trefethen & Weideman 2014, section 4): for a Gaussian of standard deviation t it is 2 exp(-2 pi^2
t^2 / h^2) at spacing h, 5e-9 at h = t. Each datum gets a grid of its own. The first spans the prior; the next ones are
turned and scaled as the posterior found so far and cover all of it that counts, then take more points, until three
rules on the same points agree: T_1 by the whole grid, T_2 by every second point of each axis, T_4 by every fourth. The
error is taken to be max(|T_1 - T_2|, |T_2 - T_4| / 4). Where p(x|z) is smooth that is the error of a far coarser rule
than T_1, which is returned; a kink, as of a network of ReLUs, slows the fall to h^2, and it is then the right size.

What no rule can tell is a peak that falls between the points of the first grid, far from any other: `first` sets how
many those are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError
from ppl_vae.exact.checks import check_finite, check_positive, check_probabilities
from ppl_vae.exact.enumeration import Enumeration
from ppl_vae.exact.grid import Grid, moments

#: log p(x|z), shape (G, B), for z of shape (G, 1, L) or (G, B, L) and data of shape (B, …).
LogLikelihood = Callable[[Tensor, Tensor], Tensor]

#: Half the width of the first grid, in standard deviations of the prior, which has 2e-19 of its mass outside.
REACH = 9.0
#: Points per axis, for L = 1 and 2: of the first grid, of the next ones to begin with, and at most.
FIRST, NEXT, MOST = (1025, 129), (129, 65), (16385, 1025)
#: Grids that may go on shrinking or growing before they take more points as well.
MOST_TURNS = 20
#: Values of the integrand that are held at once: 32 MiB.
NUMBERS_AT_ONCE = 2**22


class Quadrature(NamedTuple):
    """Integrals over the latents of B data, in float64."""

    log_marginal: Tensor  # log p(x), (B,), nats
    error: Tensor  # by how much the rules disagree, (B,), nats; far above the error where p(x|z) is smooth
    mean: Tensor  # of p(z|x), (B, L)
    covariance: Tensor  # of p(z|x), (B, L, L)
    expectation: Tensor | None = None  # E[f(z)|x], (B, …), of the function f that was given


def integrate(
    log_likelihood: LogLikelihood,
    x: Tensor,
    prior_loc: Tensor,
    prior_scale: Tensor | float = 1.0,
    *,
    function: Callable[[Tensor], Tensor] | None = None,
    tolerance: float = 1e-4,
    first: int | None = None,
    rows: int = 2**14,
) -> Quadrature:
    """Return log p(x) and the posterior's moments of every datum; see the equations of this file.

    Gradients are not kept. Memory is bounded, whatever the number of data.

    Parameters
    ----------
    log_likelihood : callable
        Maps z, of shape (G, 1, L) or (G, b, L), and b of the data to log p(x|z), of shape (G, b), in nats:
        ``lambda z, x: model.decode(z).log_prob(x)``. Another prior than this one goes in here too, as its ratio to this
        one; so do two layers of one latent each.
    x : Tensor
        Shape (B, …). It is only handed over, in parts: row numbers do as well where a datum is more than a tensor.
    prior_loc : Tensor
        m, shape (L,) or (B, L); L is 1 or 2. Its type and device are those z is handed over in.
    prior_scale : Tensor or float
        s, of the same shape, or one for all.
    function : callable, optional
        f, whose posterior expectation is wanted: maps z (G, b, L) to (G, b, …).
    tolerance : float
        Largest `error`, in nats.
    first : int, optional
        Points per axis of the first grid: 1025 for L = 1, 129 for L = 2, so 0.018 and 0.14 of the prior's scale apart.
    rows : int
        Pairs of z and x that are asked for at once.

    Raises
    ------
    InputError
        If shapes do not fit, L is not 1 or 2, a log likelihood is NaN or plus infinity, or p(x|z) = 0 everywhere; if
        the rules do not agree on the largest grid, which says by how much they differ.
    """
    loc, scale = _check(x, prior_loc, prior_scale)
    B, L = len(x), loc.shape[-1]
    if not tolerance > 0:
        raise InputError("tolerance", expected="nats above 0", got=str(tolerance))
    count = FIRST[L - 1] if first is None else first
    if count < 5 or count % 4 != 1:
        raise InputError("first", expected="points per axis: 5, 9, 13, …", got=str(count))

    def log_joint(z: Tensor, data: Tensor) -> Tensor:
        m, s = (parameter if len(parameter) == 1 else parameter[data] for parameter in (loc, scale))
        log_prior = -0.5 * ((z - m) / s).square() - s.log() - 0.5 * math.log(2 * math.pi)
        return _in_chunks(log_likelihood, z.to(prior_loc.dtype), x[data], rows) + log_prior.sum(-1)

    edge = torch.full_like(loc, REACH)
    jobs = [_Job(torch.arange(B, device=loc.device), Grid(loc, scale.diag_embed(), -edge, edge), count, 0)]
    done: list[list[Tensor]] = []
    with torch.no_grad():
        while jobs:
            job = jobs.pop()
            block = max(1, NUMBERS_AT_ONCE // job.points**L)
            if len(job.data) > block:
                jobs += [job.of(part) for part in torch.arange(len(job.data), device=loc.device).split(block)]
                continue
            z = job.grid.nodes(job.points)
            values = log_joint(z, job.data)
            fine, coarse, coarser = (job.grid.log_integral(values, job.points, every) for every in (1, 2, 4))
            error = torch.maximum((fine - coarse).abs(), (coarse - coarser).abs() / 4)
            left = (error > tolerance) | job.grid.cut_off(values, job.points)
            weights = values.softmax(0)
            results = [job.data, fine, error, *moments(z, weights)]
            if function is not None:
                of_nodes = function(z.expand(*values.shape, L).to(prior_loc.dtype))
                results.append(torch.einsum("gb,gb...->b...", weights, of_nodes.to(weights)))
            done.append([result[~left] for result in results])
            for again in job.refined(values, left, NEXT[L - 1]):
                if again.points > MOST[L - 1]:
                    raise InputError(
                        "quadrature",
                        expected=f"rules that agree to {tolerance:g} nats",
                        got=f"a difference of {error.max().item():.2g} on {job.points} points per axis",
                        hint="a larger tolerance, or float64",
                    )
                jobs.append(again)
    data, *columns = (torch.cat(parts) for parts in zip(*done, strict=True))
    return Quadrature(*(column[data.argsort()] for column in columns))


def integrate_classes(
    log_likelihood: Callable[[Tensor, Tensor, int], Tensor],
    x: Tensor,
    probabilities: Tensor,
    prior_loc: Tensor,
    prior_scale: Tensor | float = 1.0,
    *,
    tolerance: float = 1e-4,
    first: int | None = None,
    rows: int = 2**14,
) -> Enumeration:
    """Return log p(x, y) = log p(y) + log ∫ p(x|y, z) p(z) dz of every class y: (B, C), in float64.

    Of it, `log_marginal` is log p(x) with y summed out, and `posterior` is p(y|x).

    Parameters
    ----------
    log_likelihood : callable
        Maps z and data, as for `integrate`, and the class y = 0, ..., C - 1 to log p(x|y, z), shape (G, b).
    x : Tensor
        Shape (B, …).
    probabilities : Tensor
        p(y), shape (C,).
    prior_loc, prior_scale, tolerance, first, rows
        As for `integrate`.
    """

    def of_class(y: int) -> Tensor:
        def given_class(z: Tensor, x: Tensor) -> Tensor:
            return log_likelihood(z, x, y)

        return integrate(
            given_class, x, prior_loc, prior_scale, tolerance=tolerance, first=first, rows=rows
        ).log_marginal

    columns = [of_class(y) for y in range(check_probabilities(probabilities))]
    return Enumeration(torch.stack(columns, 1) + probabilities.double().log())


class _Job(NamedTuple):
    """Data whose integrals are still to be had, and the grid to take next."""

    data: Tensor  # row numbers, (b,)
    grid: Grid
    points: int  # per axis
    turn: int  # grids before this one

    def of(self, chosen: Tensor) -> _Job:
        return self._replace(data=self.data[chosen], grid=self.grid.of(chosen))

    def refined(self, values: Tensor, left: Tensor, least: int) -> list[_Job]:
        """Return jobs for the data that are `left`: a grid that fits, with more points once it no longer moves."""
        fitted = self.grid.fitted(values, self.points)
        moves = ((fitted.log_volume - self.grid.log_volume).abs() > 0.5) & (self.turn < MOST_TURNS)
        points = self.points if self.turn else least
        each = ((left & moves, points), (left & ~moves, 2 * points - 1))
        return [_Job(self.data, fitted, count, self.turn + 1).of(chosen) for chosen, count in each if chosen.any()]


def _in_chunks(log_likelihood: LogLikelihood, z: Tensor, x: Tensor, rows: int) -> Tensor:
    """Return log p(x|z) (G, B) in float64 for z (G, B or 1, L), asked for by so many pairs of z and x at once."""
    parts = []
    for part in z.split(max(1, rows // len(x))):
        value = log_likelihood(part, x)
        if value.shape != (len(part), len(x)):
            got = f"{tuple(value.shape)} for z {tuple(part.shape)} and x {tuple(x.shape)}"
            raise InputError("log_likelihood", expected=f"shape {(len(part), len(x))}", got=got)
        parts.append(value.double())
    values = torch.cat(parts)
    if not (values < math.inf).all():
        bad = int((~(values < math.inf)).sum())
        got = f"{bad} of {values.numel()} NaN or plus infinity"
        raise InputError("log_likelihood", expected="log densities", got=got)
    if (nowhere := int((values.amax(0) == -math.inf).sum())) > 0:
        got = f"zero at all {len(z)} points for {nowhere} data"
        raise InputError("log_likelihood", expected="p(x|z) > 0 at some z", got=got)
    return values


def _check(x: Tensor, loc: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return mean and scale of the prior in float64, as (B, L), B = 1 where all data share them."""
    if not x.dim() or not len(x):
        raise InputError("x", expected="data of shape (B, …)", got=f"shape {tuple(x.shape)}")
    if loc.dim() not in (1, 2) or loc.shape[-1] not in (1, 2) or (loc.dim() == 2 and len(loc) != len(x)):
        raise InputError("prior_loc", expected="shape (L,) or (B, L) with L = 1 or 2", got=str(tuple(loc.shape)))
    scale = torch.as_tensor(scale, device=loc.device)
    if scale.dim() and scale.shape not in (loc.shape, loc.shape[-1:]):
        raise InputError("prior_scale", expected=f"a scalar or shape {tuple(loc.shape)}", got=str(tuple(scale.shape)))
    check_finite(prior_loc=loc, prior_scale=scale)
    check_positive(prior_scale=scale)
    loc = loc.double().reshape(-1, loc.shape[-1])
    return loc, scale.double().expand_as(loc)
