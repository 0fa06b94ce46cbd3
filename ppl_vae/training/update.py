"""The update that ends a step: clip the gradient, move the parameters.

Where the optimiser is Adam, fused and plain, its function is called on lists that are made once, rather than
collected anew in each step; the numbers are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.compile.adam import fused_adam, has_step_hooks


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
        self._averages: list[list[Tensor]] = []  # Adam's state, as it was after the last call

    def __call__(self) -> None:
        """Clip and update."""
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        gradients = [p.grad for p in self.parameters]
        if self._holds() and all(gradient is not None for gradient in gradients):
            averages, squares, counts = self._averages
            group = self.optimizer.param_groups[0]
            fused_adam(self.parameters, gradients, averages, squares, counts, group)  # type: ignore[arg-type]
        else:
            self.optimizer.step()
            self._averages = self._plain_adam()

    def _holds(self) -> bool:
        """Return whether the lists exist and are those of the optimiser's present state."""
        return bool(self._averages) and (self.optimizer.state[self.parameters[0]].get("step") is self._averages[2][0])

    def _plain_adam(self) -> list[list[Tensor]]:
        """Return averages, squares and counts of all parameters; nothing for any other optimiser than fused Adam."""
        optimizer, group = self.optimizer, self.optimizer.param_groups[0]
        states = [optimizer.state.get(p, {}) for p in self.parameters]
        plain = (
            type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
            and len(optimizer.param_groups) == 1
            and bool(group["fused"])
            and not group["amsgrad"]
            and not has_step_hooks(optimizer)
            and all(states)
        )
        return [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")] if plain else []
