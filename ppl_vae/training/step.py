"""One optimisation step of any pair: bound, gradient, clip, update. It never reads a value back from the device.

A pair's programs run under effect handlers in Python. The step records what they do once for each batch shape, as a
graph of tensor operations, and from then on runs the graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pyro.infer
import torch
from torch import Tensor
from torch.nn.utils import stateless

from ppl_vae.context import evaluating, isolated
from ppl_vae.errors import InputError, unknown_name
from ppl_vae.handlers import GlobalScale, KLWeight
from ppl_vae.pair import Pair
from ppl_vae.recording import MODES, NotRecordableError, Recording, record
from ppl_vae.traces import trace_pair
from ppl_vae.types import Batch

#: Steps of one batch shape from which recording (about a second) and compiling (some ten) pay.
WORTH_RECORDING = 200
WORTH_COMPILING = 50_000


def choose_path(mode: str, steps: int) -> str:
    """Return the path for a batch shape of which there will be so many `steps`.

    A rule and not a measurement, so that a resumed fit takes the same path to the same numbers.
    """
    if mode not in MODES:
        raise unknown_name("compile", mode, MODES)
    if mode == "auto":
        return "inductor" if steps >= WORTH_COMPILING else "graph" if steps >= WORTH_RECORDING else "eager"
    return "eager" if mode == "off" else mode


class TrainingStep:
    """Callable that takes one step on a batch and returns its loss, summed over the batch, in nats.

    Parameters
    ----------
    pair : Pair
        What is trained.
    objective : pyro.infer.ELBO
        Any of ours or Pyro's own; the latter are called as `pyro.infer.SVI` calls them, and never recorded, because
        they read values back.
    optimizer : torch.optim.Optimizer
        Holds the pair's parameters. It sees the gradient of the mean loss per datum, so that a learning rate or a clip
        keeps its meaning whatever the batch size.
    clip_norm : float, optional
        Largest norm of that gradient.
    data_size : int, optional
        N, where the pair has latents that the data share: a batch of B then carries B/N of their terms.
    weighted : bool
        Whether the KL carries a weight other than one during the fit.
    compile : {"auto", "off", "graph", "inductor"}
        Programs as they are, the recorded graph, or the graph fused by Inductor (the graph where there is no compiler).
        ``"auto"`` goes by `planned`; see `choose_path`.
    planned : mapping of int to int, optional
        How many steps of each batch size there will be; without it every size counts as worth recording.

    Attributes
    ----------
    paths : dict of int to str
        The path taken for each batch size so far.
    recordings : int
        How often the pair was recorded: once per batch shape.
    seconds : float
        Spent recording and compiling.

    Notes
    -----
    A recorded step sees new values of parameters, buffers and the batch. Whatever else a program looks at (a Python
    number that the user changes between steps) keeps the value it had when it was recorded.
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
        compile: str = "auto",
        planned: Mapping[int, int] | None = None,
    ) -> None:
        choose_path(compile, 0)
        self.pair = pair
        self.objective: Any = objective
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.data_size = data_size
        # A tensor, so that a recorded step sees each new value without being recorded again.
        self.kl_weight = torch.ones((), device=pair.device, dtype=pair.dtype)
        self.weighted = weighted
        # The class itself must say so: a subclass may do more in `loss_and_grads` than its parent's graph does.
        self.compile = compile if "recordable" in vars(type(objective)) else "off"
        self.planned = planned
        self.named = {name: p for name, p in pair.named_parameters() if p.requires_grad}
        self.buffers = {name: _home(pair, name) for name, _ in pair.named_buffers()}
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.paths: dict[int, str] = {}
        self.recordings = 0
        self.seconds = 0.0
        self.structure: Structure | None = None
        self._recorded: dict[Any, tuple[Recording, dict[str, int]]] = {}

    def set(self, *, lr: float, kl_weight: float) -> None:
        """Set the learning rate and the weight of the KL for the steps to come."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.weighted:
            self.kl_weight.fill_(kl_weight)

    def __call__(self, batch: Batch) -> Tensor:
        """Take one step on `batch` and return its loss."""
        loss = self.loss(batch)
        self.update()
        return loss

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of `batch` with the gradient of its mean per datum left in every parameter."""
        arguments = self.pair.arguments(batch)
        size = len(next(iter(arguments.values())))
        if size not in self.paths:
            steps = WORTH_RECORDING if self.planned is None else self.planned.get(size, 0)
            self.paths[size] = choose_path(self.compile, steps)
        if self.paths[size] != "eager":
            try:
                return self._run_recorded(arguments, size)
            except NotRecordableError as reason:
                self._give_up(reason)
        return self._run_eager(arguments, size)

    def update(self) -> None:
        """Clip the gradient and move the parameters."""
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()

    def programs(self, batch_size: int, *, kl_weight: Tensor | None = None) -> tuple[Any, Any]:
        """Return the model and the guide as the objective sees them for a batch of `batch_size`."""
        programs = self.pair.programs()
        if self.data_size is not None:
            scale = GlobalScale(batch_size / self.data_size)
            programs = scale(programs[0]), scale(programs[1])
        if kl_weight is not None:
            weight = KLWeight(kl_weight)
            programs = weight(programs[0]), weight(programs[1])
        return programs

    def _run_eager(self, arguments: dict[str, Tensor], size: int) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        programs = self.programs(size, kl_weight=self.kl_weight if self.weighted else None)
        loss: Any = self.objective.loss_and_grads(*programs, **arguments)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            raise InputError("pair", expected="a loss that depends on some parameter", got="one that depends on none")
        torch._foreach_mul_(gradients, 1.0 / size)
        loss = loss[0] if isinstance(loss, tuple) else loss  # wake-sleep objectives return (wake, sleep)
        return loss if isinstance(loss, Tensor) else torch.tensor(loss, device=self.pair.device)

    def _run_recorded(self, arguments: dict[str, Tensor], size: int) -> Tensor:
        buffers = [home[name] for home, name in self.buffers.values()]  # a program may put a new tensor in their place
        inputs = [*self.named.values(), *buffers, self.kl_weight, *arguments.values()]
        key = tuple((name, value.shape, value.dtype) for name, value in arguments.items())
        if key not in self._recorded:
            self._recorded[key] = self._record(arguments, size, inputs)
        recording, reached = self._recorded[key]
        loss, *results = recording(*inputs)
        for name, parameter in self.named.items():
            parameter.grad = results[reached[name]] if name in reached else None
        if len(results) > len(reached):
            torch._foreach_copy_(buffers, results[len(reached) :])
        return loss

    def _record(
        self, arguments: dict[str, Tensor], size: int, inputs: list[Tensor]
    ) -> tuple[Recording, dict[str, int]]:
        """Return the recorded step for batches like `arguments`, and where in its results each gradient stands."""
        reached: dict[str, int] = {}
        compute = self._computation(list(arguments), size, reached)
        recording = record(compute, inputs, compiled=self.paths[size] == "inductor")
        self.structure = self.structure or structure(self.pair, arguments)
        self.paths[size] = recording.path
        self.recordings += 1
        self.seconds += recording.seconds
        return recording, reached

    def check_structure(self, batch: Batch) -> None:
        """Go back to eager steps, with a warning, if the programs no longer have the sites that were recorded."""
        if self.structure is None:
            return
        now = structure(self.pair, self.pair.arguments(batch))
        if now != self.structure:
            differing = sorted(name for name, _ in set(now) ^ set(self.structure))
            self._give_up(f"its sites change from step to step: {', '.join(dict.fromkeys(differing))}")

    def _give_up(self, reason: object) -> None:
        self.compile, self.structure = "off", None
        self.paths = dict.fromkeys(self.paths, "eager")
        warnings.warn(f"the step cannot be recorded and runs eagerly: {reason}", stacklevel=3)

    def _computation(self, names: list[str], size: int, reached: dict[str, int]) -> Any:
        """Return the step up to the gradient as a function of tensors: parameters, buffers, KL weight, batch.

        Its results are the loss, the gradients of the mean per datum, and the buffers if any of them changed. `reached`
        is filled with the parameters that have a gradient and where among the gradients each one's stands.
        """

        def compute(*inputs: Tensor) -> list[Tensor]:
            split = [len(self.named), len(self.buffers), 1, len(names)]
            groups = [inputs[sum(split[:i]) : sum(split[: i + 1])] for i in range(len(split))]
            parameters = [value.detach().requires_grad_() for value in groups[0]]
            buffers = [value.clone() for value in groups[1]]
            before = [value._version for value in buffers]
            swapped = dict(zip([*self.named, *self.buffers], [*parameters, *buffers], strict=True))
            programs = self.programs(size, kl_weight=groups[2][0] if self.weighted else None)
            with torch.enable_grad(), stateless._reparametrize_module(self.pair, swapped, tie_weights=True):
                arguments = dict(zip(names, groups[3], strict=True))
                loss = self.objective.differentiable_loss(*programs, **arguments)
                gradients = torch.autograd.grad(loss / size, parameters, allow_unused=True)
                after = [value for _, value in self.pair.named_buffers()]
            changed = any(
                new is not old or new._version != was for new, old, was in zip(after, buffers, before, strict=True)
            )
            there = [name for name, gradient in zip(self.named, gradients, strict=True) if gradient is not None]
            reached.update({name: i for i, name in enumerate(there)})
            return [loss.detach(), *(g for g in gradients if g is not None), *(after if changed else [])]

        return compute


def _home(pair: Pair, buffer: str) -> tuple[dict[str, Any], str]:
    """Return the mapping that holds a buffer, and its name there."""
    module, _, name = buffer.rpartition(".")
    return pair.get_submodule(module)._buffers, name


#: Name and event shape of every site of both programs.
Structure = tuple[tuple[str, tuple[int, ...]], ...]


def structure(pair: Pair, arguments: dict[str, Tensor]) -> Structure:
    """Run the pair once, leaving random state and buffers as they were, and return its sites."""
    with isolated(device=pair.device), evaluating(pair):
        both = trace_pair(*pair.programs(), (), arguments)
    return tuple((name, tuple(site["fn"].event_shape)) for sites in both for name, site in sites.items())
