"""One-hot draws with a gradient: the straight-through Gumbel-softmax (Jang, Gu & Poole 2017, section 2.2).

y = one_hot(argmax_k (log p_k + g_k)),   g_k ~ Gumbel(0, 1)            a draw from p exactly
dy/dlogits := d softmax((log p + g) / temperature) / dlogits           its gradient, biased but of low variance
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import OneHotCategorical
from torch import Tensor


class GumbelSoftmax(OneHotCategorical):
    """One-hot vectors (..., C) of probability softmax(logits), whose draws have a relaxed gradient.

    Parameters
    ----------
    temperature : float
        Of the relaxation: a smaller one has less bias and more variance.
    logits : Tensor
        Shape (..., C).
    """

    has_rsample = True

    def __init__(self, temperature: float, logits: Tensor, validate_args: bool | None = None) -> None:
        self.temperature = temperature
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the same distribution for a larger batch shape."""
        new = self._get_checked_instance(GumbelSoftmax, _instance)
        new.temperature = self.temperature
        return super().expand(batch_shape, _instance=new)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return one-hot draws, shape (*sample_shape, ..., C), with the gradient of the relaxed ones."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = -torch.empty(shape, dtype=self.logits.dtype, device=self.logits.device).exponential_().log()
        perturbed = self.logits + noise
        soft = torch.softmax(perturbed / self.temperature, -1)
        hard = torch.zeros_like(soft).scatter(-1, perturbed.argmax(-1, keepdim=True), 1.0)
        return hard + (soft - soft.detach())

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of one-hot vectors (..., C), as a product, so that it too has the gradient of a relaxed draw."""
        if self._validate_args:
            self._validate_sample(value)
        return (value * self.logits).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return one-hot draws without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)
