"""Linear-Gaussian modalities of one latent, any subset of them observed: the product of experts that is exact.

    p(z) = N(0, I_L),   p(x_m|z) = N(W_m z + b_m, S_m^2)   for each modality m

As a function of z each modality is an expert exp(-1/2 z'A_m z + z'h_m), A_m = W_m'S_m^-2 W_m and
h_m = W_m'S_m^-2 (x_m - b_m). The posterior given a set S of them is their product with the prior (Hinton 2002, eq. 1;
with a prior expert, Wu & Goodman 2018, eq. 3), and products of Gaussians add their precisions:

    p(z|x_S) = p(z)^(1-|S|) prod_S p(z|x_m) / const = N(u, P^-1),   P = I + sum_S A_m,   u = P^-1 sum_S h_m
    -2 log p(x_S) = sum_S [D_m log 2 pi + 2 log det S_m + |S_m^-1 (x_m - b_m - W_m u)|^2] + |u|^2 + log det P

What is missing has no factor. The same by conditioning one big Gaussian is `joint(modalities)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import InputError
from ppl_vae.exact.checks import check_finite, check_positive
from ppl_vae.exact.hierarchy import Layer
from ppl_vae.exact.joint import JointGaussian


class Expert(NamedTuple):
    """One modality's say on z, exp(-1/2 z'Az + z'h): N(A^-1 h, A^-1) if D_m >= L, and improper otherwise."""

    precision: Tensor  # A, (L, L)
    shift: Tensor  # h, (B, L)


def joint(modalities: Mapping[str, Layer]) -> JointGaussian:
    """Return the distribution of ``"z"`` and every modality by its name, in float64.

    Then ``p.given(depth=x).log_prob(joints=t)`` is log p(t|x), and ``p.given(depth=x).marginal("z")`` the posterior.
    """
    L, (first, *_) = _latent_dim(modalities), next(iter(modalities.values()))
    network = JointGaussian.root("z", torch.zeros(L, dtype=torch.float64, device=first.device))
    for name, (weight, bias, scale) in modalities.items():
        network = network.child(name, {"z": weight}, bias, scale)
    return network


def experts(values: Mapping[str, Tensor], modalities: Mapping[str, Layer]) -> dict[str, Expert]:
    """Return each modality's expert, in float64, for values x_m (B, D_m) by name; see `log_marginal`."""
    return {name: part.expert for name, part in _whiten(values, modalities, {}).items()}


