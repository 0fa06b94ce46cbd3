"""Loss and gradient of a batch as a function of tensors: the part of a step that is recorded, and its results."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae.compile.recorded import Recorded
from ppl_vae.compile.side_effects import version
from ppl_vae.compile.substitution import substituted
from ppl_vae.training.distributed.workers import Shard

if TYPE_CHECKING:
    from ppl_vae.training.gradient import Gradient


class StepResults(NamedTuple):
    """Results of a step: loss, KL where the rule uses it, gradients by parameter, buffers (empty if none changed)."""

    loss: Tensor
    kl: Tensor | None
    gradients: list[Tensor | None]
    buffers: list[Tensor]


class RecordedStep(Recorded[StepResults]):
    """A step up to the gradient, of parameters, buffers, the weight of the KL, and a batch.

    For a batch of one row, the first two steps are compared with the program: the first has no other row.

    Parameters
    ----------
    step : Gradient
        Whose programs it runs. It owns the recording, which has a weak reference to it.
    names : list of str
        The arguments in a batch.
    shard : Shard
        Which rows of a batch are given.
    path : {"graph", "inductor"}
        How to run.
    """

    def __init__(self, step: Gradient, names: list[str], shard: Shard, path: str) -> None:
        proofs = 2 if shard.size == 1 else 1
        super().__init__(path, module=step.modules, what="the step", precision=step.precision, proofs=proofs)
        self._step: Any = weakref.proxy(step)
        self._names = names
        self._shard = shard
        self._reached: dict[str, int] = {}  # the index of a parameter's gradient in the outputs

    def compute(self, *inputs: Tensor) -> list[Tensor]:
        """Return loss, KL if the rule for its weight asks for it, gradients of the mean per datum, changed buffers."""
        step, shard = self._step, self._shard
        split = [len(step.named), len(step.buffers), 1, len(self._names)]
        groups = [inputs[sum(split[:i]) : sum(split[: i + 1])] for i in range(len(split))]
        parameters = [value.detach().requires_grad_() for value in groups[0]]
        buffers = [value.clone() for value in groups[1]]
        before = [version(value) for value in buffers]
        swapped = dict(zip([*step.named, *step.buffers], [*parameters, *buffers], strict=True))
        setting, measured = groups[2][0], []
        with torch.enable_grad(), substituted(step.modules, swapped):
            arguments = dict(zip(self._names, groups[3], strict=True))
            if step.rule.measures:
                loss, kl = step.measured(shard, setting, arguments)
                measured = [kl.detach()]
            else:
                loss = step.objective.differentiable_loss(*step.weighted_programs(shard, setting), **arguments)
            found = torch.autograd.grad(loss / shard.total, parameters, allow_unused=True)
            after = [value for _, value in step.modules.named_buffers()]
        changed = any(
            new is not old or version(new) != was for new, old, was in zip(after, buffers, before, strict=True)
        )
        # As backward() leaves them: fused Adam reads a gradient of other strides in the wrong order, without a word.
        gradients = [_laid_out_as(p, g) for p, g in zip(parameters, found, strict=True)]
        there = [name for name, gradient in zip(step.named, gradients, strict=True) if gradient is not None]
        self._reached.update({name: i for i, name in enumerate(there)})
        return [loss.detach(), *measured, *(g for g in gradients if g is not None), *(after if changed else [])]

    def read(self, outputs: list[Tensor]) -> StepResults:
        """Return the recording's outputs as results."""
        loss, *results = outputs
        kl = results.pop(0) if self._step.rule.measures else None
        gradients = [results[self._reached[name]] if name in self._reached else None for name in self._step.named]
        return StepResults(loss, kl, gradients, results[len(self._reached) :])

    def program(self, *inputs: Tensor) -> StepResults:
        """Return the results of the program's own step; buffers and KL are restored afterwards."""
        values = inputs[len(inputs) - len(self._names) :]
        return self._step.witness.computed(dict(zip(self._names, values, strict=True)), self._shard)

    def named(self, results: StepResults) -> dict[str, Tensor | None]:
        """Return the parts of a step by their names in a warning."""
        step = self._step
        buffers = results.buffers or step.current_buffers()
        return {
            "the loss": results.loss,
            "the KL": results.kl,
            **{f"the gradient of {_short(name)}": g for name, g in zip(step.named, results.gradients, strict=True)},
            **{f"the buffer {_short(name)}": b for name, b in zip(step.buffers, buffers, strict=True)},
        }


def _laid_out_as(parameter: Tensor, gradient: Tensor | None) -> Tensor | None:
    """Return a gradient with the strides of its parameter."""
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _short(name: str) -> str:
    """Return the name of a parameter as the pair has it."""
    return name.removeprefix("0.")
