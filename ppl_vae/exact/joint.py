"""Jointly Gaussian variables by name: every marginal and every conditional of a linear-Gaussian network.

A network grows from its root, child by child, v = sum_p W_p u_p + b + s e with e ~ N(0, I). If what is there so far
has mean m and covariance C, and W stacks the W_p (zero for all that are no parents), then (Bishop 2006, eqs. 8.14 to
8.16)

    E[v] = W m + b,   cov[u, v] = C W',   cov[v] = W C W' + diag(s^2)

Any part a of it, given any other part o, is Gaussian (Bishop 2006, eqs. 2.81, 2.82, 2.98):

    p(a|o) = N(m_a + K (o - m_o), C_aa - K C_oa),   K = C_ao C_oo^-1,        p(a) = N(m_a, C_aa)

A condition c that no one draws is not a variable but a known offset, one per datum. With p(z|c) = N(V c + d, t^2) and
p(x|z,c) = N(W z + U c + b, s^2), c of shape (B, ·), log p(x|c) is

    JointGaussian.root("z", c @ V.mT + d, t).child("x", {"z": W}, c @ U.mT + b, s).log_prob(x=x)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import InputError
from ppl_vae.exact.checks import check_finite, check_positive, cholesky
from ppl_vae.exact.gaussian import gaussian_kl


class Regression(NamedTuple):
    """p(a|o) = N(sum_o W_o o + b, C): what a linear guide has to be to be exact."""

    weights: dict[str, Tensor]  # W_o (..., n_a, n_o), by the name of o
    bias: Tensor  # b, (..., n_a)
    covariance: Tensor  # C, (..., n_a, n_a)


class JointGaussian:
    """N(mean, covariance) over named variables, laid end to end in the order of `sizes`.

    All is computed, and returned, in float64: a witness should have digits to spare. Leading dimensions broadcast, so
    that a mean per datum (B, n) goes with one covariance (n, n). Differentiable in all it is made from.

    Parameters
    ----------
    sizes : mapping of str to int
        Names of the variables and how many coordinates each has; n in all.
    mean : Tensor
        Shape (..., n).
    covariance : Tensor
        Shape (..., n, n), symmetric positive definite.

    Raises
    ------
    InputError
        If shapes do not fit, a value is not finite, a scale not positive, a name unknown or taken; from what needs its
        inverse, if a covariance is not positive definite to working precision.
    """

    def __init__(self, sizes: Mapping[str, int], mean: Tensor, covariance: Tensor) -> None:
        self.sizes = dict(sizes)
        n = sum(self.sizes.values())
        if mean.shape[-1:] != (n,):
            raise InputError("mean", expected=f"shape (..., {n})", got=str(tuple(mean.shape)))
        if covariance.shape[-2:] != (n, n):
            raise InputError("covariance", expected=f"shape (..., {n}, {n})", got=str(tuple(covariance.shape)))
        check_finite(mean=mean, covariance=covariance)
        self.mean, self.covariance = mean.double(), covariance.double()

    @classmethod
    def root(cls, name: str, mean: Tensor, scale: Tensor | float = 1.0) -> JointGaussian:
        """Return N(mean, diag(scale^2)) over one variable: mean (..., n), scale (..., n) or a number."""
        if not mean.dim():
            raise InputError("mean", expected="shape (..., n)", got="a scalar", hint="mean[None]")
        return cls({name: mean.shape[-1]}, mean, _noise(scale, mean))

    def child(
        self, name: str, weights: Mapping[str, Tensor], bias: Tensor, scale: Tensor | float = 1.0
    ) -> JointGaussian:
        """Return the network with one more variable, N(sum_p W_p u_p + b, diag(scale^2)).

        Parameters
        ----------
        name : str
            The new variable.
        weights : mapping of str to Tensor
            W_p, shape (..., D, n_p), by the name of the parent p.
        bias : Tensor
            b, shape (..., D).
        scale : Tensor or float
            Standard deviations, shape (..., D), or one for all.
        """
        if name in self.sizes:
            raise InputError("name", expected="a new variable", got=f"{name!r}, which there is", hint="another name")
        if not bias.dim():
            raise InputError("bias", expected="shape (..., D)", got="a scalar", hint="bias[None]")
        D, n = bias.shape[-1], len(self._rows(self.sizes))
        for parent, weight in weights.items():
            expected = (D, len(self._rows([parent])))
            if weight.shape[-2:] != expected:
                what = f"weight of {name!r} on {parent!r}"
                raise InputError(
                    what, expected=f"shape (..., {expected[0]}, {expected[1]})", got=str(tuple(weight.shape))
                )
        check_finite(bias=bias, **{f"weight of {name!r} on {parent!r}": weight for parent, weight in weights.items()})
        noise = _noise(scale, bias)
        batch = torch.broadcast_shapes(*(weight.shape[:-2] for weight in weights.values()))
        whole = torch.zeros(*batch, D, n, dtype=torch.float64, device=self.mean.device)
        for parent, weight in weights.items():
            whole[..., self._rows([parent])] = weight.double()

        mean = (whole @ self.mean.unsqueeze(-1)).squeeze(-1) + bias
        across = whole @ self.covariance  # cov[v, u]
        own = across @ whole.mT + noise
        means = _broadcast((self.mean, mean), 1)
        batch = torch.broadcast_shapes(across.shape[:-2], own.shape[:-2])
        grown = torch.zeros(*batch, n + D, n + D, dtype=torch.float64, device=self.mean.device)
        grown[..., :n, :n], grown[..., n:, n:] = self.covariance, own
        grown[..., n:, :n], grown[..., :n, n:] = across, across.mT
        return JointGaussian(self.sizes | {name: D}, torch.cat(means, -1), grown)

    def marginal(self, *names: str) -> JointGaussian:
        """Return the distribution of the variables `names` alone, in that order."""
        rows = self._rows(names)
        return JointGaussian(
            {name: self.sizes[name] for name in names}, self.mean[..., rows], self.covariance[..., rows, :][..., rows]
        )

    def regression(self, names: Sequence[str], on: Sequence[str]) -> Regression:
        """Return p(names | on) as a linear function of the variables `on`; one name may be given as a string."""
        names, on = ([part] if isinstance(part, str) else list(part) for part in (names, on))
        gain, covariance = self._condition(names, on)
        bias = self.mean[..., self._rows(names)] - _apply(gain, self.mean[..., self._rows(on)])
        weights = dict(zip(on, gain.split([self.sizes[name] for name in on], -1), strict=True))
        return Regression(weights, bias, covariance)

    def given(self, /, **values: Tensor) -> JointGaussian:
        """Return the distribution of all other variables given the values (..., n_o) of some: a mean per datum."""
        rest = [name for name in self.sizes if name not in values]
        if not rest:
            raise InputError("given", expected="a variable that is not given", got="values for all", hint="log_prob")
        here = self._stack(values)
        gain, covariance = self._condition(rest, list(values))
        mean = self.mean[..., self._rows(rest)] + _apply(gain, here - self.mean[..., self._rows(values)])
        return JointGaussian({name: self.sizes[name] for name in rest}, mean, covariance)

    def log_prob(self, /, **values: Tensor) -> Tensor:
        """Return log N(values; m, C) of some of the variables, the others integrated out: shape (...), nats.

        -2 log p = n log 2 pi + log det C + (v - m)' C^-1 (v - m)                          (Bishop 2006, eq. 2.43)
        """
        here, part = self._stack(values), self.marginal(*values)
        root = cholesky("covariance", part.covariance)
        white = _solve(root, here - part.mean)
        log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (here.shape[-1] * math.log(2 * math.pi) + log_det + white.square().sum(-1))

    def kl(self, other: JointGaussian) -> Tensor:
        """Return KL(self || other) in nats, shape (...), over the variables of `self`, which `other` has too.

        A bound follows from it: with a guide q over the latents, ELBO(x) = log p(x) - KL(q || p(z|x)), that is
        ``p.log_prob(x=x) - q.kl(p.given(x=x))``. Such a guide is a network too, its means one per datum.
        """
        other = other.marginal(*self.sizes)
        return gaussian_kl(self.mean, self.covariance, other.mean, other.covariance)

    def _condition(self, names: Sequence[str], on: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return K and the covariance of p(names|on)."""
        for name in set(names) & set(on):
            raise InputError("on", expected="other variables than those asked for", got=f"{name!r} in both")
        a, o = self._rows(names), self._rows(on)
        C = self.covariance
        root = cholesky("covariance", C[..., o, :][..., o])
        half = torch.linalg.solve_triangular(root, C[..., o, :][..., a], upper=False)
        gain = torch.linalg.solve_triangular(root.mT, half, upper=True).mT
        return gain, C[..., a, :][..., a] - half.mT @ half

    def _rows(self, names: Iterable[str]) -> list[int]:
        """Return the places of the coordinates of `names`, one after the other."""
        starts, n = {}, 0
        for name, size in self.sizes.items():
            starts[name], n = n, n + size
        names = list(names)
        for name in names:
            one_of("variable", name, starts)
        if not names or len(set(names)) < len(names):
            raise InputError("variables", expected="at least one, each once", got=", ".join(names) or "none")
        return [row for name in names for row in range(starts[name], starts[name] + self.sizes[name])]

    def _stack(self, values: Mapping[str, Tensor]) -> Tensor:
        self._rows(values)
        for name, value in values.items():
            if value.shape[-1:] != (self.sizes[name],):
                raise InputError(name, expected=f"shape (..., {self.sizes[name]})", got=str(tuple(value.shape)))
        check_finite(**values)
        return torch.cat(_broadcast([value.double() for value in values.values()], 1), -1)


