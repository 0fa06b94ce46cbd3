"""Fused Adam as a function of lists of tensors.

Adam's own `step` collects all parameters in each call, which takes longer than a small network's kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

#: Settings of a parameter group that are arguments of the function.
_SETTINGS = ("lr", "weight_decay", "eps", "maximize", "capturable", "decoupled_weight_decay")


def fused_adam(
    parameters: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    counts: list[Tensor],
    group: Mapping[str, Any],
) -> None:
    """Update `parameters` and the optimiser's state by one step of Adam or AdamW: torch's ``_fused_adam_``.

    Parameters
    ----------
    parameters, gradients : list of Tensor
    averages, squares, counts : list of Tensor
        Adam's ``exp_avg``, ``exp_avg_sq`` and ``step`` of each parameter.
    group : mapping
        The optimiser's parameter group.
    """
    adam(
        parameters, gradients, averages, squares, [], counts, fused=True, amsgrad=False,
        beta1=group["betas"][0], beta2=group["betas"][1],
        **{name: group[name] for name in _SETTINGS},
    )  # fmt: skip


def has_step_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether something is registered to run before or after each step of an optimiser."""
    return bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)
