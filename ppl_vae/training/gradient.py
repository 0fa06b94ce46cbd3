"""Loss and gradient of one batch: by the pair's programs, or by a recording of what they do.

A pair's programs run under effect handlers in Python. They are recorded once for each batch shape, as a graph of tensor
operations, and from then on the graph is run. Neither way reads a value back from the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pyro.infer
import torch
from torch import Tensor, nn
from torch.nn.utils import stateless

from ppl_vae.context import evaluating, isolated
from ppl_vae.errors import InputError
from ppl_vae.handlers import GlobalScale, KLWeight
from ppl_vae.kl_weights import Constant, KLRule
from ppl_vae.objectives.base import own_module
from ppl_vae.pair import Pair
from ppl_vae.precision import check_precision, in_precision
from ppl_vae.recording import NotRecordableError, Recording, path_of, record
from ppl_vae.sharing import Sharing
from ppl_vae.traces import trace_pair
from ppl_vae.types import Batch
from ppl_vae.workers import Shard

#: Steps of one batch shape from which recording (about a second) and compiling (some ten) pay.
WORTH_RECORDING = 200
WORTH_COMPILING = 50_000


def choose_path(mode: str, steps: int) -> str:
    """Return the path for a batch shape of which there will be so many `steps`.

    A rule and not a measurement, so that a resumed fit takes the same path to the same numbers.
    """
    return path_of(mode, worth_recording=steps >= WORTH_RECORDING, worth_compiling=steps >= WORTH_COMPILING)


class Gradient:
    """Callable that returns the loss of a batch and leaves the gradient of its mean per datum in the parameters.

    It may be given a shard of a batch: then the loss is that of the shard, the mean that over the whole batch, and the
    sum over all shards is what one would have got for the batch at once.

    Parameters are those of `TrainingStep`, and so are the attributes ``paths``, ``recordings`` and ``seconds``.
    """

    def __init__(
        self,
        pair: Pair,
        objective: pyro.infer.ELBO,
        *,
        data_size: int | None = None,
        weighted: bool = False,
        rule: KLRule | None = None,
        compile: str = "auto",
        planned: Mapping[int, int] | None = None,
        precision: str = "float32",
    ) -> None:
        choose_path(compile, 0)
        self.pair = pair
        self.objective: Any = objective
        self.data_size = data_size
        # A tensor, so that a recording sees each new value without being made again.
        self.kl_weight = torch.ones((), device=pair.device, dtype=pair.dtype)
        self.rule = rule or Constant()
        self.kl = torch.zeros_like(self.kl_weight)
        self.weighted = weighted or self.rule.measures
        # The class itself must say so: a subclass may do more in `loss_and_grads` than its parent's graph does.
        self.compile = compile if "recordable" in vars(type(objective)) else "off"
        self.planned = planned
        self.precision = check_precision(precision)
        # An objective may have a module of its own, which is trained with the pair.
        self.modules = nn.ModuleList([pair, own_module(objective)])
        self.named = {name: p for name, p in self.modules.named_parameters() if p.requires_grad}
        self.buffers = {name: _home(self.modules, name) for name, _ in self.modules.named_buffers()}
        self.paths: dict[int, str] = {}
        self.recordings = 0
        self.seconds = 0.0
        self.structure: Structure | None = None
        self._recorded: dict[Any, tuple[Recording, dict[str, int]]] = {}

    def path(self, rows: int) -> str:
        """Return the path of batches of so many rows, chosen when the first of them comes."""
        if rows not in self.paths:
            steps = WORTH_RECORDING if self.planned is None else self.planned.get(rows, 0)
            self.paths[rows] = choose_path(self.compile, steps)
        return self.paths[rows]

    def __call__(self, arguments: dict[str, Tensor], shard: Shard | None = None) -> Tensor:
        """Return the loss, summed over the rows in `arguments`, in nats; they are a whole batch, or `shard` of one.

        The KL is added to `kl` where the rule for its weight asks for it.
        """
        shard = shard or Shard.whole(len(next(iter(arguments.values()))))
        if self.path(shard.total) != "eager":
            try:
                return self._run_recorded(arguments, shard)
            except NotRecordableError as reason:
                self._give_up(reason)
        return self._run_eager(arguments, shard)

    def programs(self, shard: Shard, *, kl_weight: Tensor | None = None, precision: str = "float32") -> tuple[Any, Any]:
        """Return the model and the guide as the objective sees them for a shard of a batch."""
        programs = self.pair.programs()
        if shard.size < shard.total:
            sharing = Sharing(shard)
            programs = sharing(programs[0]), sharing(programs[1])
        if self.data_size is not None:
            scale = GlobalScale(shard.size / self.data_size)
            programs = scale(programs[0]), scale(programs[1])
        if kl_weight is not None:
            weight = KLWeight(kl_weight)
            programs = weight(programs[0]), weight(programs[1])
        return in_precision(programs[0], precision), in_precision(programs[1], precision)

    def _programs(self, shard: Shard, kl_weight: Tensor) -> tuple[Any, Any]:
        return self.programs(shard, kl_weight=kl_weight if self.weighted else None, precision=self.precision)

    def _measured(self, shard: Shard, setting: Tensor, arguments: dict[str, Tensor]) -> tuple[Any, Tensor]:
        """Return the loss to differentiate and the KL, which is the loss's slope in the weight."""
        weight = self.rule.weight(setting).detach().requires_grad_()
        loss = self.objective.differentiable_loss(*self._programs(shard, weight), **arguments)
        (kl,) = torch.autograd.grad(loss, weight, create_graph=True)
        return self.rule.loss(loss, kl, setting, shard.size), kl

    def _run_eager(self, arguments: dict[str, Tensor], shard: Shard) -> Tensor:
        parameters = list(self.named.values())
        for parameter in parameters:
            parameter.grad = None
        if self.rule.measures:
            loss, kl = self._measured(shard, self.kl_weight, arguments)
            loss.backward()
            loss = loss.detach()
            self.kl += kl.detach()
        else:
            loss = self.objective.loss_and_grads(*self._programs(shard, self.kl_weight), **arguments)
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            raise InputError("pair", expected="a loss that depends on some parameter", got="one that depends on none")
        torch._foreach_mul_(gradients, 1.0 / shard.total)
        loss = loss[0] if isinstance(loss, tuple) else loss  # wake-sleep objectives return (wake, sleep)
        return loss if isinstance(loss, Tensor) else torch.tensor(loss, device=self.pair.device)

    def _run_recorded(self, arguments: dict[str, Tensor], shard: Shard) -> Tensor:
        buffers = [home[name] for home, name in self.buffers.values()]  # a program may put a new tensor in their place
        arguments = {name: value.contiguous() for name, value in arguments.items()}  # as they were recorded
        inputs = [*self.named.values(), *buffers, self.kl_weight, *arguments.values()]
        key = shard, *((name, value.shape, value.dtype) for name, value in arguments.items())
        if key not in self._recorded:
            self._recorded[key] = self._record(arguments, shard, inputs)
        recording, reached = self._recorded[key]
        loss, *results = recording(*inputs)
        if self.rule.measures:
            kl, *results = results
            self.kl += kl
        for name, parameter in self.named.items():
            parameter.grad = results[reached[name]] if name in reached else None
        if len(results) > len(reached):
            torch._foreach_copy_(buffers, results[len(reached) :])
        return loss

    def _record(
        self, arguments: dict[str, Tensor], shard: Shard, inputs: list[Tensor]
    ) -> tuple[Recording, dict[str, int]]:
        """Return the recorded step for batches like `arguments`, and where in its results each gradient stands."""
        reached: dict[str, int] = {}
        compute = self._computation(list(arguments), shard, reached)
        recording = record(compute, inputs, compiled=self.paths[shard.total] == "inductor")
        self.structure = self.structure or structure(self.pair, arguments)
        self.paths[shard.total] = recording.path
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

    def _computation(self, names: list[str], shard: Shard, reached: dict[str, int]) -> Any:
        """Return the step up to the gradient as a function of tensors: parameters, buffers, KL weight, batch.

        Its results are the loss, the KL if the rule for its weight asks for it, the gradients of the mean per datum,
        and the buffers if any of them changed. `reached` is filled with the parameters that have a gradient and where
        among the gradients each one's stands.
        """

        def compute(*inputs: Tensor) -> list[Tensor]:
            split = [len(self.named), len(self.buffers), 1, len(names)]
            groups = [inputs[sum(split[:i]) : sum(split[: i + 1])] for i in range(len(split))]
            parameters = [value.detach().requires_grad_() for value in groups[0]]
            buffers = [value.clone() for value in groups[1]]
            before = [value._version for value in buffers]
            swapped = dict(zip([*self.named, *self.buffers], [*parameters, *buffers], strict=True))
            setting, measured = groups[2][0], []
            with torch.enable_grad(), stateless._reparametrize_module(self.modules, swapped, tie_weights=True):
                arguments = dict(zip(names, groups[3], strict=True))
                if self.rule.measures:
                    loss, kl = self._measured(shard, setting, arguments)
                    measured = [kl.detach()]
                else:
                    loss = self.objective.differentiable_loss(*self._programs(shard, setting), **arguments)
                gradients = torch.autograd.grad(loss / shard.total, parameters, allow_unused=True)
                after = [value for _, value in self.modules.named_buffers()]
            changed = any(
                new is not old or new._version != was for new, old, was in zip(after, buffers, before, strict=True)
            )
            there = [name for name, gradient in zip(self.named, gradients, strict=True) if gradient is not None]
            reached.update({name: i for i, name in enumerate(there)})
            return [loss.detach(), *measured, *(g for g in gradients if g is not None), *(after if changed else [])]

        return compute


def _home(root: nn.Module, buffer: str) -> tuple[dict[str, Any], str]:
    """Return the mapping that holds a buffer, and its name there."""
    module, _, name = buffer.rpartition(".")
    return root.get_submodule(module)._buffers, name


#: Name and event shape of every site of both programs.
Structure = tuple[tuple[str, tuple[int, ...]], ...]


def structure(pair: Pair, arguments: dict[str, Tensor]) -> Structure:
    """Run the pair once, leaving random state and buffers as they were, and return its sites."""
    with isolated(device=pair.device), evaluating(pair):
        both = trace_pair(*pair.programs(), (), arguments)
    return tuple((name, tuple(site["fn"].event_shape)) for sites in both for name, site in sites.items())
