"""The only training loop: stochastic variational inference of any pair.

maximise  (1/N) sum_n ELBO(x_n)  over the parameters of model and guide, by mini-batches drawn without replacement
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import pyro.infer
import torch
from torch import Tensor

from ppl_vae import data as datasets
from ppl_vae import progress, runs, schedules
from ppl_vae.config import describe
from ppl_vae.context import evaluating, isolated
from ppl_vae.data import Dataset, Split
from ppl_vae.errors import InputError, NonFiniteError
from ppl_vae.nonfinite import first_bad_parameter, first_bad_site
from ppl_vae.objectives import ELBO
from ppl_vae.options import DTYPES, Options
from ppl_vae.pair import Pair, as_pair
from ppl_vae.runs import History, Run, RunFolder
from ppl_vae.step import TrainingStep
from ppl_vae.types import Batch


def fit(
    pair: Any,
    data: Dataset | Split | Batch,
    *,
    objective: pyro.infer.ELBO | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    lr: float = 1e-3,
    optimizer: str | type[torch.optim.Optimizer] | Callable[..., torch.optim.Optimizer] = "adam",
    optimizer_options: Mapping[str, Any] | None = None,
    schedule: str | Callable[[float], float] = "constant",
    clip_norm: float | None = None,
    kl_warmup: float = 0,
    patience: int | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    compile: str = "auto",
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 10.0,
    progress: bool | None = None,
) -> Run:
    """Fit a pair by stochastic variational inference.

    Parameters
    ----------
    pair : Pair
        Model and guide; trained in place.
    data : Dataset, Split or mapping of str to Tensor
        What to train on. A `Dataset` also brings its validation split.
    objective : pyro.infer.ELBO
        One of ours or of Pyro's; `ELBO()` by default.
    epochs, batch_size : int
        Passes over the data, and data per step. A short last batch counts in full.
    lr : float
        Learning rate, for the gradient of the mean loss per datum.
    optimizer : str, class or callable
        Name or class of a `torch.optim` optimiser, or ``callable(parameters, lr=…)``; `optimizer_options` go to it.
    schedule : str or callable
        Factor on the learning rate: ``"constant"``, ``"linear"``, ``"cosine"``, ``"exponential"`` (down to 1 %), or a
        function of the share of the fit that is done, in [0, 1).
    clip_norm : float, optional
        Largest norm of the gradient of the mean loss per datum.
    kl_warmup : float
        Epochs over which the weight of the KL rises linearly to 1.
    patience : int, optional
        Stop when the validation bound has not risen for so many epochs, and return the best epoch's parameters.
    seed : int
        Seed of batches, noise and binarisation. The process's own random state is left alone.
    device : str
        ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
    dtype : {"float32", "float64"}
        Floating type of parameters and data.
    compile : {"auto", "off"}
        Reserved for the recorded step; every step is eager now.
    run_dir : path, optional
        Folder to write to as the fit goes on. It must not hold a run, unless `resume` is set.
    resume : bool
        Go on from the folder's last checkpoint, to the same numbers as an uninterrupted fit; start where there is none.
    checkpoint_seconds : float
        Least time between two checkpoints, in seconds; the last epoch's is always written.
    progress : bool, optional
        Whether to show a progress bar; by default on a terminal.

    Returns
    -------
    Run
        ``run.history`` has a row per epoch: ``train_bound`` (of the objective as weighted), ``validation_bound`` (unweighted),
        in nats per datum, and for `ELBO` its two halves, ``validation_distortion`` = -E[log p(x|z)] and
        ``validation_rate`` = KL.

    Raises
    ------
    InputError, PairError
        For bad settings or data, and for a pair that breaks the contract.
    NonFiniteError
        When a value is NaN or infinite: names the first such site. The last good checkpoint stays, and the pair gets it back.
    RunError
        When the run folder cannot be read or written.
    """
    options = Options(
        epochs, batch_size, lr, optimizer, optimizer_options, schedule, clip_norm,
        kl_warmup, patience, seed, device, dtype, compile,
    )  # fmt: skip
    pair = as_pair(pair)
    objective = ELBO() if objective is None else objective
    if not isinstance(objective, pyro.infer.ELBO):
        raise InputError(
            "objective", expected="a pyro.infer.ELBO", got=repr(objective)[:60], hint="ppl_vae.objectives.ELBO()"
        )
    train, validation = (data.train, data.validation) if isinstance(data, Dataset) else (datasets.as_split(data), None)
    if patience is not None and validation is None:
        raise InputError(
            "patience", expected="data with a validation split", got="none", hint="a Dataset, or patience=None"
        )
    where, kind = options.torch_device(), DTYPES[dtype]
    pair.to(where, kind)
    with isolated(seed, device=where):
        trainer = _Trainer(pair, objective, train.to(where, kind), validation and validation.to(where, kind), options)
        config = {
            "pair": runs.describe_pair(pair),
            "objective": _describe_objective(objective),
            "data": _describe_data(train, validation),
            "fit": options.to_json() | {"device": str(where)},
        }
        folder = RunFolder(run_dir) if run_dir is not None else None
        if folder is not None:
            state = folder.start(config, runs.environment(where), resume=resume)
            if state is not None:
                trainer.restore(state)
                folder.update_config(config)
        trainer.run(folder, checkpoint_seconds, progress)
    pair.load_state_dict(trainer.result())
    pair.eval()
    return Run(pair, config, trainer.history, folder.path if folder else None, trainer.timing)


class _Trainer:
    """State of one fit, epoch by epoch."""

    def __init__(
        self, pair: Pair, objective: pyro.infer.ELBO, train: Split, validation: Split | None, options: Options
    ) -> None:
        contract = pair.check(train)
        if contract.latent_dim >= train.size:
            raise InputError(
                "data",
                expected=f"more data than latents ({contract.latent_dim})",
                got=f"{train.size} rows",
                hint="a smaller latent_dim",
            )
        if validation is not None:
            pair.check(validation)
        parameters = [parameter for parameter in pair.parameters() if parameter.requires_grad]
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
        self.step = TrainingStep(
            pair,
            objective,
            options.make_optimizer(parameters),
            clip_norm=options.clip_norm,
            data_size=train.size if contract.shares_latents else None,
            weighted=options.kl_warmup > 0,
        )
        self.steps_per_epoch = -(-train.size // options.batch_size)
        self.schedule = schedules.learning_rate(options.schedule)
        self.history: History = {}
        self.timing: History = {}
        self.best: dict[str, Any] | None = None

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self, folder: RunFolder | None, checkpoint_seconds: float, show: bool | None) -> None:
        """Run the epochs that are left, checkpointing to `folder`."""
        saved = time.monotonic()
        last_good = self.snapshot()
        with progress.bar("fit", self.options.epochs * self.steps_per_epoch, show) as bar:
            bar(self.epoch * self.steps_per_epoch)
            try:
                while self.epoch < self.options.epochs and not self.exhausted:
                    self.run_epoch(bar, last_good)
                    last_good = self.snapshot()
                    if folder is not None and time.monotonic() - saved >= checkpoint_seconds:
                        folder.checkpoint(last_good, self.result())
                        saved = time.monotonic()
            except (KeyboardInterrupt, NonFiniteError):
                self.restore(last_good)
                if folder is not None:
                    folder.checkpoint(last_good, self.result())
                raise
        if folder is not None:
            folder.checkpoint(last_good, self.result())

    def run_epoch(self, bar: progress.Bar, last_good: dict[str, Any]) -> None:
        """Pass over the data once and add a row to the history."""
        started = time.monotonic()
        total = torch.zeros((), dtype=torch.float64, device=self.pair.device)
        self.pair.train()
        for number, batch in enumerate(self.batches()):
            lr, weight = self.settings(number)
            total += self.step(batch)
            bar()
        if not self.finite(total):
            raise NonFiniteError(self.name_culprit(last_good))
        row = {"epoch": self.epoch + 1, "train_bound": -float(total) / self.train.size}
        if self.validation is not None:
            row |= self.validate(self.validation)
        row |= {"lr": lr, "kl_weight": weight}
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)
        self.timing.setdefault("seconds", []).append(time.monotonic() - started)
        self.keep_best(row)
        bar(0, note=f"{row.get('validation_bound', row['train_bound']):.3f} nats per datum")

    def batches(self) -> Any:
        """Yield the mini-batches of one epoch, drawn on the device."""
        order = torch.randperm(self.train.size, device=self.pair.device)
        for index in order.split(self.options.batch_size):
            yield self.train.draw(index)

    def settings(self, number: int) -> tuple[float, float]:
        """Set and return the learning rate and the weight of the KL for step `number` of this epoch."""
        step = self.epoch * self.steps_per_epoch + number
        lr = self.options.lr * self.schedule(step / (self.options.epochs * self.steps_per_epoch))
        weight = schedules.kl_weight(step, round(self.options.kl_warmup * self.steps_per_epoch))
        self.step.set(lr=lr, kl_weight=weight)
        return lr, weight

    def validate(self, split: Split) -> dict[str, float]:
        """Return the unweighted bound on `split`, with the same noise in every epoch; for `ELBO` also its two halves."""
        totals: dict[str, Any] = {}
        with isolated(self.options.seed + 1, device=self.pair.device), evaluating(self.pair):
            for start in range(0, split.size, self.options.batch_size):
                batch = self.pair.arguments(
                    {name: value[start : start + self.options.batch_size] for name, value in split.items()}
                )
                programs = self.step.programs(len(next(iter(batch.values()))), weighted=False)
                for name, value in _bound(self.objective, programs, batch).items():
                    totals[name] = totals.get(name, 0.0) + value
        values = {f"validation_{name}": float(value) / split.size for name, value in totals.items()}
        if not all(torch.isfinite(torch.tensor(value)) for value in values.values()):
            culprit = first_bad_site(self.pair.programs(), self.pair.arguments(split)) or "the validation bound"
            raise NonFiniteError(f"epoch {self.epoch + 1}, validation: {culprit}; try a smaller lr, or clip_norm")
        return values

    # -- early stopping and non-finite values -----------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return len(self.history.get("epoch", []))

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
        """Return the parameters the fit stands for: the best epoch's under early stopping, else the last's."""
        return self.best["model"] if self.best is not None else self.pair.state_dict()

    def finite(self, total: Tensor) -> bool:
        """Tell whether loss and parameters are finite, with one read-back."""
        norms = torch.stack(torch._foreach_norm(self.step.parameters))
        return bool(torch.isfinite(total) & torch.isfinite(norms).all())

    def name_culprit(self, last_good: dict[str, Any]) -> str:
        """Run the epoch again from the last good state, looking at every site, and say where it first went wrong."""
        self.restore(last_good)
        self.pair.train()
        hint = "try a smaller lr, clip_norm, or dtype='float64'"
        for number, batch in enumerate(self.batches()):
            self.settings(number)
            arguments = self.pair.arguments(batch)
            state = torch.get_rng_state()
            where = f"epoch {self.epoch + 1}, step {number + 1}"
            with isolated(device=self.pair.device):
                torch.set_rng_state(state)
                if culprit := first_bad_site(self.pair.programs(), arguments):
                    return f"{where}: {culprit}; {hint}"
            self.step.loss(batch)
            if culprit := first_bad_parameter(self.pair, gradient=True):
                return f"{where}: the gradient of {culprit} is NaN or infinite; {hint}"
            self.step.update()
            if culprit := first_bad_parameter(self.pair):
                return f"{where}: parameter {culprit} became NaN or infinite; {hint}"
        return f"epoch {self.epoch + 1}: the loss is NaN or infinite, though every site is finite; {hint}"

    # -- state ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Return everything needed to go on from here to the same numbers."""
        device = self.pair.device
        return {
            "model": _clone(self.pair.state_dict()),
            "optimizer": copy.deepcopy(self.step.optimizer.state_dict()),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "history": {name: list(column) for name, column in self.history.items()},
            "timing": {name: list(column) for name, column in self.timing.items()},
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `snapshot`, this fit's own or one read from a checkpoint."""
        self.pair.load_state_dict(state["model"])
        self.step.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None and self.pair.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.pair.device)
        self.history = {name: list(column) for name, column in state["history"].items()}
        self.timing = {name: list(column) for name, column in state["timing"].items()}
        self.best = state["best"]


def _bound(objective: pyro.infer.ELBO, programs: tuple[Any, Any], batch: dict[str, Tensor]) -> dict[str, Any]:
    """Return the bound of a batch, summed over it; for `ELBO` also distortion and rate."""
    if isinstance(objective, ELBO):
        halves = objective.halves(*programs, **batch)
        return {"bound": -sum(halves.values()), **halves}
    loss: Any = objective.loss(*programs, **batch)
    return {"bound": -(loss[0] if isinstance(loss, tuple) else loss)}


def _clone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _describe_objective(objective: pyro.infer.ELBO) -> dict[str, Any]:
    return {
        "name": type(objective).__name__,
        "num_particles": objective.num_particles,
        "description": describe(objective),
    }


def _describe_data(train: Split, validation: Split | None) -> dict[str, Any]:
    parts = {"train": train} | ({"validation": validation} if validation is not None else {})
    return {
        "name": train.spec.name,
        "spec": train.spec.to_json(),
        "size": {role: split.size for role, split in parts.items()},
        "digest": {role: split.digest for role, split in parts.items()},
    }
