"""The update that ends a step: clip the gradient, move the parameters.

Where the optimiser is Adam, fused and plain, its function is called on lists that are made once, rather than
collected anew in each step, and all step counts are elements of one tensor; the numbers are the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.compile.adam import fused_adam, has_step_hooks


class AdamState(NamedTuple):
    """Adam's averages, squares and step counts of all parameters; `steps` are the elements of `counts`, as views."""

    averages: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]
    counts: Tensor


class Update:
    """Callable that clips the gradients of an optimiser's parameters and updates the parameters.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Any of first order.
    clip_norm : float, optional
        Largest norm of the gradient.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, clip_norm: float | None = None) -> None:
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self._adam: AdamState | None = None  # as it was after the last call

    def __call__(self) -> None:
        """Clip and update."""
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        gradients = [p.grad for p in self.parameters]
        adam = self._adam
        if adam is not None and self._holds(adam) and all(gradient is not None for gradient in gradients):
            adam.counts.add_(1)
            group = self.optimizer.param_groups[0]
            fused_adam(self.parameters, gradients, adam.averages, adam.squares, adam.steps, group)  # type: ignore[arg-type]
        else:
            self.optimizer.step()
            self._adam = self._plain_adam()

    def _holds(self, adam: AdamState) -> bool:
        """Return whether the lists are those of the optimiser's present state."""
        return self.optimizer.state[self.parameters[0]].get("step") is adam.steps[0]

    def _plain_adam(self) -> AdamState | None:
        """Return the state of fused Adam, its step counts joined in one tensor; None for any other optimiser."""
        optimizer, group = self.optimizer, self.optimizer.param_groups[0]
        states = [optimizer.state.get(p, {}) for p in self.parameters]
        plain = (
            type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
            and len(optimizer.param_groups) == 1
            and bool(group["fused"])
            and not group["amsgrad"]
            and not has_step_hooks(optimizer)
            and all(states)
            and len({(p.device, p.dtype) for p in self.parameters}) == 1
        )
        if not plain:
            return None
        counts = torch.stack([state["step"] for state in states])
        steps = list(counts.unbind())
        for state, step in zip(states, steps, strict=True):
            state["step"] = step
        averages, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        return AdamState(averages, squares, steps, counts)
