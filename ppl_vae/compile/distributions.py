"""Private parts of torch's distributions: a parametrisation, a sampler, a factor before expansion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, MultivariateNormal


def standard_gamma(concentration: Tensor) -> Tensor:
    """Draw from Gamma(concentration, 1), shape that of `concentration`; unlike `Gamma`, down to zero."""
    return torch._standard_gamma(concentration)


def categorical_of(distribution: Distribution) -> Distribution:
    """Return the categorical distribution of a one-hot distribution; any other is returned unchanged."""
    return getattr(distribution, "_categorical", distribution)


def has_probs(distribution: Bernoulli | Categorical) -> bool:
    """Return whether a distribution was given ``probs``; if not, ``logits``."""
    given: Any = distribution
    return given._param is vars(given).get("probs")


def scale_tril_of(normal: MultivariateNormal) -> Tensor:
    """Return the Cholesky factor (…, L, L) as it was given: not expanded where it is the same for all data."""
    return normal._unbroadcasted_scale_tril
