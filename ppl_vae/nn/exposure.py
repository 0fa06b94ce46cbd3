"""The exposure e of a datum, over which its counts were gathered: time, area, the size of a library of reads.

A rate of exp(h) per unit of exposure gives counts of mean e exp(h): log e is added to the logarithm of every mean.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.core.errors import InputError
from ppl_vae.nn import likelihoods
from ppl_vae.nn.heads import LikelihoodHead
from ppl_vae.nn.likelihoods import NegativeBinomial, Poisson
from ppl_vae.nn.normals import NormalHead


class Exposure(nn.Module):
    """Exposures (B,), one number above 0 per datum; a network gets the logarithm concatenated to its input."""

    size = 1

    def forward(self, exposure: Tensor | None) -> Tensor:
        """Return log e, or raise `InputError` where there is no exposure."""
        return _there(exposure).log()

    def given(self, exposure: Tensor | None) -> Tensor:
        """Return the exposure, or raise `InputError` unless it is there, of floating-point numbers (..., B)."""
        found = _there(exposure)
        if not found.is_floating_point() or found.ndim == 0:
            got = f"{found.dtype} of shape {tuple(found.shape)}"
            raise InputError("exposure", expected="floating-point numbers (B,)", got=got, hint="exposure.float()")
        return found

    def through(self, network: nn.Module, h: Tensor, exposure: Tensor | None) -> Tensor:
        """Return network(h, log e) for h (..., B, H) and e (B,)."""
        log_exposure = self(exposure).unsqueeze(-1).expand(*h.shape[:-1], 1)
        return network(torch.cat((h, log_exposure), -1))

    def check_values(self, exposure: Tensor | None = None, **_: Tensor) -> None:
        """Raise `InputError` for an exposure that is not above 0, in any row of the data."""
        if exposure is not None and not bool((exposure > 0).all()):
            row = int((~(exposure.flatten() > 0)).nonzero()[0])
            got = f"{float(exposure.flatten()[row]):.6g} in row {row}"
            raise InputError("exposure", expected="numbers above 0", got=got, hint="leaving such rows out")


class RateHead(LikelihoodHead):
    """p(x|z, e) of counts: a likelihood whose mean is e exp(h), h the first D numbers of a decoder's output.

    Parameters
    ----------
    x_shape, latent_dim, likelihood, network, hidden, activation
        As for `LikelihoodHead`; the likelihood is a `Poisson` or `NegativeBinomial`, or the name of one.

    Raises
    ------
    InputError
        If the likelihood is not one of counts.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.exposure = Exposure()
        if not isinstance(self.likelihood, NegativeBinomial | Poisson):
            got, names = type(self.likelihood).__name__, ", ".join(likelihoods.COUNTS)
            raise InputError("likelihood", expected=f"one of counts: {names}", got=got, hint="a VAE for other data")

    def forward(self, z: Tensor, exposure: Tensor | None = None) -> Any:
        """Return p(x|z, e) for z (..., B, L) and e (B,): batch shape (..., B), event shape x_shape."""
        output, D = self.output(z), math.prod(self.event_shape)
        log_mean = output[..., :D] + self.exposure(exposure).unsqueeze(-1)
        return self.likelihood.of_network(torch.cat((log_mean, output[..., D:]), -1), self.event_shape)


class LogCountHead(NormalHead):
    """N(m, C), (m, C) = encoder(log(1 + x), log e), for counts x and their exposure e.

    Parameters
    ----------
    x_shape, latent_dim, covariance, network, hidden, activation
        As for `NormalHead`; the network maps (..., D + 1).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, condition=Exposure(), **kwargs)

    def forward(self, x: Tensor, exposure: Tensor | None = None) -> Any:
        """Return q(z|x, e) for x (..., B, *x_shape) and e (B,): batch shape (..., B), event shape (L,)."""
        return super().forward(x.log1p(), exposure)


def _there(exposure: Tensor | None) -> Tensor:
    if exposure is None:
        expected, hint = "one number above 0 per datum", "exposure=torch.ones(n) for rates as they are"
        raise InputError("exposure", expected=expected, got="none", hint=hint)
    return exposure
