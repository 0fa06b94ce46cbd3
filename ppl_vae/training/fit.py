"""The only training loop: stochastic variational inference of any pair.

maximise  (1/N) sum_n ELBO(x_n)  over the parameters of model and guide, by mini-batches drawn without replacement
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pyro.infer
import torch

from ppl_vae import data as datasets
from ppl_vae.compile.precision import products_in
from ppl_vae.core.checks import as_path, as_plain, check_mapping, not_negative
from ppl_vae.core.errors import InputError, shown
from ppl_vae.core.process import in_memory, isolated
from ppl_vae.core.types import Batch
from ppl_vae.data import Dataset, Split
from ppl_vae.objectives import ELBO
from ppl_vae.objectives.base import own_module
from ppl_vae.pairs.pair import as_pair
from ppl_vae.training.description import check_agreement, describe_fit
from ppl_vae.training.distributed.workers import joined
from ppl_vae.training.kl_weights import KLRule
from ppl_vae.training.options import DTYPES, Options, check_device, find_device
from ppl_vae.training.run_folder.folder import RunFolder
from ppl_vae.training.run_folder.run import Run, environment
from ppl_vae.training.run_folder.upgrade import upgraded_checkpoint
from ppl_vae.training.trainer import Trainer


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
    kl_weight: float | KLRule = 1.0,
    kl_warmup: float = 0,
    patience: int | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    compile: str = "auto",
    precision: str = "float32",
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_seconds: float = 10.0,
    source: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> Run:
    """Fit a pair by stochastic variational inference; under ``torchrun``, by several workers to the result of one.

    Parameters
    ----------
    pair : Pair
        Model and guide; trained in place.
    data : Dataset, Split or mapping of str to Tensor
        Training data. A `Dataset` also has a validation split.
    objective : pyro.infer.ELBO
        One of ours or of Pyro's; `ELBO()` by default.
    epochs, batch_size : int
        Passes over the data, and data per step, of all workers together. A short last batch counts in full.
    lr : float
        Learning rate, for the gradient of the mean loss per datum.
    optimizer : str, class or callable
        Name or class of a `torch.optim` optimiser, or ``callable(parameters, lr=…)``; `optimizer_options` go to it.
    schedule : str or callable
        Factor on the learning rate: ``"constant"``, ``"linear"``, ``"cosine"``, ``"exponential"`` (down to 1 %), or a
        function of the share of the fit that is done, in [0, 1).
    clip_norm : float, optional
        Largest norm of the gradient of the mean loss per datum.
    kl_weight : float or KLRule
        Weight beta of the KL, in both programs, or a rule for it; see `ppl_vae.kl_weights`. What validation reports is
        unweighted.
    kl_warmup : float
        Epochs over which that weight rises linearly from 0; more than the fit has are allowed, with a warning.
    patience : int, optional
        Stop when the validation bound has not risen for so many epochs, and return the best epoch's parameters.
    seed : int
        Seed of batches, noise and binarisation. The process's own random state is left alone.
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"``: the one that ``PPL_VAE_DEVICE`` in the environment names,
        else a GPU if there is one. With several workers ``"auto"`` and ``"cuda"`` give each its own.
    dtype : {"float32", "float64"}
        Floating type of parameters and data.
    compile : {"auto", "off", "graph", "inductor"}
        How a step runs: the programs as they are (``"off"``), recorded once per batch shape as a graph of operations,
        or the graph fused by Inductor. ``"auto"`` records from 200 steps of a shape on. On a CPU, where the graph is
        expected to reach less than a quarter of them within 12 s, another process compiles it meanwhile, to which the
        fit leaves one of its threads, and all steps from the one that it is expected to reach are compiled: counted
        beforehand, so that equal fits have equal numbers. On a GPU the graph is compiled at once from 50,000 steps on.
        A recording is compared with the programs (loss, gradients, buffers and random state) on rows that it was not
        made from: when it is made, at the end of an epoch once another 1,000 steps are done, and at the end of a fit of
        at least 1,000 steps. Where they differ beyond rounding, or the programs have side effects that a recording
        cannot repeat (hooks, generators of their own, attributes they change, values taken out of torch), steps are
        eager, with one warning that names the cause, and the epochs since the last comparison are discarded and fitted
        again. ``run.config["step"]`` has the path taken for each batch size, and the seconds spent on recording and
        compiling; a resumed fit takes the same paths.
    precision : {"float32", "tf32", "bf16"}
        Of matrix products in training steps; see `ppl_vae.compile.precision`. Validation is always in float32, and
        ``run.config["precision"]`` has the bound in both precisions.
    run_dir : path, optional
        Folder to write to during the fit. It must not hold a run, unless `resume` or `overwrite` is set; a fit that
        ended before its first epoch was done left none.
    resume : bool
        Go on from the folder's last checkpoint, to the same numbers as an uninterrupted fit; start where there is none.
        With a constant schedule `epochs` may have grown since.
    overwrite : bool
        Remove the run that the folder holds, with its estimates and figures, and start anew. It stays until data, pair
        and settings are checked.
    checkpoint_seconds : float
        Least time between two checkpoints, in seconds; the last epoch's is always written. Infinity for that one alone.
    source : mapping, optional
        Where pair and data came from, as plain values: kept in ``config.json`` as it is, for whoever makes them again.
    progress : bool, optional
        Whether to show a progress bar; by default on a terminal.

    Returns
    -------
    Run
        ``run.history`` has a row per epoch: ``train_bound`` (of the objective as weighted), ``validation_bound``
        (unweighted), in nats per datum, and for `ELBO` its two parts, ``validation_distortion`` = -E[log p(x|z)] and
        ``validation_rate`` = KL. Under early stopping ``run.config["kept"]`` names the epoch whose parameters it has.

    Raises
    ------
    InputError, PairError
        For bad settings or data, for a pair that breaks the contract, and while another thread is inside such a call.
    NonFiniteError
        When a value is NaN, infinite or not allowed by its distribution: names the first such site. The last good
        checkpoint stays, and the pair gets its parameters back.
    RunError
        When the run folder cannot be read or written; when a worker is lost. The last checkpoint stays.

    Notes
    -----
    Where `torchrun` (or `torch.distributed`) has started several workers, each works on its rows of every batch, and
    their gradients are added up in one call. All hold all the data, draw the same batches, and the same noise, so that
    histories and parameters are those of one process up to rounding (see `ppl_vae.training.distributed.shared_noise`
    for the samplers where noise differs: they give a fit of the same distribution). Statistics over a batch, as batch
    norm takes them, are over a worker's rows; its running averages are the first worker's. Objectives of ours whose
    loss is not a sum over the data are refused; the loss of any other objective is summed over the workers. Only the
    first worker writes the folder, shows the bar and warns; the others return the same run, which does not write. A
    fit may be resumed with another number of workers. SIGTERM stops all of them as Ctrl-C does, with a checkpoint.
    Where one is lost, the others raise as soon as its connection closes; NCCL does not notice that, and there
    `torchrun`, or torch after `ppl_vae.training.distributed.workers.LOST`, ends them.

    What a recording can still miss: a change of the program that has no effect on any result until after the last
    comparison (a counter in a closure or a global that is compared with a threshold), an effect smaller than rounding,
    and code that runs only for data too rare to occur in the batches that are compared.
    """
    options = Options(
        epochs, batch_size, lr, optimizer, optimizer_options, schedule, clip_norm,
        kl_weight, kl_warmup, patience, seed, device, dtype, compile, precision,
    )  # fmt: skip
    if resume and overwrite:
        raise InputError("overwrite", expected="resume or overwrite", got="both", hint="one of them")
    check_device(device)
    checkpoint_seconds = not_negative("checkpoint_seconds", checkpoint_seconds, "seconds, 0 or more", finite=False)
    run_dir = None if run_dir is None else as_path("run_dir", run_dir)
    source = None if source is None else as_plain("source", check_mapping("source", source))
    pair, objective = as_pair(pair), _as_objective(objective)
    train, validation = _splits(data, options)
    with joined() as workers, in_memory("fit: expected memory for pair and data", "a smaller pair or device='cpu'"):
        if workers.is_first:
            _warn_of_warm_up(options)
        where, kind = find_device(workers.device(device)), DTYPES[dtype]
        pair.to(where, kind)
        own_module(objective).to(where, kind)
        folder = RunFolder(run_dir, workers) if run_dir is not None else None
        with isolated(options.seed, device=where), products_in("float32"), folder or nullcontext():
            here = train.to(where, kind), validation and validation.to(where, kind)
            trainer = Trainer(pair, objective, *here, options, workers)
            config = describe_fit(pair, objective, train, validation, options, source)
            check_agreement(workers, config)
            config["fit"] |= {"device": str(where), "workers": workers.count}
            if folder is not None:
                _begin(folder, config, trainer, resume=resume, overwrite=overwrite)
            try:
                trainer.run(folder, checkpoint_seconds, progress)
            finally:
                pair.eval()
            config |= trainer.outcome(folder.seconds if folder is not None else 0.0)
            if folder is not None:
                folder.update_config(config)
        pair.load_state_dict(trainer.result())
        pair.eval()
        path = folder.path if folder is not None else None
        return Run(pair, config, trainer.history, path, trainer.timing, workers.is_first)


def _as_objective(objective: Any) -> pyro.infer.ELBO:
    """Return the objective, `ELBO()` for None; raise if it is none."""
    if objective is not None and not isinstance(objective, pyro.infer.ELBO):
        raise InputError(
            "objective", expected="a pyro.infer.ELBO", got=shown(objective, 60), hint="ppl_vae.objectives.ELBO()"
        )
    return ELBO() if objective is None else objective


def _splits(data: Dataset | Split | Batch, options: Options) -> tuple[Split, Split | None]:
    """Return what to train on and, of a `Dataset`, what to validate by; early stopping needs the latter."""
    train, validation = (data.train, data.validation) if isinstance(data, Dataset) else (datasets.as_split(data), None)
    if options.patience is not None and validation is None:
        raise InputError(
            "patience", expected="data with a validation split", got="none", hint="a Dataset, or patience=None"
        )
    return train, validation


def _begin(folder: RunFolder, config: dict[str, Any], trainer: Trainer, *, resume: bool, overwrite: bool) -> None:
    """Start a run in `folder`, or continue from its checkpoint."""
    pair = trainer.pair
    state = folder.start(config, environment(pair.device), pair, resume=resume, overwrite=overwrite)
    if state is None:
        return
    folder.restore(state, lambda state: trainer.restore(upgraded_checkpoint(state, pair)))
    if trainer.epoch > trainer.options.epochs:
        done = f"at least the {trainer.epoch} that are done"
        raise InputError("epochs", expected=done, got=str(trainer.options.epochs))
    folder.update_config(config)


def _warn_of_warm_up(options: Options) -> None:
    """Warn if the weight of the KL rises for longer than the fit lasts."""
    rising = getattr(options.kl_rule(), "epochs", 0)  # of a warm-up, or of a growing capacity
    if rising > options.epochs:
        lengths = f"the KL is let in over {rising:g} epochs, and the fit ends after {options.epochs}"
        warnings.warn(f"{lengths}: it never has its full weight", stacklevel=3)
