"""What the closed forms ask of their input: each check raises one line that names the argument."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError


def check_finite(**tensors: Tensor) -> None:
    """Raise `InputError` naming the first argument that holds a NaN or an infinity."""
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise InputError(name, expected="finite values", got=f"{count} of {value.numel()} not finite")


def check_positive(**tensors: Tensor) -> None:
    """Raise `InputError` naming the first argument that holds a value not above zero."""
    for name, value in tensors.items():
        if not (value > 0).all():
            raise InputError(
                name,
                expected="positive standard deviations",
                got=f"a smallest value of {value.min().item():g}",
                hint="a standard deviation, not a logarithm or a difference",
            )


def check_probabilities(probabilities: Tensor) -> int:
    """Return how many `probabilities` (C,) there are, after checking that they are some.

    Raises
    ------
    InputError
        If they are no vector, one is negative or not finite, or they do not sum to one.
    """
    if probabilities.dim() != 1 or not len(probabilities):
        raise InputError("probabilities", expected="a vector (C,)", got=f"shape {tuple(probabilities.shape)}")
    check_finite(probabilities=probabilities)
    check_normalised(probabilities=probabilities)
    return len(probabilities)


def check_normalised(**tables: Tensor) -> None:
    """Raise `InputError` naming the first table whose last dimension holds no probabilities that sum to one."""
    for name, table in tables.items():
        totals = table.detach().sum(-1)
        # Float32 is this exact, and a mistake seldom so small.
        if not ((table >= 0).all() and ((totals - 1).abs() <= 1e-6).all()):
            raise InputError(
                name,
                expected="probabilities that sum to one",
                got=f"a smallest value of {table.detach().min().item():g} and sums from {totals.min().item():.7g} "
                f"to {totals.max().item():.7g}",
                hint="logits.softmax(-1)",
            )


def check_data(x: Tensor, latent_dim: int) -> Tensor:
    """Return a data set `x` (N, D) in float64, fit for an estimate with `latent_dim` = L latents.

    Raises
    ------
    InputError
        If `x` is no matrix, has a value that is not finite, or does not have N > L and D > L >= 1.
    """
    if x.dim() != 2:
        raise InputError("x", expected="a matrix (N, D)", got=f"shape {tuple(x.shape)}", hint="x.reshape(len(x), -1)")
    N, D = x.shape
    if not 1 <= latent_dim < D:
        raise InputError(
            "latent_dim", expected=f"1 to D - 1 = {D - 1} for data of D = {D} columns", got=str(latent_dim)
        )
    if not latent_dim < N:
        raise InputError(
            "x",
            expected=f"more rows than latents (N > {latent_dim})",
            got=f"N = {N}",
            hint="fewer latents, or more data",
        )
    check_finite(x=x)
    return x.double()


def cholesky(name: str, covariance: Tensor) -> Tensor:
    """Return the lower Cholesky factor of `covariance` (..., L, L).

    Raises
    ------
    InputError
        If the matrix is not square, finite and symmetric, or not positive definite to working precision: some
        coordinate keeps less than L machine epsilons of its variance once the coordinates before it are known.
    """
    if covariance.dim() < 2 or covariance.shape[-1] != covariance.shape[-2]:
        raise InputError(name, expected="square matrices (..., L, L)", got=f"shape {tuple(covariance.shape)}")
    check_finite(**{name: covariance})
    epsilon = torch.finfo(covariance.dtype).eps
    asymmetry = (covariance - covariance.mT).abs().amax((-2, -1))
    if (asymmetry > epsilon**0.5 * covariance.abs().amax((-2, -1))).any():
        raise InputError(name, expected="a symmetric matrix", got=f"an asymmetry of {asymmetry.max().item():.2g}")
    factor, info = torch.linalg.cholesky_ex(covariance)
    kept = factor.diagonal(dim1=-2, dim2=-1).square() / covariance.diagonal(dim1=-2, dim2=-1)
    if (info != 0).any() or not (kept > covariance.shape[-1] * epsilon).all():
        raise InputError(
            name,
            expected="a positive definite covariance",
            got=f"a smallest eigenvalue of {torch.linalg.eigvalsh(covariance.detach()).min().item():.2g}",
            hint="adding a small multiple of the identity",
        )
    return factor
