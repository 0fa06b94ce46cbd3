"""One optimisation step of any pair: bound, gradient, clip, update. It never reads a value back from the device."""

from __future__ import annotations

from typing import Any

import pyro.infer
import torch
from torch import Tensor

from ppl_vae.handlers import GlobalScale, KLWeight
from ppl_vae.pair import Pair
from ppl_vae.types import Batch


class TrainingStep:
    """Callable that takes one step on a batch and returns its loss, summed over the batch, in nats.

    Parameters
    ----------
    pair : Pair
        What is trained.
    objective : pyro.infer.ELBO
        Any of ours or Pyro's own; the latter are called as `pyro.infer.SVI` calls them.
    optimizer : torch.optim.Optimizer
        Holds the pair's parameters. It sees the gradient of the mean loss per datum, so a learning rate or a clip keeps its
        meaning whatever the batch size.
    clip_norm : float, optional
        Largest norm of that gradient.
    data_size : int, optional
        N, where the pair has latents that the data share: a batch of B then carries B/N of their terms.
    weighted : bool
        Whether the KL carries a weight other than one during the fit.
    """

    def __init__(
        self,
        pair: Pair,
        objective: pyro.infer.ELBO,
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float | None = None,
        data_size: int | None = None,
        weighted: bool = False,
    ) -> None:
        self.pair = pair
        self.objective = objective
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.data_size = data_size
        # A tensor, so that a recorded step sees each new value without being recorded again.
        self.kl_weight = torch.ones((), device=pair.device, dtype=pair.dtype) if weighted else None
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def set(self, *, lr: float, kl_weight: float) -> None:
        """Set the learning rate and the weight of the KL for the steps to come."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.kl_weight is not None:
            self.kl_weight.fill_(kl_weight)

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of `batch` with the gradient of its mean per datum left in every parameter."""
        arguments = self.pair.arguments(batch)
        size = len(next(iter(arguments.values())))
        self.optimizer.zero_grad(set_to_none=True)
        loss: Any = self.objective.loss_and_grads(*self.programs(size), **arguments)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        torch._foreach_mul_(gradients, 1.0 / size)
        loss = loss[0] if isinstance(loss, tuple) else loss  # wake-sleep objectives return (wake, sleep)
        return loss if isinstance(loss, Tensor) else torch.tensor(loss, device=self.pair.device)

    def update(self) -> None:
        """Clip the gradient and move the parameters."""
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()

    def __call__(self, batch: Batch) -> Tensor:
        """Take one step on `batch` and return its loss."""
        loss = self.loss(batch)
        self.update()
        return loss

    def programs(self, batch_size: int, *, weighted: bool = True) -> tuple[Any, Any]:
        """Return the model and the guide as the objective sees them for a batch of `batch_size`."""
        programs = self.pair.programs()
        if self.data_size is not None:
            scale = GlobalScale(batch_size / self.data_size)
            programs = scale(programs[0]), scale(programs[1])
        if weighted and self.kl_weight is not None:
            weight = KLWeight(self.kl_weight)
            programs = weight(programs[0]), weight(programs[1])
        return programs
