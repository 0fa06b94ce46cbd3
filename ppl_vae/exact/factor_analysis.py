"""Factor analysis by maximum likelihood: p(x|z) = N(W z + b, Psi), Psi = diag(s_1^2, ..., s_D^2).

Given Psi the best W is in closed form: with l_1 >= ... >= l_D and U the eigenvalues and eigenvectors of
Psi^-1/2 S Psi^-1/2, S the data's covariance (divisor N),  W = Psi^1/2 U_L (diag(l_1, ..., l_L) - I)_+^1/2  (Joreskog
1967, "Some contributions to maximum likelihood factor analysis"). That leaves a function of log Psi alone, in nats
per datum

    F = -1/2 [D log 2 pi + log det Psi + sum_{k kept} (log l_k + 1) + sum_{k rest} l_k],   kept: k <= L and l_k > 1

whose gradient in log Psi is -h / 2, h_d = sum_{k rest} (1 - l_k) U_dk^2. It is raised by Newton's method with the
curvature G = (U_rest U_rest')^2, entry by entry, exact where the rest l_k are 1, as in a model that fits (Joreskog
1967). Steps are damped until F rises (Marquardt 1963); should that fail, Psi <- diag(S - W W') cannot: at the best W
the latents' second moment is I, so this is the EM step for Psi (Rubin & Thayer 1982).

F has several local maxima where columns end at the floor, above all with few data: one for each set of columns that the
latents take up whole. Where the first three starts disagree, or one of them ends at the floor, more are taken: random
ones, then the best so far with one column's noise put at the floor, or taken off it, until that gains nothing.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError
from ppl_vae.exact.checks import check_data
from ppl_vae.exact.ppca import column_signs

#: Nats per datum below which two maxima are one.
SAME = 1e-6
#: Random starts, where three are not enough.
RANDOM = 24


class FactorAnalysisParameters(NamedTuple):
    """Parameters of p(x|z) = N(W z + b, diag(scale^2)), in the order that `log_marginal` and `posterior` take them."""

    weight: Tensor  # W, (D, L)
    bias: Tensor  # b, (D,)
    scale: Tensor  # standard deviations, (D,)


def factor_analysis_maximum_likelihood(
    x: Tensor,
    latent_dim: int,
    *,
    variance_floor: float = 1e-6,
    tolerance: float = 1e-10,
    max_iterations: int = 1000,
    num_starts: int = 60,
) -> FactorAnalysisParameters:
    """Return the parameters of factor analysis that maximise the likelihood of `x`; see the equations of this file.

    The maximum is taken over noise variances at or above a floor. Without one the likelihood has no maximum where a
    column is constant, and a column that the factors explain fully (a Heywood case) never settles. The likelihood may
    have several local maxima: this is the best of those reached from up to `num_starts` starts, never below PPCA where
    PPCA's noise is above the floor; a warning says by how much starts disagree. W is determined up to a rotation of the
    latents, as in PPCA.

    Parameters
    ----------
    x : Tensor
        Data, shape (N, D). Computed in float64, returned in the type of `x` where that is floating.
    latent_dim : int
        L, between 1 and D - 1.
    variance_floor : float
        Smallest noise variance of a column, as a share of the columns' mean variance.
    tolerance : float
        Stop where the gain still to be had, as Newton's method predicts it, is below this many nats per datum.
    max_iterations : int
        Steps before giving up.
    num_starts : int
        Starts at most, 3 or more. Those past three are taken where the first three disagree, or a column that varies
        ends at the floor.

    Warns
    -----
    UserWarning
        If starts end at different maxima: there may be a higher one still.

    Raises
    ------
    InputError
        If `x` is not a finite matrix with N > L, if L >= D, if all columns are constant, if the floor is not positive,
        for fewer than three starts, or if the tolerance is not reached from one of the first three.
    """
    data = check_data(x, latent_dim)
    if not variance_floor > 0:
        raise InputError("variance_floor", expected="a positive share of the mean variance", got=str(variance_floor))
    if num_starts < 3:
        raise InputError("num_starts", expected="3 or more", got=str(num_starts))
    bias = data.mean(0)
    covariance = (data - bias).mT @ (data - bias) / len(data)
    variances = covariance.diagonal()
    if not (variances > 0).any():
        raise InputError("x", expected="a column that varies", got="constant columns only")
    floor = variance_floor * variances.mean().item()

    def climb(start: Tensor) -> _Profile:
        profile = _Profile.at(start.clamp_min(floor), covariance, latent_dim)
        return _climb(profile, covariance, floor, tolerance, max_iterations)

    ends = [climb(start) for start in _starts(covariance, floor, latent_dim)]
    same = max(SAME, 10 * tolerance)
    disagree = max(map(_value, ends)) - min(map(_value, ends)) > same
    if disagree or any(((end.noise <= floor * (1 + 1e-6)) & (variances > floor)).any() for end in ends):
        ends = _search(climb, ends, variances, floor, num_starts, same)
        _warn_of_lower(ends, same)
    best = max(ends, key=_value)
    dtype = x.dtype if x.is_floating_point() else data.dtype
    return FactorAnalysisParameters(best.weight.to(dtype), bias.to(dtype), best.noise.sqrt().to(dtype))


def _value(profile: _Profile) -> float:
    return profile.value


def _search(
    climb: Callable[[Tensor], _Profile],
    ends: list[_Profile],
    variances: Tensor,
    floor: float,
    num_starts: int,
    same: float,
) -> list[_Profile]:
    """Return `ends` and where more starts lead, at most `num_starts` in all; one that does not settle is left out."""
    generator = torch.Generator().manual_seed(0)
    D, L, ends = len(variances), ends[0].weight.shape[-1], [*ends]

    def lead(start: Tensor) -> None:
        with contextlib.suppress(InputError):
            ends.append(climb(start))

    left = num_starts - len(ends)
    for count in range(min(left, RANDOM)):
        u = torch.rand(D, generator=generator, dtype=variances.dtype, device="cpu").to(variances.device)
        start = variances * (10 ** (-6 * u) if count % 3 == 0 else u)
        if count % 3 == 1:
            start[torch.randperm(D, generator=generator, device="cpu")[: 1 + count // 3 % L]] = floor
        lead(start)
    best, column, tried = max(ends, key=_value), 0, 0
    for _ in range(left - RANDOM):
        if tried == D:  # all columns, since the last gain
            break
        start = best.noise.clone()
        start[column] = 0.5 * variances[column] if start[column] <= floor * (1 + 1e-6) else floor
        lead(start)
        column, tried = (column + 1) % D, tried + 1
        if ends[-1].value > best.value + same:
            best, tried = ends[-1], 0
    return ends


def _warn_of_lower(ends: list[_Profile], same: float) -> None:
    """Warn if starts ended at different maxima."""
    best = max(map(_value, ends))
    short = [best - end.value for end in ends if best - end.value > same]
    if short:
        warnings.warn(
            f"factor analysis: expected {len(ends)} starts to end at one maximum; got {len(short)} that end up to "
            f"{max(short):.2g} nats per datum lower; try a larger variance_floor, fewer latents, or more data",
            stacklevel=3,
        )


def _starts(covariance: Tensor, floor: float, latent_dim: int) -> Iterator[Tensor]:
    """Yield noise variances (D,) to climb from first; where none ends at the floor, the best is seldom beaten."""
    D, variances = len(covariance), covariance.diagonal()
    yield 0.5 * variances
    # What the other columns leave unexplained (Joreskog 1967).
    unexplained = torch.linalg.inv(covariance + floor * torch.eye(D, dtype=variances.dtype, device=variances.device))
    yield (1 - 0.5 * latent_dim / D) / unexplained.diagonal()
    yield torch.linalg.eigvalsh(covariance)[: D - latent_dim].mean().expand(D)  # PPCA's: ends no lower than PPCA


def _climb(profile: _Profile, covariance: Tensor, floor: float, tolerance: float, max_iterations: int) -> _Profile:
    """Return the local maximum that `profile` leads to."""
    variances, latent_dim = covariance.diagonal(), profile.weight.shape[-1]
    for _ in range(max_iterations):
        gain = profile.newton(floor)[1]
        if gain < tolerance:
            return profile
        steps = (profile.newton(floor, damping)[0] for damping in (0.0, 0.1, 1.0, 10.0, 100.0, 1000.0))
        noises = ((profile.noise * step.exp()).clamp_min(floor) for step in steps)
        trials = (_Profile.at(noise, covariance, latent_dim) for noise in noises)
        better = (trial for trial in trials if trial.value > profile.value)
        em_noise = (variances - profile.weight.square().sum(-1)).clamp_min(floor)
        profile = next(better, None) or _Profile.at(em_noise, covariance, latent_dim)
    raise InputError(
        "factor analysis",
        expected=f"convergence to {tolerance:g} nats per datum in {max_iterations} steps",
        got=f"{gain:.2g} nats per datum still to be had",
        hint="a larger max_iterations or variance_floor, or fewer latents",
    )


class _Profile(NamedTuple):
    """The likelihood at given noise variances, W being the best one for them."""

    noise: Tensor  # diagonal of Psi, (D,)
    weight: Tensor  # W, (D, L)
    rest: Tensor  # U_rest: the eigenvectors that W does not span, zero in the places of those it does, (D, D)
    excess: Tensor  # 1 - l_k, (D,)
    value: float  # F, nats per datum

    @classmethod
    def at(cls, noise: Tensor, covariance: Tensor, latent_dim: int) -> _Profile:
        D, root = len(noise), noise.sqrt()
        eigenvalues, axes = torch.linalg.eigh(covariance / (root[:, None] * root))
        eigenvalues, axes = eigenvalues.flip(-1), axes.flip(-1)
        kept = (torch.arange(D, device=noise.device) < latent_dim) & (eigenvalues > 1)
        terms = torch.where(kept, eigenvalues.clamp_min(1).log() + 1, eigenvalues)
        value = -0.5 * (D * math.log(2 * math.pi) + noise.log().sum() + terms.sum())
        weight = root[:, None] * axes[:, :latent_dim] * (eigenvalues[:latent_dim] - 1).clamp_min(0).sqrt()
        return cls(noise, weight * column_signs(weight), axes * ~kept, 1 - eigenvalues, value.item())

    def newton(self, floor: float, damping: float = 0.0) -> tuple[Tensor, float]:
        """Return the step of log Psi (D,), and the gain in nats per datum that it promises; held noises stay."""
        slope = (self.rest.square() * self.excess).sum(-1)  # h
        free = (self.noise > floor) | (slope < 0)  # at the floor and wanting below it: held there
        curvature = (self.rest @ self.rest.mT).square()
        # G is singular where the noise variances are not identified (many latents); a touch of identity settles it.
        curvature.diagonal().mul_(1 + damping).add_(1e-12)
        curvature = curvature[free][:, free]
        step = torch.zeros_like(slope)
        step[free] = -torch.linalg.solve(curvature, slope[free])
        return step.clamp(-4, 4), -0.25 * (slope @ step).item()