def _noise(scale: Tensor | float, mean: Tensor) -> Tensor:
    """Return diag(scale^2) (..., size, size), for a mean (..., size)."""
    size, scale = mean.shape[-1], torch.as_tensor(scale, dtype=torch.float64, device=mean.device)
    check_finite(scale=scale)
    check_positive(scale=scale)
    if scale.dim() and scale.shape[-1] not in (1, size):
        raise InputError("scale", expected=f"a scalar or shape (..., {size})", got=str(tuple(scale.shape)))
    return scale.square().expand(*scale.shape[:-1], size).diag_embed()


def _broadcast(tensors: Sequence[Tensor], kept: int) -> list[Tensor]:
    """Return `tensors` with all but the last `kept` dimensions broadcast."""
    batch = torch.broadcast_shapes(*(tensor.shape[:-kept] for tensor in tensors))
    return [tensor.expand(*batch, *tensor.shape[-kept:]) for tensor in tensors]


def _apply(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Return matrix @ v of each vector v, without a matrix per datum where all share one."""
    return vectors @ matrix.mT if matrix.dim() == 2 else (matrix @ vectors.unsqueeze(-1)).squeeze(-1)


def _solve(root: Tensor, vectors: Tensor) -> Tensor:
    """Return root^-1 v of each vector v, `root` being lower triangular."""
    if root.dim() == 2:
        flat = torch.linalg.solve_triangular(root, vectors.reshape(-1, vectors.shape[-1]).mT, upper=False)
        return flat.mT.reshape(vectors.shape)
    return torch.linalg.solve_triangular(root, vectors.unsqueeze(-1), upper=False).squeeze(-1)
