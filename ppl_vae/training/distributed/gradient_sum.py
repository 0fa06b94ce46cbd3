"""The one exchange of a step of several workers: a sum of loss and gradients, in one call.

loss = sum_r loss_r,   gradient = sum_r gradient_r      over workers r, each with its rows of the batch
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.compile.foreach import copy_in_place
from ppl_vae.training.distributed.workers import Workers

#: Steps between two checks for a stop request of a worker, where a check synchronises with the device.
STEPS_PER_LOOK = 64


class GradientSum:
    """Sums a loss and the gradients of `parameters` over the workers, in one call on one flat buffer.

    A parameter that has a gradient on some workers alone counts as zero on the others; one that never had a gradient on
    any keeps none. Nothing is read back from a GPU except, every 64th time, whether a worker was asked to stop,
    and, as long as some parameter never had a gradient, which ones have one now.
    """

    def __init__(self, workers: Workers, parameters: Sequence[Tensor]) -> None:
        self.workers, self.parameters = workers, parameters
        sizes = [p.numel() for p in parameters]
        # Gradients, loss, request to stop, and for each parameter how many workers have a gradient.
        self.flat = torch.zeros(sum(sizes) + 2 + len(sizes), dtype=parameters[0].dtype, device=parameters[0].device)
        *slices, self.loss, self.stop, self.having = self.flat.split([*sizes, 1, 1, len(sizes)])
        self.slices = [part.view_as(p) for part, p in zip(slices, parameters, strict=True)]
        self.reached = [False] * len(parameters)
        self.calls = 0

    def __call__(self, loss: Tensor | float) -> Tensor:
        """Replace each parameter's gradient by the sum over the workers, and return the sum of `loss`.

        Raises
        ------
        KeyboardInterrupt
            On all workers, if one was asked to stop.
        WorkerLostError
            If a worker was lost.
        """
        given = [p.grad is not None for p in self.parameters]
        if not all(given):
            self.flat.zero_()
        if any(given):
            copy_in_place(
                [part for part, there in zip(self.slices, given, strict=True) if there],
                [p.grad for p in self.parameters if p.grad is not None],
            )
        self.loss.fill_(loss)
        self.stop.fill_(self.workers.stop is not None)
        settled = all(self.reached)
        if not settled:
            self.having.copy_(torch.tensor(given, device=self.flat.device))
        self.workers.sum(self.flat[: -len(given)] if settled else self.flat)
        if not settled:
            self.reached = [was or now > 0 for was, now in zip(self.reached, self.having.tolist(), strict=True)]
        for p, part, reached in zip(self.parameters, self.slices, self.reached, strict=True):
            p.grad = part if reached else None
        self.calls += 1
        if (self.flat.device.type == "cpu" or self.calls % STEPS_PER_LOOK == 0) and bool(self.stop):
            self.workers.interrupt()
        return self.loss[0].clone()
