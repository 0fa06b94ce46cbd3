"""The training loop, epoch by epoch: batches, steps, validation, early stopping, checkpoints, resuming.

maximise  (1/N) sum_n ELBO(x_n)  over the parameters of model and guide, by mini-batches drawn without replacement
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyro.infer
import torch
from torch import Tensor

from ppl_vae.compile.foreach import largest_sizes
from ppl_vae.compile.precision import products_in
from ppl_vae.core import checks, progress
from ppl_vae.core.errors import InputError, NonFiniteError, RunError
from ppl_vae.core.process import isolated, random_state, set_random_state
from ppl_vae.data import Split
from ppl_vae.objectives.base import own_module
from ppl_vae.pairs.pair import Pair
from ppl_vae.training import learning_rates as schedules
from ppl_vae.training.compatibility import check_alone, check_measures, check_rows, check_scales, check_sums
from ppl_vae.training.distributed.workers import WorkerLostError, Workers
from ppl_vae.training.kl_weights import Constant
from ppl_vae.training.nonfinite import first_bad_parameter, first_bad_site
from ppl_vae.training.optimizer_state import load_state
from ppl_vae.training.options import Options
from ppl_vae.training.proofs import Proofs, epochs_of
from ppl_vae.training.run_folder.files import History
from ppl_vae.training.run_folder.folder import RunFolder
from ppl_vae.training.step import TrainingStep
from ppl_vae.training.validation import effect_of_precision, validate


class Trainer:
    """State of one fit, epoch by epoch."""

    def __init__(
        self,
        pair: Pair,
        objective: pyro.infer.ELBO,
        train: Split,
        validation: Split | None,
        options: Options,
        workers: Workers | None = None,
    ) -> None:
        contract = pair.check(train, training=True)
        self.workers = workers or Workers()
        check_rows(pair, contract, train, validation, options.batch_size)
        check_alone(pair, contract, self.workers.count)
        if contract.plates.parts:  # the program's own mini-batches are of all rows
            options = replace(options, batch_size=max(options.batch_size, train.size))
        if contract.latent_dim >= train.size:
            raise InputError(
                "data",
                expected=f"more data than latents ({contract.latent_dim})",
                got=f"{train.size} rows",
                hint="a smaller latent_dim",
            )
        if validation is not None:
            pair.check(validation)
        data_dim = sum(train[name][0].numel() for name in contract.observed_arguments)
        self.rule = options.kl_rule().on(data_dim, contract.latent_dim)
        weighted = not (isinstance(self.rule, Constant) and self.rule.beta == 1.0)
        check_scales(objective, weighted=weighted, shares_latents=contract.shares_latents)
        check_sums(objective, self.workers.count)
        check_measures(self.rule, objective, pair, train, contract, workers=self.workers.count)
        self.module = own_module(objective)
        parameters = [p for p in [*pair.parameters(), *self.module.parameters()] if p.requires_grad]
        if not parameters:
            raise InputError(
                "pair", expected="parameters to fit", got="none", hint="nn.Parameter or PyroParam in model or guide"
            )
        self.pair, self.objective, self.train, self.validation, self.options = (
            pair,
            objective,
            train,
            validation,
            options,
        )
        self.planned = _planned(train.size, options)
        self.step = TrainingStep(
            pair,
            objective,
            options.make_optimizer(parameters),
            clip_norm=options.clip_norm,
            data_size=train.size if contract.shares_latents else None,
            weighted=weighted,
            rule=self.rule,
            compile=options.compile,
            planned=self.planned,
            precision=options.precision,
            workers=self.workers,
        )
        self.steps_per_epoch = -(-train.size // options.batch_size)
        self.proofs = Proofs(self.step, train, options.precision, self.steps_per_epoch)
        self.schedule = schedules.learning_rate(options.schedule)
        self.history: History = {}
        self.timing: History = {}
        self.best: dict[str, Any] | None = None

    # -- the loop ---------------------------------------------------------------------------------------------------

    def outcome(self, before: float) -> dict[str, Any]:
        """Return the results in ``config.json``; `before` is seconds spent on recording before the fit was resumed."""
        found: dict[str, Any] = {"step": {"paths": self.step.paths, "seconds": before + self.step.seconds}}
        if self.options.precision != "float32":
            found["precision"] = effect_of_precision(self.step, self.validation or self.train, self.options)
        if self.best is not None:
            found["kept"] = {name: self.best[name] for name in ("epoch", "bound")}
        return found

    def run(self, folder: RunFolder | None, checkpoint_seconds: float, show: bool | None) -> None:
        """Run the epochs that are left, checkpointing to `folder`; of several workers, the first one does."""
        held = [*self.pair.parameters(), *self.pair.buffers(), *self.module.parameters()]
        self.workers.align(held, self.pair.device)
        saved = time.monotonic()
        last_good = self.snapshot()
        self.proofs.state = last_good

        def save(seconds: float) -> None:
            nonlocal saved
            if folder is not None and self.workers.is_first and time.monotonic() - saved >= seconds:
                folder.checkpoint(last_good, self.result())
                saved = time.monotonic()

        if self.epoch == 0:  # so that a resumed fit starts from the very same parameters
            self.workers.first(lambda: save(0))
        show = show if self.workers.is_first else False
        with progress.bar("fit", self.options.epochs * self.steps_per_epoch, show) as bar:
            bar(self.epoch * self.steps_per_epoch)
            try:
                while not self.ended:
                    self.run_epoch(bar, last_good)
                    last_good = self.hold(self.snapshot())
                    self.workers.first(lambda: save(checkpoint_seconds))
            except (KeyboardInterrupt, NonFiniteError, WorkerLostError):
                self.restore(last_good)
                save(0)
                raise
            finally:
                self.step.gradient.close()
        self.workers.first(lambda: save(0))

    def hold(self, state: dict[str, Any]) -> dict[str, Any]:
        """Compare recorded steps with the programs where that is due, and return the state to continue from.

        Where they differ, it is that of the last comparison, and all further steps are eager.
        """
        if reason := self.proofs.against(state, ended=self.ended):
            self.discard(reason)
            return self.proofs.state
        return state

    def discard(self, reason: str) -> None:
        """Go back to the last state at which the recordings were right, and continue eagerly."""
        proven, gradient = self.proofs.state, self.step.gradient
        lost = self.epoch - epochs_of(proven)
        if not gradient.disproved:
            gradient.give_up(reason)
        gradient.disproved = ""
        self.restore(proven)
        gradient.paths = dict.fromkeys(self.step.paths, "eager")
        if lost and self.workers.is_first:
            warnings.warn(f"the last {lost} epochs are discarded and fitted again", stacklevel=4)

    def run_epoch(self, bar: progress.Bar, last_good: dict[str, Any]) -> None:
        """Pass over the data once and add a row to the history."""
        started = time.monotonic()
        self.step.total.zero_()
        self.pair.train()
        with products_in(self.options.precision):
            for number, index in enumerate(self.indices()):
                lr, weight = self.settings(number)
                self.step.on(self.train, index)
                bar()
        if not self.finite():
            if reason := self.proofs.disproof(self.epoch, look=True):  # the recording's fault, not the programs'
                self.discard(reason)
                return
            raise NonFiniteError(self.name_culprit(last_good))
        self.workers.align(list(self.pair.buffers()), self.pair.device)
        row = {"epoch": self.epoch + 1, "train_bound": -float(self.step.total) / self.train.size}
        if self.validation is not None:
            row |= validate(self.step, self.validation, self.options, self.epoch)
        row |= {"lr": lr, self.rule.column: float(self.step.gradient.kl_weight) if weight is None else weight}
        if self.history and self.history.keys() != row.keys():
            raise RunError(
                f"resume.pt: expected a history of {', '.join(row)}; got {', '.join(self.history)}; try another run_dir"
            )
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)
        self.timing.setdefault("seconds", []).append(time.monotonic() - started)
        self.keep_best(row)
        bar(0, note=f"{row.get('validation_bound', row['train_bound']):.3f} nats per datum")

    def indices(self) -> Iterable[Tensor]:
        """Return the rows of each mini-batch of one epoch, on the device."""
        if self.pair.whole is not None:  # in their order
            return [torch.arange(self.train.size, device=self.pair.device)]
        return torch.randperm(self.train.size, device=self.pair.device).split(self.options.batch_size)

    def settings(self, number: int) -> tuple[float, float | None]:
        """Set and return the learning rate and the KL rule's setting for step `number` of this epoch."""
        step = self.epoch * self.steps_per_epoch + number
        lr = self.options.lr * self.schedule(step / (self.options.epochs * self.steps_per_epoch))
        weight = self.rule.at(step, self.steps_per_epoch)
        weight = None if weight is None else checks.number(f"kl_weight {type(self.rule).__name__}", weight)
        self.step.set(lr=lr, kl_weight=weight)
        return lr, weight

    # -- early stopping and non-finite values -----------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return epochs_of({"history": self.history})

    @property
    def ended(self) -> bool:
        """Whether there is no epoch left to run."""
        return self.epoch >= self.options.epochs or self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether early stopping has run out of patience."""
        return self.best is not None and self.epoch - self.best["epoch"] >= (self.options.patience or 0)

    def keep_best(self, row: dict[str, float]) -> None:
        """Keep a copy of the parameters when the validation bound rises, if early stopping is on."""
        if self.options.patience and (self.best is None or row["validation_bound"] > self.best["bound"]):
            self.best = {
                "epoch": row["epoch"],
                "bound": row["validation_bound"],
                "model": _clone(self.pair.state_dict()),
            }

    def result(self) -> dict[str, Tensor]:
        """Return the fitted parameters: the best epoch's under early stopping, else the last's."""
        return self.best["model"] if self.best is not None else self.pair.state_dict()

    def finite(self) -> bool:
        """Return whether loss and parameters are finite, with one read-back."""
        norms = torch.stack(largest_sizes(self.step.update.parameters))
        return bool(torch.isfinite(self.step.total) & torch.isfinite(norms).all())

    def name_culprit(self, last_good: dict[str, Any]) -> str:
        """Run the epoch again from the last good state, checking every site; describe the first non-finite value."""
        self.restore(last_good)
        self.pair.train()
        hint = "try a smaller lr, clip_norm, or dtype='float64'"
        for number, index in enumerate(self.indices()):
            self.settings(number)
            batch = self.train.batch(index)
            where = f"epoch {self.epoch + 1}, step {number + 1}"
            if culprit := self._bad_site(batch):
                return f"{where}: {culprit}; {hint}"
            self.step.loss(batch)
            if culprit := first_bad_parameter(self.pair, gradient=True):
                return f"{where}: the gradient of {culprit} is NaN or infinite; {hint}"
            self.step.update()
            if culprit := first_bad_parameter(self.pair):
                return f"{where}: parameter {culprit} became NaN or infinite; {hint}"
        return f"epoch {self.epoch + 1}: the loss is NaN or infinite, though every site is finite; {hint}"

    def _bad_site(self, batch: dict[str, Tensor]) -> str | None:
        """Describe the first site of `batch` that is not finite, the first worker's before the others'."""
        arguments, shard = self.step.own(batch)
        with isolated(device=self.pair.device):
            bad = first_bad_site(self.step.gradient.programs(shard), arguments) if shard.size else None
        return next(filter(None, self.workers.gather(bad)), None)

    # -- state ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Return all state needed to resume with the same numbers."""
        return {
            "model": _clone(self.pair.state_dict()),
            "objective": _clone(self.module.state_dict()),
            "kl_weight": self.step.gradient.kl_weight.clone(),
            "optimizer": copy.deepcopy(self.step.optimizer.state_dict()),
            **random_state(self.pair.device),
            "history": {name: list(column) for name, column in self.history.items()},
            "timing": {name: list(column) for name, column in self.timing.items()},
            "best": self.best,
            "paths": dict(self.step.paths),
            "pieces": self.step.pieces,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `snapshot`, this fit's own or one read from a checkpoint."""
        self.pair.load_state_dict(state["model"])
        self.module.load_state_dict(state["objective"])
        self.step.gradient.kl_weight.copy_(state["kl_weight"])
        load_state(self.step.optimizer, state["optimizer"])
        set_random_state(state, self.pair.device)
        self.history = {name: list(column) for name, column in state["history"].items()}
        self.timing = {name: list(column) for name, column in state["timing"].items()}
        self.best = state["best"]
        self.step.gradient.paths = dict(state["paths"])
        self.step.gradient.taken = {
            rows: steps // self.options.epochs * self.epoch for rows, steps in self.planned.items()
        }
        self.step.pieces = state["pieces"]


def _planned(data_size: int, options: Options) -> dict[int, int]:
    """Return how many steps of each batch size the fit has."""
    whole, rest = divmod(data_size, options.batch_size)
    return {options.batch_size: whole * options.epochs} | ({rest: options.epochs} if rest else {})


def _clone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
