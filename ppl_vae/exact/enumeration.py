"""Discrete latents summed out exactly, one by one or many at once.

    log p(x) = log sum_y p(x, y),   p(y|x) = p(x, y) / p(x),   ELBO(x; q) = sum_y q(y|x) [log p(x, y) - log q(y|x)]

y = (y_1, ..., y_n) runs over the grid of C_1 x ... x C_n configurations. Exact, and so only for few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError
from ppl_vae.exact.checks import check_normalised


class Enumeration:
    """log p(x, y) of each datum at every configuration of its discrete latents, and what follows from it.

    Parameters
    ----------
    log_joint : Tensor
        log p(x, y), shape (B, C_1, ..., C_n), nats; minus infinity for what cannot be. A batch of one latent of C
        classes is (B, C).

    Raises
    ------
    InputError
        If there is no latent dimension, or a value is NaN or plus infinity.
    """

    def __init__(self, log_joint: Tensor) -> None:
        if log_joint.dim() < 2 or 0 in log_joint.shape[1:]:
            raise InputError("log_joint", expected="shape (B, C_1, ..., C_n)", got=str(tuple(log_joint.shape)))
        if not (log_joint < math.inf).all():
            count = int((~(log_joint < math.inf)).sum())
            raise InputError(
                "log_joint", expected="log probabilities", got=f"{count} of {log_joint.numel()} NaN or plus infinity"
            )
        self.log_joint = log_joint

    @classmethod
    def of(cls, log_joint: Callable[..., Tensor], sizes: Sequence[int]) -> Enumeration:
        """Ask ``log_joint(y_1, ..., y_n)`` at every configuration, in one call.

        Parameters
        ----------
        log_joint : callable
            Takes class numbers y_i of shape (G, 1), G configurations, and returns log p(x, y) of shape (G, B).
        sizes : sequence of int
            C_1, ..., C_n.
        """
        if not sizes or any(size < 1 for size in sizes):
            raise InputError("sizes", expected="the number of classes of each latent, all above 0", got=str(sizes))
        grid = torch.cartesian_prod(*(torch.arange(size, device="cpu") for size in sizes)).reshape(-1, len(sizes))
        table = log_joint(*grid.unsqueeze(1).unbind(-1))
        if table.dim() != 2 or len(table) != len(grid):
            raise InputError("log_joint", expected=f"shape ({len(grid)}, B)", got=str(tuple(table.shape)))
        return cls(table.mT.reshape(-1, *sizes))

    @property
    def log_marginal(self) -> Tensor:
        """Log p(x), shape (B,), nats."""
        return self.log_joint.flatten(1).logsumexp(-1)

    @property
    def posterior(self) -> Tensor:
        """p(y|x), shape (B, C_1, ..., C_n).

        Raises
        ------
        InputError
            For a datum that no configuration can make: it has no posterior.
        """
        if (impossible := int((self.log_marginal == -math.inf).sum())) > 0:
            raise InputError("posterior", expected="data with p(x) > 0", got=f"{impossible} with p(x) = 0")
        return self.log_joint.flatten(1).softmax(-1).reshape(self.log_joint.shape)

    def marginal(self, latent: int) -> Tensor:
        """Return p(y_i|x), shape (B, C_i), of latent i = 0, ..., n - 1."""
        n = self.log_joint.dim() - 1
        if not 0 <= latent < n:
            raise InputError("latent", expected=f"a number from 0 to {n - 1}", got=str(latent))
        return self.posterior.movedim(1 + latent, 1).flatten(2).sum(-1) if n > 1 else self.posterior

    def elbo(self, *q: Tensor) -> Tensor:
        """Return the bound under q(y|x), shape (B,), nats; minus infinity where q allows what cannot be.

        Parameters
        ----------
        *q : Tensor
            One table q(y|x) (B, C_1, ..., C_n), or n factors q(y_i|x) (B, C_i) of a guide under which the latents are
            independent. Each sums to one; leading dimensions broadcast.

        Raises
        ------
        InputError
            If shapes do not fit or q is not normalised.
        """
        table = self.log_joint
        n = table.dim() - 1
        shapes = [(size,) for size in table.shape[1:]] if len(q) == n else [tuple(table.shape[1:])]
        if [tuple(part.shape[1:]) for part in q] != shapes:
            got = ", ".join(str(tuple(part.shape)) for part in q) or "none"
            raise InputError("q", expected=f"shape {('B', *table.shape[1:])}, or a factor for each latent", got=got)
        for part in q:
            check_normalised(q=part.flatten(1))
        product = q[0]
        for part in q[1:]:
            product = product.unsqueeze(-1) * part.reshape(len(part), *[1] * (product.dim() - 1), -1)
        # 0 log 0 = 0, also where the model says that it cannot be.
        inside = torch.where(product > 0, product * table, torch.zeros_like(table))
        return (inside + torch.special.entr(product)).flatten(1).sum(-1)
