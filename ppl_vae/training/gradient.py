"""Loss and gradient of one batch: by the pair's programs, or by a recording of what they do.

A pair's programs run under effect handlers in Python. They are recorded once for each batch shape, as a graph of tensor
operations, and from then on the graph is run. Neither way reads a value back from the device, but for the moments at
which a recording is held against the programs.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pyro.infer
import torch
from torch import Tensor, nn

from ppl_vae.compile.cuda_graph import capturing
from ppl_vae.compile.foreach import copy_in_place, multiply_in_place
from ppl_vae.compile.graph import NotRecordableError, Recording, path_of, record
from ppl_vae.compile.precision import check_precision, in_precision
from ppl_vae.compile.proof import DIFFERED, REFUSED, broken_off, other_rows
from ppl_vae.compile.side_effects import version
from ppl_vae.compile.substitution import home_of, substituted
from ppl_vae.core.errors import InputError
from ppl_vae.core.process import random_state, set_random_state
from ppl_vae.objectives.base import own_module
from ppl_vae.pairs.handlers import GlobalScale, KLWeight
from ppl_vae.pairs.pair import Pair
from ppl_vae.training.distributed.shared_noise import Sharing
from ppl_vae.training.distributed.workers import Shard
from ppl_vae.training.kl_weights import Constant, KLRule
from ppl_vae.training.witness import StepResults, Witness

#: Steps of one batch shape from which recording (about a second) and compiling (some ten) pay.
WORTH_RECORDING = 200
WORTH_COMPILING = 50_000


#: A recorded step, and where in its results the gradient of each parameter that it reaches stands.
Recorded = tuple[Recording, dict[str, int]]


def choose_path(mode: str, steps: int) -> str:
    """Return the path for a batch shape of which there will be so many `steps`.

    A rule and not a measurement, so that a resumed fit takes the same path to the same numbers.
    """
    return path_of(mode, worth_recording=steps >= WORTH_RECORDING, worth_compiling=steps >= WORTH_COMPILING)


class Gradient:
    """Callable that returns the loss of a batch and leaves the gradient of its mean per datum in the parameters.

    It may be given a shard of a batch: then the loss is that of the shard, the mean that over the whole batch, and the
    sum over all shards is what one would have got for the batch at once.

    Parameters are those of `TrainingStep`, and so are the attributes ``paths``, ``recordings`` and ``seconds``;
    ``disproved`` tells, in words, why a recording that was in use was given up, and is empty if none was.
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
        self.buffers = {name: home_of(name, self.modules) for name, _ in self.modules.named_buffers()}
        self.paths: dict[int, str] = {}
        self.recordings = 0
        self.seconds = 0.0
        self.disproved = ""
        self._seen: set[Any] = set()
        self._recorded: dict[Any, Recorded] = {}

    @property
    def witness(self) -> Witness:
        """The programs' own step; not kept, so that what a fit holds is freed with its last reference."""
        return Witness(self)

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
        key = self._key(arguments, shard)
        if self.path(shard.total) != "eager":
            arguments = {name: value.contiguous() for name, value in arguments.items()}  # as they are recorded
            if (recorded := self._recorded.get(key)) is not None:
                if shard.size == 1 and key not in self._seen:  # the first batch had no other row than the recording saw
                    self._seen.add(key)
                    return self._first(recorded, arguments, shard)
                return self._put(self._run_in_use(recorded, arguments, shard))
            try:
                self._recorded[key] = self._record(arguments, shard)
                return self._first(self._recorded[key], arguments, shard)
            except NotRecordableError as reason:
                self.give_up(f"{REFUSED}: {reason}")
        if key in self._seen:
            return self.run_eager(arguments, shard)
        self._seen.add(key)
        return self._put(self.witness.computed(arguments, shard))

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
        if precision == "float32":
            return programs
        return in_precision(programs[0], precision), in_precision(programs[1], precision)

    def _programs(self, shard: Shard, kl_weight: Tensor) -> tuple[Any, Any]:
        return self.programs(shard, kl_weight=kl_weight if self.weighted else None, precision=self.precision)

    def _measured(self, shard: Shard, setting: Tensor, arguments: dict[str, Tensor]) -> tuple[Any, Tensor]:
        """Return the loss to differentiate and the KL, which is the loss's slope in the weight."""
        weight = self.rule.weight(setting).detach().requires_grad_()
        loss = self.objective.differentiable_loss(*self._programs(shard, weight), **arguments)
        (kl,) = torch.autograd.grad(loss, weight, create_graph=True)
        return self.rule.loss(loss, kl, setting, shard.size), kl

    def run_eager(self, arguments: dict[str, Tensor], shard: Shard) -> Tensor:
        """Run the programs, leave gradients, buffers and KL as they make them, and return the loss."""
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
        multiply_in_place(gradients, 1.0 / shard.total)
        loss = loss[0] if isinstance(loss, tuple) else loss  # wake-sleep objectives return (wake, sleep)
        return loss if isinstance(loss, Tensor) else torch.tensor(loss, device=self.pair.device)

    def _run_in_use(self, recorded: Recorded, arguments: dict[str, Tensor], shard: Shard) -> StepResults:
        """Return what the recorded step gives; where it breaks off, go on without one."""
        try:
            return self.run_recorded(recorded, arguments)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a graph that holds for other data alone
            if capturing(self.pair.device):
                raise
            self.disproved = broken_off(error)
            self.give_up(f"{DIFFERED}: {self.disproved}")
            return self.witness.computed(arguments, shard)

    def run_recorded(self, recorded: Recorded, arguments: dict[str, Tensor]) -> StepResults:
        """Return what the recorded step gives, leaving it to the caller to put it where it belongs."""
        inputs = [*self.named.values(), *self.current_buffers(), self.kl_weight, *arguments.values()]
        recording, reached = recorded
        loss, *results = recording(*inputs)
        kl = results.pop(0) if self.rule.measures else None
        gradients = [results[reached[name]] if name in reached else None for name in self.named]
        return StepResults(loss, kl, gradients, results[len(reached) :])

    def _put(self, results: StepResults) -> Tensor:
        """Leave gradients, buffers and KL of a step where they belong, and return its loss."""
        for parameter, gradient in zip(self.named.values(), results.gradients, strict=True):
            parameter.grad = gradient
        if results.buffers:
            copy_in_place(self.current_buffers(), results.buffers)
        if results.kl is not None:
            self.kl += results.kl
        return results.loss

    def current_buffers(self) -> list[Tensor]:
        """Return the buffers as they are now: a program may put a new tensor in the place of one."""
        return [home[name] for home, name in self.buffers.values()]

    @staticmethod
    def _key(arguments: Mapping[str, Tensor], shard: Shard) -> tuple[Any, ...]:
        return shard, *((name, value.shape, value.dtype) for name, value in arguments.items())

    def _record(self, arguments: dict[str, Tensor], shard: Shard) -> Recorded:
        """Return the step recorded for batches like `arguments`, and where in its results each gradient stands.

        It is recorded on other rows than these, which it is then held against.
        """
        reached: dict[str, int] = {}
        compute = self._computation(list(arguments), shard, reached)
        others = other_rows(list(arguments.values()))
        inputs = [*self.named.values(), *self.current_buffers(), self.kl_weight, *others]
        fused = self.paths[shard.total] == "inductor"
        recording = record(compute, inputs, compiled=fused, module=self.modules)
        self.paths[shard.total] = recording.path
        self.recordings += 1
        self.seconds += recording.seconds
        return recording, reached

    # -- the proof --------------------------------------------------------------------------------------------------

    def _first(self, recorded: Recorded, arguments: dict[str, Tensor], shard: Shard) -> Tensor:
        """Take the first step of a recording and the program's own, and keep to the recording's if they agree."""
        told, by_recording, computed, after = self.witness.both(recorded, arguments, shard)
        if not told:
            return self._put(by_recording)
        self.give_up(f"{DIFFERED}: {told}")
        set_random_state(after, self.pair.device)
        return self._put(computed)

    def differs(self, arguments: dict[str, Tensor], shard: Shard) -> str:
        """Return, in words, what a recorded step and the program differ in on a batch; empty if in nothing.

        Random state, buffers and KL are as they were afterwards. A batch of a shape that is not recorded is run by the
        program alone, so that its values are looked at.
        """
        arguments = {name: value.contiguous() for name, value in arguments.items()}
        before = random_state(self.pair.device)
        try:
            if (recorded := self._recorded.get(self._key(arguments, shard))) is not None:
                return self.witness.both(recorded, arguments, shard)[0]
            self.witness.computed(arguments, shard)
            return ""
        finally:
            set_random_state(before, self.pair.device)

    def give_up(self, reason: str) -> None:
        """Go on eagerly, with a warning."""
        self.compile = "off"
        self.paths = dict.fromkeys(self.paths, "eager")
        self._recorded.clear()
        warnings.warn(f"the step {reason}", stacklevel=3)

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
            before = [version(value) for value in buffers]
            swapped = dict(zip([*self.named, *self.buffers], [*parameters, *buffers], strict=True))
            setting, measured = groups[2][0], []
            with torch.enable_grad(), substituted(self.modules, swapped):
                arguments = dict(zip(names, groups[3], strict=True))
                if self.rule.measures:
                    loss, kl = self._measured(shard, setting, arguments)
                    measured = [kl.detach()]
                else:
                    loss = self.objective.differentiable_loss(*self._programs(shard, setting), **arguments)
                gradients = torch.autograd.grad(loss / shard.total, parameters, allow_unused=True)
                after = [value for _, value in self.modules.named_buffers()]
            changed = any(
                new is not old or version(new) != was for new, old, was in zip(after, buffers, before, strict=True)
            )
            there = [name for name, gradient in zip(self.named, gradients, strict=True) if gradient is not None]
            reached.update({name: i for i, name in enumerate(there)})
            return [loss.detach(), *measured, *(g for g in gradients if g is not None), *(after if changed else [])]

        return compute
