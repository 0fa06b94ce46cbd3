"""A linear-Gaussian hierarchy of L layers, all of whose marginals and posteriors are Gaussian.

    p(z_L) = N(m, S),   p(z_k|z_{k+1}) = N(V_k z_{k+1} + a_k, diag(t_k^2)),   p(x|z_1) = N(W z_1 + b, diag(s^2))

With one layer, N(0, I) at its top, this is PPCA or factor analysis (`linear_gaussian.py`). What a guide can at best be:
bottom-up, q(z_1|x) and q(z_{k+1}|z_k), as z_{k+1} needs no x once z_k is known; top-down, as in a ladder
(Soenderby et al. 2016), q(z_L|x) and q(z_k|z_{k+1}, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError
from ppl_vae.exact.joint import JointGaussian


class Layer(NamedTuple):
    """N(weight u + bias, diag(scale^2)) of what lies below given what lies above, u."""

    weight: Tensor  # (..., D, L)
    bias: Tensor  # (..., D)
    scale: Tensor | float = 1.0  # standard deviations: (..., D), or one for all


def joint(layers: Sequence[Layer], mean: Tensor | None = None, covariance: Tensor | None = None) -> JointGaussian:
    """Return the distribution of x, z1, ..., zL, in float64; see the equations of this file.

    Everything asked of it is one line: log p(x) is ``p.log_prob(x=x)``; the posterior of all layers
    ``p.given(x=x)``, and of one ``.marginal("z2")`` of it; p(z_1|z_2, x) is ``p.given(x=x, z2=z2).marginal("z1")``, or
    ``p.regression("z1", on=("z2", "x"))`` as a function of z_2 and x; the bound of a linear guide stands at
    `JointGaussian.kl`.

    Parameters
    ----------
    layers : sequence of Layer
        From the data upwards: p(x|z_1), p(z_1|z_2), ..., p(z_{L-1}|z_L). The parameters that
        `ppca_maximum_likelihood` returns are such a layer.
    mean, covariance : Tensor, optional
        m (..., n_L) and S (..., n_L, n_L) of the topmost latent; 0 and I by default.

    Raises
    ------
    InputError
        If there is no layer, if shapes do not fit, a value is not finite, or a scale not positive.
    """
    if not layers:
        raise InputError("layers", expected="at least one, p(x|z1)", got="none")
    names = ["x", *(f"z{k}" for k in range(1, len(layers) + 1))]
    weight = layers[-1][0]
    if weight.dim() < 2:
        raise InputError(f"weight of {names[-2]!r}", expected="shape (..., D, L)", got=str(tuple(weight.shape)))
    n = weight.shape[-1]
    mean = weight.new_zeros(n) if mean is None else mean
    covariance = torch.eye(n, dtype=weight.dtype, device=weight.device) if covariance is None else covariance
    network = JointGaussian({names[-1]: n}, mean, covariance)
    for k in reversed(range(len(layers))):
        weight, bias, scale = layers[k]
        network = network.child(names[k], {names[k + 1]: weight}, bias, scale)
    return network
