"""Probabilistic PCA by maximum likelihood, in closed form (Tipping & Bishop 1999, eqs. 7 and 8 of the JRSS B paper).

With l_1 >= ... >= l_D and U the eigenvalues and eigenvectors of the data's covariance (divisor N):

    b = mean of x,   s^2 = mean of l_{L+1}, ..., l_D,   W = U_L (diag(l_1, ..., l_L) - s^2 I)^{1/2}
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError
from ppl_vae.exact.checks import check_data


class PPCAParameters(NamedTuple):
    """Parameters of p(x|z) = N(W z + b, s^2 I), in the order that `log_marginal` and `posterior` take them."""

    weight: Tensor  # W, (D, L)
    bias: Tensor  # b, (D,)
    scale: Tensor  # s, a standard deviation, ()


def ppca_maximum_likelihood(x: Tensor, latent_dim: int) -> PPCAParameters:
    """Return the parameters of PPCA that maximise the likelihood of `x`; see the equations of this file.

    W is determined up to a rotation of the latents: here its columns are orthogonal, of falling length, each with its
    largest entry positive. Constant columns of `x` are allowed: their row of W is zero.

    Parameters
    ----------
    x : Tensor
        Data, shape (N, D). Computed in float64, returned in the type of `x` where that is floating.
    latent_dim : int
        L, between 1 and D - 1.

    Raises
    ------
    InputError
        If `x` is not a finite matrix with N > L, if L >= D, or if `x` lies in a plane of L dimensions, so that no
        noise is left and the likelihood has no maximum.
    """
    data = check_data(x, latent_dim)
    bias, variances, directions = principal_axes(data)
    D = data.shape[-1]
    noise = variances[latent_dim:].sum() / (D - latent_dim)  # axes past the rank have variance zero but do count
    if noise <= D * torch.finfo(data.dtype).eps * variances[0]:
        raise InputError(
            "x",
            expected=f"data that {latent_dim} latents do not reproduce perfectly",
            got="no variance left for the noise, hence an unbounded likelihood",
            hint="fewer latents, or more data",
        )
    weight = directions[:, :latent_dim] * (variances[:latent_dim] - noise).clamp_min(0).sqrt()
    dtype = x.dtype if x.is_floating_point() else data.dtype
    return PPCAParameters(weight.to(dtype), bias.to(dtype), noise.sqrt().to(dtype))


def principal_axes(data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (D,), variances (R,) along the principal axes, falling, and the axes (D, R); R = min(N, D)."""
    mean = data.mean(0)
    # The triangle of a QR decomposition has the singular values of the data, without squaring their condition number.
    triangle = torch.linalg.qr(data - mean, mode="r").R
    _, singular_values, axes = torch.linalg.svd(triangle, full_matrices=False)
    axes = axes.mT
    return mean, singular_values.square() / len(data), axes * column_signs(axes)


def column_signs(matrix: Tensor) -> Tensor:
    """Return the sign of the largest entry in size of each column of `matrix` (D, L), shape (L,)."""
    return matrix.gather(0, matrix.abs().argmax(0, keepdim=True)).squeeze(0).sign()