def posterior(
    values: Mapping[str, Tensor], modalities: Mapping[str, Layer], masks: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean (B, L) and covariance of p(z|x_S), in float64.

    The covariance is (L, L) where all data share it, (B, L, L) where there are masks. See `log_marginal`.
    """
    mean, root = _multiply(_whiten(values, modalities, masks or {}))
    return mean, torch.cholesky_inverse(root)


def log_marginal(
    values: Mapping[str, Tensor], modalities: Mapping[str, Layer], masks: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Return log p(x_S) of each datum, shape (B,), nats, in float64; see the equations of this file.

    log p(x_t|x_i) of sets t and i is the difference of two: ``log_marginal(t | i, …) - log_marginal(i, …)``.

    Parameters
    ----------
    values : mapping of str to Tensor
        x_m, shape (B, D_m), by name; a modality that is not named is missing throughout.
    modalities : mapping of str to Layer
        W_m (D_m, L), b_m (D_m,) and the standard deviations S_m, (D_m,) or one for all.
    masks : mapping of str to Tensor, optional
        Boolean (B,) by name, true where the datum has the modality; what its values are elsewhere has no part. A datum
        that misses all has log p = 0, and the prior as its posterior.

    Raises
    ------
    InputError
        If there are no values, a name is unknown, shapes do not fit, an observed value is not finite, or a scale not
        positive.
    """
    parts = _whiten(values, modalities, masks or {})
    mean, root = _multiply(parts)
    squares = mean.square().sum(-1) + 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    for part in parts.values():
        misfit = (part.residual - mean @ part.weight.mT).square().sum(-1)
        squares = squares + part.present * (part.log_volume + misfit)
    return -0.5 * squares


class _Whitened(NamedTuple):
    residual: Tensor  # r = S^-1 (x - b), (B, D), zero where missing
    weight: Tensor  # V = S^-1 W, (D, L)
    log_volume: Tensor  # D log 2 pi + 2 log det S, ()
    present: Tensor  # 1 where the datum has it, else 0: (B,), or () without a mask

    @property
    def expert(self) -> Expert:
        return Expert(self.weight.mT @ self.weight, self.residual @ self.weight)


def _multiply(parts: Mapping[str, _Whitened]) -> tuple[Tensor, Tensor]:
    """Return u (B, L) and the Cholesky factor of P."""
    each = [(part.expert, part.present[..., None, None]) for part in parts.values()]
    precision = torch.stack(torch.broadcast_tensors(*(present * expert.precision for expert, present in each))).sum(0)
    shift = torch.stack([expert.shift for expert, _ in each]).sum(0)  # zero where missing, as the residual is
    # P >= I, so that its factorisation cannot fail.
    root = torch.linalg.cholesky(torch.eye(precision.shape[-1], dtype=precision.dtype, device=shift.device) + precision)
    return torch.cholesky_solve(shift.unsqueeze(-1), root).squeeze(-1), root


def _whiten(
    values: Mapping[str, Tensor], modalities: Mapping[str, Layer], masks: Mapping[str, Tensor]
) -> dict[str, _Whitened]:
    L = _latent_dim(modalities)
    if not values:
        raise InputError("values", expected="at least one modality", got="none")
    for name in [*values, *masks]:
        one_of("modality", name, modalities)
    B = len(next(iter(values.values())))
    parts = {}
    for name, x in values.items():
        weight, bias, scale = (
            torch.as_tensor(parameter, dtype=torch.float64, device=x.device) for parameter in modalities[name]
        )
        D = weight.shape[0]
        for what, tensor, shape in (("weight", weight, (D, L)), ("bias", bias, (D,)), ("value", x, (B, D))):
            if tensor.shape != shape:
                raise InputError(f"{what} of {name!r}", expected=f"shape {shape}", got=str(tuple(tensor.shape)))
        if scale.shape not in ((), (1,), (D,)):
            raise InputError(f"scale of {name!r}", expected=f"a scalar or ({D},)", got=str(tuple(scale.shape)))
        present = torch.ones((), dtype=torch.float64, device=x.device)
        x = x.double()
        if (mask := masks.get(name)) is not None:
            if mask.shape != (B,) or mask.dtype != torch.bool:
                got = f"{mask.dtype} of shape {tuple(mask.shape)}"
                raise InputError(f"mask of {name!r}", expected=f"torch.bool of shape ({B},)", got=got)
            x, present = torch.where(mask[:, None], x, bias), mask.double()  # missing values may be anything, NaN too
        check_finite(
            **{f"value of {name!r}": x, f"weight of {name!r}": weight, f"bias of {name!r}": bias},
            **{f"scale of {name!r}": scale},
        )
        check_positive(**{f"scale of {name!r}": scale})
        log_volume = D * math.log(2 * math.pi) + 2 * scale.expand(D).log().sum()
        parts[name] = _Whitened((x - bias) / scale, weight / scale.expand(D)[:, None], log_volume, present)
    return parts


def _latent_dim(modalities: Mapping[str, Layer]) -> int:
    sizes = {name: layer[0].shape[-1] if layer[0].dim() == 2 else 0 for name, layer in modalities.items()}
    if not sizes or 0 in sizes.values() or len(set(sizes.values())) > 1:
        got = ", ".join(f"{name} {tuple(layer[0].shape)}" for name, layer in modalities.items()) or "none"
        raise InputError("modalities", expected="weights (D_m, L) of one L", got=got)
    return next(iter(sizes.values()))
