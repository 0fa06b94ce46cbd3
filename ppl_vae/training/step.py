"""One optimisation step of any pair: batch, bound, gradient, clip, update. It reads no value back from the device."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pyro.infer
import torch
from torch import Tensor

from ppl_vae.compile.cuda_graph import Captured, CaptureError, capturing
from ppl_vae.core.errors import RunError
from ppl_vae.core.types import Batch
from ppl_vae.data import Split
from ppl_vae.pairs.pair import Pair
from ppl_vae.training.distributed.gradient_sum import GradientSum
from ppl_vae.training.distributed.workers import Shard, Workers
from ppl_vae.training.gradient import Gradient
from ppl_vae.training.kl_weights import KLRule
from ppl_vae.training.update import Update


class TrainingStep:
    """Callable that takes one step on a batch and returns its loss, summed over the batch, in nats.

    Parameters
    ----------
    pair : Pair
        What is trained.
    objective : pyro.infer.ELBO
        Any of ours or Pyro's own; the latter are called as in `pyro.infer.SVI`, and never recorded, because they read
        values back.
    optimizer : torch.optim.Optimizer
        Holds the pair's parameters. It sees the gradient of the mean loss per datum, so that a learning rate or a clip
        keeps its meaning whatever the batch size.
    clip_norm : float, optional
        Largest norm of that gradient.
    data_size : int, optional
        N, where the pair has global latents: a batch of B then has B/N of their terms.
    weighted : bool
        Whether the KL carries a weight other than one during the fit.
    rule : KLRule, optional
        The rule for the weight, if it uses the KL; by other rules the caller sets the weight, with `set`.
    compile : {"auto", "off", "graph", "inductor"}
        Programs as they are, the recorded graph, or the graph fused by Inductor (the graph where there is no compiler).
        ``"auto"`` goes by `planned`; see `choose_path`. On a GPU a recorded step is also captured in a CUDA graph, from
        the drawing of the batch to the update, if the optimiser has ``capturable=True``.
    planned : mapping of int to int, optional
        How many steps of each batch size there will be; without it every size counts as worth recording.
    precision : {"float32", "tf32", "bf16"}
        Of matrix products; see `ppl_vae.compile.precision`.
    workers : Workers, optional
        Who takes the step together: all get the same batch, and each computes its own rows. With several workers a
        step is never captured in a CUDA graph.

    Attributes
    ----------
    paths : dict of int to str
        The path taken for each batch size so far.
    recordings : int
        How often the pair was recorded: once per batch shape.
    seconds : float
        Spent recording and compiling.
    total : Tensor
        Sum of the losses since it was last set to zero, on the device.
    pieces : int
        Number of pieces that a batch is split into, whose gradients are added: above one once memory ran out.

    Notes
    -----
    A recorded step uses new values of parameters, buffers and the batch; anything else that a program reads (a Python
    number that the user changes) keeps its recorded value. The first step of a batch shape is also taken by the
    programs, and the recording kept only if both agree; later `Gradient.differs` compares them again.
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
        rule: KLRule | None = None,
        compile: str = "auto",
        planned: Mapping[int, int] | None = None,
        precision: str = "float32",
        workers: Workers | None = None,
    ) -> None:
        self.pair = pair
        self.workers = workers or Workers()
        self.gradient = Gradient(
            pair,
            objective,
            data_size=data_size,
            weighted=weighted,
            rule=rule,
            compile=compile,
            planned=planned,
            precision=precision,
        )
        self.optimizer = optimizer
        self.update = Update(optimizer, clip_norm)
        self.pieces = 1
        self.total = torch.zeros((), dtype=torch.float64, device=pair.device)
        self._captured: dict[Any, Captured] = {}
        self._sum = GradientSum(self.workers, self.update.parameters) if self.workers.count > 1 else None
        capturable = all(group.get("capturable") for group in optimizer.param_groups)
        self._captures = pair.device.type == "cuda" and capturable and self._sum is None
        # A tensor where steps are captured, so that a replay sees each new value.
        self._lr = torch.zeros((), device=pair.device) if self._captures else None
        if self._captures:
            self.set(lr=float(optimizer.param_groups[0]["lr"]))

    @property
    def paths(self) -> dict[int, str]:
        """The path taken for each batch size so far."""
        return self.gradient.paths

    @property
    def recordings(self) -> int:
        """How often the pair was recorded."""
        return self.gradient.recordings

    @property
    def seconds(self) -> float:
        """Seconds spent recording and compiling."""
        return self.gradient.seconds

    def set(self, *, lr: float, kl_weight: float | None = 1.0) -> None:
        """Set the learning rate and the weight of the KL for the steps to come; None leaves it to its rule."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr if self._lr is None else self._lr.fill_(lr)
        if self.gradient.weighted and kl_weight is not None:
            self.gradient.kl_weight.fill_(kl_weight)

    def __call__(self, batch: Batch) -> Tensor:
        """Take one step on `batch` and return its loss."""
        arguments = self.pair.arguments(batch)
        names, values = list(arguments), list(arguments.values())
        key = tuple((name, value.shape, value.dtype) for name, value in arguments.items())
        return self._step(lambda *tensors: dict(zip(names, tensors, strict=True)), key, values, len(values[0]))

    def on(self, data: Split, index: Tensor) -> Tensor:
        """Take one step on the batch of rows `index` of `data`, and return its loss."""
        pair = self.pair
        return self._step(lambda rows: pair.arguments(data.batch(rows)), (id(data), len(index)), [index], len(index))

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of `batch`, and set every parameter's gradient to that of its mean per datum.

        Where the GPU runs out of memory the batch is split into two, four, … pieces, whose gradients are added.

        Raises
        ------
        RunError
            If the memory does not hold one datum.
        """
        return self._loss(self.pair.arguments(batch))

    def _loss(self, arguments: dict[str, Tensor]) -> Tensor:
        arguments, shard = self._rows(arguments)
        if self._sum is None:
            loss = self._own_loss(arguments, shard)
        elif shard.size:
            loss = self._sum(self._own_loss(arguments, shard))
        else:
            self.gradient.kl.zero_()
            for parameter in self.update.parameters:  # fewer data than workers
                parameter.grad = None
            loss = self._sum(0.0)
        if self.gradient.rule.measures:
            self._follow_kl(shard.total)
        return loss

    def _follow_kl(self, rows: int) -> None:
        """Update the weight of the KL from the KL of the batch, over all workers."""
        kl, setting = self.gradient.kl, self.gradient.kl_weight
        if self._sum is not None:
            self.workers.sum(kl)
        setting.copy_(self.gradient.rule.after(setting, kl / rows))

    def own(self, batch: Batch) -> tuple[dict[str, Tensor], Shard]:
        """Return this worker's rows of what the programs take of `batch`, and which rows these are."""
        return self._rows(self.pair.arguments(batch))

    def _rows(self, arguments: dict[str, Tensor]) -> tuple[dict[str, Tensor], Shard]:
        shard = self.workers.shard(len(next(iter(arguments.values()))))
        if self.workers.count > 1:
            arguments = {name: value[shard.start : shard.stop] for name, value in arguments.items()}
        return arguments, shard

    def _own_loss(self, arguments: dict[str, Tensor], shard: Shard) -> Tensor:
        while True:
            self.gradient.kl.zero_()  # an attempt that ran out of memory may have added to it
            try:
                return (self.gradient if self.pieces == 1 else self._loss_of_pieces)(arguments, shard)
            except torch.OutOfMemoryError as error:
                if capturing(self.pair.device):  # the capture is given up first
                    raise
                self._cut(shard.size, error)

    def _step(self, make: Callable[..., dict[str, Tensor]], key: Any, inputs: list[Tensor], rows: int) -> Tensor:
        """Take one step on the arguments that `make` returns for `inputs`, by replay where it is captured."""
        step: Any = weakref.proxy(self)  # it owns the captured graph, which must not own it

        def take(*tensors: Tensor) -> Tensor:
            loss = step._loss(make(*tensors))
            step._update()
            step.total += loss.detach()
            return loss

        if self._captures and self.gradient.path(rows) != "eager":
            try:
                if key not in self._captured:
                    self._captured[key] = Captured(take, inputs)
                return self._captured[key](*inputs)
            except CaptureError as reason:
                self._stop_capturing()
                warnings.warn(f"the step does not fit a CUDA graph and is launched op by op: {reason}", stacklevel=3)
            except torch.OutOfMemoryError:  # during capture, when nothing was computed yet
                self._stop_capturing()
                torch.cuda.empty_cache()
                line = "there is no memory for a CUDA graph of the step, which is launched op by op"
                warnings.warn(line, stacklevel=3)
        return take(*inputs)

    def _update(self) -> None:
        """Update the parameters; the first time, an optimiser allocates its state."""
        try:
            self.update()
        except torch.OutOfMemoryError as error:
            if capturing(self.pair.device):
                raise
            raise RunError(
                "fit: expected memory for the optimiser's step; got a GPU that ran out of it; "
                "try a smaller pair, optimizer='sgd', or device='cpu'"
            ) from error

    def _loss_of_pieces(self, arguments: dict[str, Tensor], shard: Shard) -> Tensor:
        """Return the loss of a shard, and set the gradients, piece by piece."""
        total = torch.zeros((), device=self.pair.device, dtype=self.pair.dtype)
        sums: dict[Tensor, Tensor] = {}
        length = -(-shard.size // self.pieces)
        for start in range(0, shard.size, length):
            piece = {name: value[start : start + length] for name, value in arguments.items()}
            size = min(length, shard.size - start)
            self.paths.setdefault(size, self.gradient.path(shard.total))
            total += self.gradient(piece)
            for parameter in self.update.parameters:
                if parameter.grad is not None:
                    part = parameter.grad * (size / shard.total)
                    sums[parameter] = sums[parameter] + part if parameter in sums else part
        for parameter, gradient in sums.items():
            parameter.grad = gradient
        return total

    def _cut(self, rows: int, error: Exception) -> None:
        """Split batches into twice as many pieces from here on."""
        if self.pieces >= rows:
            raise RunError(
                "fit: expected memory for one datum; got a GPU that ran out of it; "
                "try a smaller pair, fewer particles, or device='cpu'"
            ) from error
        self._stop_capturing()
        self.pieces *= 2
        torch.cuda.empty_cache()
        warnings.warn(
            f"the GPU ran out of memory: batches of {rows} are taken in {self.pieces} pieces from here on", stacklevel=4
        )

    def _stop_capturing(self) -> None:
        self._captures = False
        self._captured.clear()
