"""The report on any fitted run: what was fitted, how it went, what it is worth, and what it looks like.

It takes any pair that meets the contract, a user's own included.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppl_vae import plots
from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import InputError
from ppl_vae.core.process import isolated
from ppl_vae.core.types import Batch
from ppl_vae.data import Dataset, Split, as_split
from ppl_vae.evaluation.annealing.gap import annealed_gap
from ppl_vae.evaluation.marginal_likelihood import log_likelihood
from ppl_vae.evaluation.result import LogLikelihood
from ppl_vae.plots.latents import METHODS
from ppl_vae.report import gallery
from ppl_vae.report.classes import classes
from ppl_vae.report.gallery import Subject, part
from ppl_vae.report.page import Report
from ppl_vae.training.run_folder.run import Run

BINARIZATION = {
    "none": "none: x as it is",
    "fixed": "fixed: one seeded draw, for good",
    "dynamic": "dynamic: fresh draws in training, one seeded draw here",
}


def run_report(
    run: Run,
    data: Dataset | Split | Batch | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str = "",
    progress: bool | None = None,
    **options: Any,
) -> Path:
    """Write the report on a run as one HTML file, and its figures beside it.

    Parameters
    ----------
    run : Run
        From `fit` or `load`.
    data : Dataset, Split or mapping of str to Tensor, optional
        What to evaluate on; a `Dataset` stands for its test split. Without it, what needs data is left out.
    path : path, optional
        Where to; by default ``report.html`` in the run's folder.
    title : str
        Head of the report; by default the model and the data.
    progress : bool, optional
        Whether to show progress bars; by default on a terminal.
    **options
        Those of `add_run`.

    Raises
    ------
    InputError
        If there is neither a path nor a run folder, or the data do not suit the pair.
    RunError
        If the folder cannot be written to or the disk is full.
    """
    if path is None and run.directory is None:
        raise InputError("path", expected="where to write the report", got="a run without a folder", hint="path=…")
    target = Path(path) if path is not None else Path(run.directory or ".") / "report.html"
    seeds = f"fit {run.config['fit']['seed']}, report {options.get('seed', 0)}"
    report = Report(
        title or f"{_model(run)} on {run.config['data']['name']}",
        "Bounds and likelihoods are in nats per datum; higher is better.",
        environment={**run.environment, "seeds": seeds, "run folder": run.directory or "none"},
    )
    add_run(report, run, data, progress=progress, **options)
    return report.write(target, progress=progress)


def add_run(
    report: Report,
    run: Run,
    data: Dataset | Split | Batch | None = None,
    *,
    name: str = "",
    estimates: Sequence[LogLikelihood] | None = None,
    num_particles: int = 1000,
    most: int = 1000,
    embedding: str = "pca",
    reference: float | None = None,
    reference_label: str = "closed-form maximum",
    seed: int = 0,
    progress: bool | None = None,
) -> None:
    """Add the sections on a run to a report, which may hold others.

    Parameters
    ----------
    report : Report
        Where to.
    run, data
        As for `run_report`.
    name : str
        Put before each section's head and each figure's name, to distinguish runs in one report.
    estimates : sequence of LogLikelihood, optional
        Estimates of log p(x) to show. By default they are made here: ``exact`` where the model knows it, and
        ``importance`` with `num_particles`, on at most `most` data. Those recorded with the run are listed in any case.
    embedding : {"pca", "tsne"}
        How latents of more than two dimensions come to the plane.
    reference : float, optional
        A value to hold the training curve against (nats per datum), called `reference_label`.
    seed : int
        Seed of everything drawn here; the process's own random state is left alone.
    """
    one_of("embedding", embedding, METHODS)
    split = data.test if isinstance(data, Dataset) else None if data is None else as_split(data)
    if estimates is None and split is not None:
        estimates = _estimate(run, split, num_particles, most, seed, progress)
    with isolated(seed, device=run.pair.device):
        subject = Subject.of(run, split, name, most=most, seed=seed)
        _summary(report, subject, list(estimates or ()))
        _training(report, subject, reference, reference_label)
        _likelihoods(report, subject, list(estimates or ()))
        _annealed(report, subject, split, list(estimates or ()), most, seed)
        if subject.shares_latents:
            report.text("Samples and latents are left out: this pair has latents shared by all data.")
            return
        if subject.has_prior:
            gallery.samples(report, subject)
        gallery.reconstructions(report, subject)
        classes(report, subject)
        if subject.has_prior:
            gallery.walks(report, subject)
        gallery.embeddings(report, subject, embedding)


def _estimate(
    run: Run, split: Split, num_particles: int, most: int, seed: int, progress: bool | None
) -> list[LogLikelihood]:
    """Return the estimates that the pair allows."""
    few = _few(split, most, seed)
    contract = run.pair.check(few.to(run.pair.device, run.pair.dtype))
    if contract.shares_latents or contract.without_prior:
        return []
    methods = ["exact"] if hasattr(run.pair.model, "log_marginal") else []
    methods.append("prior" if contract.delta_latents else "importance")
    return [
        log_likelihood(run.pair, few, method=method, num_particles=num_particles, seed=seed, progress=progress)
        for method in methods
    ]


def _summary(report: Report, s: Subject, estimates: Sequence[LogLikelihood]) -> None:
    run, config = s.run, s.run.config
    data, settings, history = config["data"], config["fit"], run.history
    spec = data["spec"]
    report.text(s.head("Summary"))
    if not s.has_prior:
        report.text(
            "**There is no log p(x)**, and samples and walks along the latents are left out: the model masks the prior "
            "of a latent, as an autoencoder does, and so is no probabilistic model of the data."
        )
    for estimate in estimates:
        report.text(f"{estimate}.")
    epochs = len(next(iter(history.values()), []))
    seconds = sum(run.timing.get("seconds", []))
    rows = [
        ("model", _model(run)),
        ("guide", config["pair"]["guide"]["name"]),
        ("parameters", f"{sum(parameter.numel() for parameter in run.pair.parameters()):,}"),
        ("objective", f"{config['objective']['name']}, particles: {config['objective']['num_particles']}"),
        ("data", f"{data['name']}: " + ", ".join(f"{count:,} {role}" for role, count in data["size"].items())),
        ("shape of x", str(tuple(spec["x_shape"]))),
        ("binarisation", BINARIZATION[spec["binarization"]]),
        ("epochs", f"{epochs:,} of {settings['epochs']:,}" + (f", in {seconds:.1f} s" if seconds else "")),
        ("batch size", f"{settings['batch_size']:,}"),
        ("learning rate", f"{settings['lr']:g} ({settings['optimizer']}, {settings['schedule']})"),
        ("weight of the KL", _kl_weight(settings, history)),
        ("seed", str(settings["seed"])),
        ("device", f"{settings['device']}, {settings['dtype']}"),
    ]
    for column in ("train_bound", "validation_bound", "validation_distortion", "validation_rate"):
        if history.get(column):
            value = f"{history[column][-1]:.3f}".replace("-", "−")
            rows.append((f"last {column.replace('_', ' ')}", f"{value} nats per datum"))
    if kept := config.get("kept"):
        bound = f"{kept['bound']:.3f}".replace("-", "−")
        rows.append(("parameters kept", f"epoch {kept['epoch']:,}'s, with validation bound {bound}"))
    report.table(("what", "value"), rows, "What was fitted, to what, and how.")
    if s.split is not None:
        shown = s.split.spec
        report.text(
            f"What follows is shown on {s.split.size:,} data of `{shown.name}`, {s.split.role} split "
            f"(binarisation {BINARIZATION[shown.binarization]})."
        )
        if (shown.name, shown.binarization) != (data["name"], spec["binarization"]):
            report.text(f"**It was fitted to other data**: {data['name']}, binarisation {spec['binarization']}.")


def _training(report: Report, s: Subject, reference: float | None, label: str) -> None:
    report.text(s.head("Training"))
    with part(report, "the training curve"):
        figure = plots.history(s.run.history, reference=reference, reference_label=label)
        what = "The bound on log p(x)" if s.has_prior else "log p(x | z), which is no bound on a log p(x),"
        caption = (
            f"{what} over the epochs. It should rise and level off: a curve still rising asks for more epochs, a "
            "validation curve that falls while the other rises means overfitting."
        )
        if any(weight != 1 for weight in s.run.history.get("kl_weight", [])):
            caption += " Where the KL weight is below 1 the training curve is of the weighted bound, and lies too high."
        if "kl_capacity" in s.run.history:
            caption += (
                " The KL is held at a capacity: the training curve is of what is maximised, which pays for each nat "
                "that the KL is away from it, and is no bound."
            )
        if reference is not None:
            caption += f" The {label} is {reference:.3f} on the data of the training curve."
        report.figure(figure, caption, s.figure_name("history"))


def _likelihoods(report: Report, s: Subject, estimates: list[LogLikelihood]) -> None:
    results = [estimate.to_json() for estimate in estimates]
    results += [recorded for recorded in s.run.evaluation if _key(recorded) not in map(_key, results)]
    if not results:
        return
    report.text(s.head("Log-likelihood"))
    columns: dict[str, list[Any]] = {
        "method": [result["method"] for result in results],
        "K": [result["num_particles"] or None for result in results],
        "log p(x)": [result["mean"] for result in results],
        "± MC": [result["standard_error"] for result in results],
        "± data": [result["data_standard_error"] for result in results],
    }
    about = [result["data"] for result in results]
    caption = (
        "log p(x) in nats per datum, with its standard error for these very data (± MC, Monte Carlo), and that from "
        "drawing other data (± data)."
    )
    if len({data["digest"] for data in about}) == 1:
        (data, *_) = about
        caption += f" All on {data['name']}, {data['role']} split, N = {data['size']:,}, "
        caption += f"binarisation {BINARIZATION[data['binarization']]}."
        caption += f" {data['units'].capitalize()}." if data.get("units") else ""
    else:
        caption += " **The rows are about different data**, by their digest, and are not comparable."
        columns["data"] = [f"{data['name']}, {data['role']}" for data in about]
        columns["N"] = [data["size"] for data in about]
        columns["binarisation"] = [data["binarization"] for data in about]
        columns["digest"] = [data["digest"] for data in about]
    report.table(list(columns), list(zip(*columns.values(), strict=True)), caption)
    for result in results:
        if result["caution"]:
            report.text(f"**Caution** ({result['method']}, K = {result['num_particles']}): {result['caution']}.")
    if not estimates:
        return
    first = estimates[0]
    report.figure(
        plots.log_likelihood(first.values),
        f"log p(x) of each datum ({first.method}). A long tail to the left is data that the model finds unlikely.",
        s.figure_name("log-likelihood"),
    )
    for number, estimate in enumerate(estimates):
        before = sum(other.method == estimate.method for other in estimates[:number])
        suffix = (estimate.method, str(before + 1)) if before else (estimate.method,)
        if number and first.method == "exact" and estimate.data["digest"] == first.data["digest"]:
            caption = (
                f"The {estimate.method} estimate (K = {estimate.num_particles:,}) against the exact value. Points "
                "belong on the dashed line. In the lower panel the estimator's bias shows as a cloud below zero, its "
                "Monte Carlo error as the cloud's height."
            )
            figure = plots.estimate_comparison(first.values, estimate.values)
            report.figure(figure, caption, s.figure_name("estimate", *suffix))
        if estimate.method != "exact":
            caption = (
                f"Pareto k of each datum's {estimate.method} weights. Up to 0.5 the error bar holds; above 0.7 the "
                "estimate is not to be trusted. The median effective sample size is "
                f"{float(estimate.effective_sample_size.median()):.1f} of {estimate.num_particles:,}."
            )
            report.figure(plots.pareto_k(estimate.pareto_k), caption, s.figure_name("pareto-k", *suffix))


def _annealed(
    report: Report, s: Subject, split: Split | None, estimates: list[LogLikelihood], most: int, seed: int
) -> None:
    """Say how far annealing lies above an importance estimate on these data, where nothing exact stands beside it."""
    by_importance = [estimate for estimate in estimates if estimate.method == "importance"]
    if split is None or not by_importance or any(estimate.method == "exact" for estimate in estimates):
        return
    estimate = by_importance[-1]
    for data in (split, _few(split, most, seed)):  # in the order of the estimate's values
        if data.digest == estimate.data["digest"]:
            report.text(annealed_gap(s.run.pair, dict(data), estimate, seed=seed))
            return


def _few(split: Split, most: int, seed: int) -> Split:
    """Return at most so many rows, which are estimated on."""
    return split.take(most, seed) if split.size > most else split


def _key(result: Mapping[str, Any]) -> tuple[Any, ...]:
    return result["method"], result["num_particles"], result["seed"], result["data"]["digest"]


def _kl_weight(settings: Mapping[str, Any], history: Mapping[str, Sequence[float]]) -> str:
    """Return the weight of the KL in words: a number, or a rule with the last value of what it moves."""
    rule, warm_up = settings["kl_weight"], settings["kl_warmup"]
    if isinstance(rule, int | float):
        return f"{rule:g}" + (f", risen from 0 over {warm_up:g} epochs" if warm_up else "")
    last = "".join(
        f"; {words} {history[column][-1]:.4g} at last"
        for column, words in (("kl_weight", "weight"), ("kl_capacity", "capacity"))
        if history.get(column)
    )
    if isinstance(rule, str):  # a rule of the user's own that has no plain description
        return rule + last
    options = ", ".join(f"{name}={value!r}" for name, value in sorted(rule["arguments"].items()))
    return f"{rule['class'].rpartition('.')[2]}({options}){last}"


def _model(run: Run) -> str:
    return str(run.config["pair"]["model"]["name"])
