"""Fused Adam as a function of lists of tensors.

Adam's own `step` collects all parameters and adds to the step count of each in every call, which takes longer than a
small network's kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

#: Settings of a parameter group that are arguments of the function.
_SETTINGS = ("lr", "weight_decay", "eps", "maximize")


def fused_adam(
    parameters: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    counts: list[Tensor],
    group: Mapping[str, Any],
) -> None:
    """Update `parameters` and their averages by a step of Adam or AdamW, whose number each of `counts` already is.

    Parameters
    ----------
    parameters, gradients : list of Tensor
        Of one device and one floating type, each gradient with the strides of its parameter.
    averages, squares, counts : list of Tensor
        Adam's ``exp_avg``, ``exp_avg_sq`` and ``step`` of each parameter.
    group : mapping
        The optimiser's parameter group.
    """
    update = torch._fused_adamw_ if group.get("decoupled_weight_decay") else torch._fused_adam_
    update(
        parameters, gradients, averages, squares, [], counts, amsgrad=False,
        beta1=group["betas"][0], beta2=group["betas"][1],
        **{name: group[name] for name in _SETTINGS},
    )  # fmt: skip


def has_step_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether something is registered to run before or after each step of an optimiser."""
    return bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)
