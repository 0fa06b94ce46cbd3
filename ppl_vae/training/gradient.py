"""Loss and gradient of one batch: from the pair's programs, or from a recording of them.

A pair's programs run under effect handlers in Python. They are recorded once for each batch shape, as a graph of tensor
operations, and from then on the graph is run. Neither reads a value back from the device, except when a
recording is compared with the programs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pyro.infer
import torch
from torch import Tensor, nn

from ppl_vae.compile.foreach import copy_in_place, multiply_in_place
from ppl_vae.compile.graph import path_of
from ppl_vae.compile.inductor import has_compiler
from ppl_vae.compile.precision import check_precision, in_precision
from ppl_vae.compile.proof import other_rows
from ppl_vae.compile.recorded import DIFFERED, DiffersError
from ppl_vae.compile.substitution import home_of
from ppl_vae.core.errors import InputError
from ppl_vae.core.process import random_state, set_random_state
from ppl_vae.objectives.base import own_module
from ppl_vae.pairs.handlers import GlobalScale, KLWeight
from ppl_vae.pairs.pair import Pair
from ppl_vae.training.distributed.shared_noise import SharedNoise
from ppl_vae.training.distributed.workers import Shard
from ppl_vae.training.kl_weights import Constant, KLRule
from ppl_vae.training.recorded_step import RecordedStep, StepResults
from ppl_vae.training.witness import Witness

#: Steps of one batch shape from which recording (about 0.2 s) pays off; on a GPU, also those for compiling.
WORTH_RECORDING = 200
WORTH_COMPILING = 50_000

#: Seconds in which the compiler is expected to be done, beside a fit that runs on the graph.
COMPILING = 12.0


def choose_path(mode: str, steps: int, device: str = "cpu") -> str:
    """Return the path for a batch shape that will take so many `steps`; see `compiled_from` for a change later on.

    A fixed rule rather than a measurement, so that a resumed fit takes the same path and gets the same numbers.
    """
    compiled = steps >= WORTH_COMPILING and device != "cpu"
    return path_of(mode, worth_recording=steps >= WORTH_RECORDING, worth_compiling=compiled)


def compiled_from(steps: int, expected_seconds: float) -> int | None:
    """Return the first step that runs compiled, of so many, each of which the graph is expected to take so long for.

    It is the step that the graph is expected to reach while the compiler works, and None if that is more than a quarter
    of the fit: a rule, and no measurement, so that equal fits change paths at the same step.
    """
    reached = math.ceil(COMPILING / expected_seconds) if expected_seconds else steps
    return reached if 4 * reached <= steps else None


class Gradient:
    """Callable that returns the loss of a batch and sets the parameters' gradients to that of its mean per datum.

    Given a shard of a batch, the loss is summed over the shard and the mean is over the whole batch, so that the sum
    over all shards is the result for the batch.

    Parameters are those of `TrainingStep`, and so are the attributes ``paths``, ``recordings`` and ``seconds``;
    ``disproved`` is the reason, as text, why a recording in use was given up, and empty if none was.
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
        self.taken: dict[int, int] = {}  # recorded steps of each batch size
        self.recordings = 0
        self.disproved = ""
        self._seen: set[Any] = set()
        self._spent = 0.0  # on recordings that were given up
        self._recorded: dict[Any, RecordedStep] = {}
        self._compiled_from: dict[Any, int | None] = {}

    @property
    def seconds(self) -> float:
        """Seconds spent recording and compiling, and waiting for the compiler."""
        return self._spent + sum(step.seconds for step in self._recorded.values())

    @property
    def witness(self) -> Witness:
        """The step by the programs; made on each access, since a stored one would form a reference cycle."""
        return Witness(self)

    def path(self, rows: int) -> str:
        """Return the path of batches of so many rows, chosen at the first of them."""
        if rows not in self.paths:
            steps = WORTH_RECORDING if self.planned is None else self.planned.get(rows, 0)
            self.paths[rows] = choose_path(self.compile, steps, self.pair.device.type)
        return self.paths[rows]

    def __call__(self, arguments: dict[str, Tensor], shard: Shard | None = None) -> Tensor:
        """Return the loss, summed over the rows in `arguments`, in nats; they are a whole batch, or `shard` of one.

        The KL is added to `kl` where the rule for its weight asks for it.
        """
        shard = shard or Shard.whole(len(next(iter(arguments.values()))))
        key = self._key(arguments, shard)
        if self.path(shard.total) != "eager":
            return self._put(self._recorded_step(key, arguments, shard))
        if key in self._seen:
            return self.run_eager(arguments, shard)
        self._seen.add(key)
        return self._put(self.witness.computed(arguments, shard))

    def _recorded_step(self, key: Any, arguments: dict[str, Tensor], shard: Shard) -> StepResults:
        """Take a step by its recording, which is made on other rows; once one fails, all steps are eager."""
        arguments = {name: value.contiguous() for name, value in arguments.items()}  # as they are recorded
        if first := key not in self._recorded:
            self._recorded[key] = RecordedStep(self, list(arguments), shard, self.paths[shard.total])
        step, values = self._recorded[key], list(arguments.values())
        other = lambda: self.inputs(other_rows(values))  # noqa: E731
        if first:
            self._prepare(key, step, shard.total, other)
        try:
            results = step(*self.inputs(values), other=other)
        except DiffersError as error:
            self.disproved = str(error)
            self.stop_recording()
            return self.witness.computed(arguments, shard)
        if first and step.seconds:
            self.paths[shard.total] = step.path
            self.recordings += 1
        if step.path == "eager":
            self._seen.add(key)
            self.stop_recording()
        else:
            self._count(key, step, shard.total)
        return results

    def _prepare(self, key: Any, step: RecordedStep, rows: int, other: Callable[[], list[Tensor]]) -> None:
        """Record a step, and have the graph compiled meanwhile where that pays."""
        step.prepare(other)
        self._compiled_from[key] = self._change_of_path(step, rows)
        if self._compiled_from[key] is not None:
            step.compile_ahead(other())

    def _count(self, key: Any, step: RecordedStep, rows: int) -> None:
        """Count a recorded step, and go over to the compiled one where that is due."""
        self.taken[rows] = self.taken.get(rows, 0) + 1
        at = self._compiled_from[key]
        if at is not None and self.taken[rows] >= at:
            step.compile()
            self.paths[rows], self._compiled_from[key] = "inductor", None

    def _change_of_path(self, step: RecordedStep, rows: int) -> int | None:
        """Return the step from which batches of so many rows run compiled; None if they do not, or do so already."""
        by_rule = self.compile == "auto" and self.planned is not None and self.pair.device.type == "cpu"
        if not by_rule or step.path != "graph" or not has_compiler():
            return None
        return compiled_from(self.planned.get(rows, 0), step.expected_seconds)  # type: ignore[union-attr]

    def programs(self, shard: Shard, *, kl_weight: Tensor | None = None, precision: str = "float32") -> tuple[Any, Any]:
        """Return the model and the guide as the objective sees them for a shard of a batch."""
        programs = self.pair.programs()
        if shard.size < shard.total:
            noise = SharedNoise(shard)
            programs = noise(programs[0]), noise(programs[1])
        if self.data_size is not None:
            scale = GlobalScale(shard.size / self.data_size)
            programs = scale(programs[0]), scale(programs[1])
        if kl_weight is not None:
            weight = KLWeight(kl_weight)
            programs = weight(programs[0]), weight(programs[1])
        if precision == "float32":
            return programs
        return in_precision(programs[0], precision), in_precision(programs[1], precision)

    def weighted_programs(self, shard: Shard, kl_weight: Tensor) -> tuple[Any, Any]:
        """Return the programs with a weight on the KL, in the step's precision."""
        return self.programs(shard, kl_weight=kl_weight if self.weighted else None, precision=self.precision)

    def measured(self, shard: Shard, setting: Tensor, arguments: dict[str, Tensor]) -> tuple[Any, Tensor]:
        """Return the loss to differentiate and the KL, which is the loss's derivative with respect to its weight."""
        weight = self.rule.weight(setting).detach().requires_grad_()
        loss = self.objective.differentiable_loss(*self.weighted_programs(shard, weight), **arguments)
        (kl,) = torch.autograd.grad(loss, weight, create_graph=True)
        return self.rule.loss(loss, kl, setting, shard.size), kl

    def run_eager(self, arguments: dict[str, Tensor], shard: Shard) -> Tensor:
        """Run the programs and return the loss; gradients, buffers and KL are then those of the step."""
        parameters = list(self.named.values())
        for parameter in parameters:
            parameter.grad = None
        if self.rule.measures:
            loss, kl = self.measured(shard, self.kl_weight, arguments)
            loss.backward()
            loss = loss.detach()
            self.kl += kl.detach()
        else:
            loss = self.objective.loss_and_grads(*self.weighted_programs(shard, self.kl_weight), **arguments)
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            theirs = type(self.objective).__module__.startswith("pyro.")  # they train what a program announces
            raise InputError(
                "pair",
                expected="a loss that depends on some parameter",
                got="one that depends on none",
                hint="pyro.module('network', network) in the program, or ppl_vae.objectives.ELBO()" if theirs else "",
            )
        multiply_in_place(gradients, 1.0 / shard.total)
        loss = loss[0] if isinstance(loss, tuple) else loss  # wake-sleep objectives return (wake, sleep)
        return loss if isinstance(loss, Tensor) else torch.tensor(loss, device=self.pair.device)

    def _put(self, results: StepResults) -> Tensor:
        """Store gradients, buffers and KL of a step, and return its loss."""
        for parameter, gradient in zip(self.named.values(), results.gradients, strict=True):
            parameter.grad = gradient
        if results.buffers:
            copy_in_place(self.current_buffers(), results.buffers)
        if results.kl is not None:
            self.kl += results.kl
        return results.loss

    def inputs(self, values: list[Tensor]) -> list[Tensor]:
        """Return the inputs of a recorded step: parameters, buffers, the weight of the KL, and the batch's `values`."""
        return [*self.named.values(), *self.current_buffers(), self.kl_weight, *values]

    def current_buffers(self) -> list[Tensor]:
        """Return the buffers as they are now: a program may put a new tensor in the place of one."""
        return [home[name] for home, name in self.buffers.values()]

    @staticmethod
    def _key(arguments: Mapping[str, Tensor], shard: Shard) -> tuple[Any, ...]:
        return shard, *((name, value.shape, value.dtype) for name, value in arguments.items())

    # -- the proof --------------------------------------------------------------------------------------------------

    def differs(self, arguments: dict[str, Tensor], shard: Shard) -> str:
        """Return, as text, how a recorded step and the program differ on a batch; empty if they agree.

        Random state, buffers and KL are restored afterwards. A batch of a shape that is not recorded is run by the
        program only, which checks its values.
        """
        arguments = {name: value.contiguous() for name, value in arguments.items()}
        before = random_state(self.pair.device)
        try:
            if (step := self._recorded.get(self._key(arguments, shard))) is not None:
                return step.compare(self.inputs(list(arguments.values())))[0]
            self.witness.computed(arguments, shard)
            return ""
        finally:
            set_random_state(before, self.pair.device)

    def close(self) -> None:
        """End compilations that are under way."""
        for step in self._recorded.values():
            step.close()

    def give_up(self, reason: str) -> None:
        """Take all further steps eagerly, with a warning."""
        self.stop_recording()
        warnings.warn(f"the step {DIFFERED}: {reason}", stacklevel=3)

    def stop_recording(self) -> None:
        """Take all further steps eagerly."""
        self.compile = "off"
        self.paths = dict.fromkeys(self.paths, "eager")
        self._spent = self.seconds
        self.close()
        self._recorded.clear()
