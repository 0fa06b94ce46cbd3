"""``evaluate``, ``sample`` and ``report``: what a run folder is good for."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ppl_vae.cli import parse
from ppl_vae.cli.app import again, app, interruptible, say
from ppl_vae.core.errors import InputError, shown, unknown_name

if TYPE_CHECKING:
    from ppl_vae.data import Dataset
    from ppl_vae.evaluation.result import LogLikelihood
    from ppl_vae.training.run_folder.run import Run

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, as written by fit.", show_default=False)]
OtherData = Annotated[
    str | None,
    typer.Option("--data", metavar="NAME_OR_PATH", help="Other data than the fit's.", show_default="the fit's"),
]
Binarization = Annotated[
    str | None,
    typer.Option(metavar="none|fixed|dynamic", help="How grey values become binary.", show_default="the data set's"),
]
DataOption = Annotated[
    list[str],
    typer.Option(
        metavar="KEY=VALUE",
        help="Option of the data, such as num_rows=2000 or image_shape=1,28,28.",
        show_default=False,
    ),
]
Particles = Annotated[int, typer.Option(metavar="K", help="Particles per datum.")]
Verify = Annotated[bool, typer.Option("--verify/--no-verify", help="Hold the run's files against their checksums.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random in this command.")]


@app.command("evaluate", epilog="Example:  ppl-vae evaluate runs/vae --method importance --num-particles 1000")
def evaluate_command(
    run: RunFolder,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="exact|prior|importance|ais",
            help="How log p(x) is found.",
            show_default="exact where the model knows it, else importance",
        ),
    ] = None,
    num_particles: Annotated[
        int | None,
        typer.Option(metavar="K", help="Particles per datum, or chains of ais.", show_default="1000; 16 for ais"),
    ] = None,
    correction: Annotated[
        str, typer.Option(metavar="none|jackknife", help="Take the first order of the logarithm's bias out.")
    ] = "none",
    annealing: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE",
            help="Option of ais, such as num_distributions=1000, start=guide, schedule=linear or leapfrog_steps=10.",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    curve: Annotated[
        bool, typer.Option("--curve", help="Draw the bound against K, into RUN/figures/k-curve.png.")
    ] = False,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    num_data: Annotated[int | None, typer.Option(help="A random so many of them.", show_default="all")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    data: OtherData = None,
    binarization: Binarization = None,
    data_option: DataOption = [],  # noqa: B006
    verify: Verify = True,
) -> None:
    """Estimate log p(x) under a fitted model, in nats per datum, with two error bars.

    One is of the estimate itself (Monte Carlo), the other says what another sample of data would change. The result is
    recorded in the run folder.
    """
    with interruptible(lambda: f"no estimate was recorded in {run}; start again with: {again()}"):
        from ppl_vae.evaluation.marginal_likelihood import log_likelihood

        fitted, dataset, note = _reload(run, data, binarization, data_option, device, verify)
        if split not in dataset.splits:
            raise unknown_name("split", split, map(str, dataset.splits))
        rows = dataset.splits[split]  # type: ignore[index]
        if num_data is not None:
            if not 1 <= num_data <= rows.size:
                expected = f"1 to {rows.size}, the rows of the {split} split"
                raise InputError("--num-data", expected=expected, got=str(num_data))
            rows = rows.take(num_data, seed)
        how = method or ("exact" if hasattr(fitted.pair.model, "log_marginal") else "importance")
        if curve and how not in ("prior", "importance"):
            expected = "method 'prior' or 'importance'"
            raise InputError("--curve", expected=expected, got=shown(how), hint="--method importance")
        result = log_likelihood(
            fitted.pair,
            rows,
            method=how,
            num_particles=num_particles,
            correction=correction,
            annealing=parse.settings("--annealing", annealing) or None,
            seed=seed,
        )
        say(str(result))  # before it is recorded: a full disk must not eat it
        say(note)
        fitted.record(result)
        say(f"recorded in {run / 'evaluation.json'}")
        if curve:
            say(f"bound against K in {_draw_curve(result, run)}")


def _draw_curve(result: LogLikelihood, run: Path) -> Path:
    """Write the picture of the bound against K to the run folder, and return where it is."""
    from ppl_vae import plots
    from ppl_vae.core import files

    assert result.curve is not None
    figure = plots.k_curve(result.curve.num_particles, result.curve.bounds, result.curve.standard_errors)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=160)
    path = files.inside(run, "figures") / "k-curve.png"
    files.write_bytes(path, picture.getvalue())
    return path


@app.command("sample", epilog="Example:  ppl-vae sample runs/vae --n 64 --out samples.png")
def sample_command(
    run: RunFolder,
    n: Annotated[int, typer.Option("--n", help="How many.")] = 64,
    out: Annotated[Path, typer.Option(help="A .png picture, or a .npz with every site of the model.")] = Path(
        "samples.png"
    ),
    mean: Annotated[bool, typer.Option("--mean", help="Picture the mean of x given z, instead of a draw.")] = False,
    label: Annotated[
        list[str],
        typer.Option(
            metavar="N|N-N",
            help="Label that the model is given, or a range of them; several, in turn.",
            show_default="all of them, in turn",
        ),
    ] = [],  # noqa: B006
    seed: Seed = 0,
    verify: Verify = True,
) -> None:
    """Draw new data from a fitted model: z from the prior, then x given z."""
    with interruptible(lambda: f"no samples were written; start again with: {again()}"):
        if n < 1:
            raise InputError("--n", expected="a whole number, 1 or more", got=str(n), hint="--n 64")
        from ppl_vae.cli import sampling
        from ppl_vae.cli.source import load_run

        sampling.write(load_run(run, verify=verify), out, n, mean=mean, labels=label, seed=seed)
    say(f"{n} samples in {out}")


@app.command("report", epilog="Example:  ppl-vae report runs/vae")
def report_command(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="RUN/report.html")] = None,
    num_particles: Particles = 1000,
    embedding: Annotated[str, typer.Option(metavar="pca|tsne", help="How latents come to the plane.")] = "pca",
    seed: Seed = 0,
    device: Device = "auto",
    data: OtherData = None,
    binarization: Binarization = None,
    data_option: DataOption = [],  # noqa: B006
    verify: Verify = True,
) -> None:
    """Write a report on a run: training, log p(x), samples, reconstructions, latents, as one HTML file."""
    with interruptible(lambda: f"no report was written; start again with: {again()}"):
        from ppl_vae.report import run_report

        fitted, dataset, note = _reload(run, data, binarization, data_option, device, verify)
        path = run_report(fitted, dataset, out, num_particles=num_particles, embedding=embedding, seed=seed)
    say(note)
    say(f"report in {path}")


def _reload(
    directory: Path, data: str | None, binarization: str | None, data_option: list[str], device: str, verify: bool
) -> tuple[Run, Dataset, str]:
    """Return a run, its data (or others, where they are named), and a line on whether these are the fit's."""
    from dataclasses import replace

    from ppl_vae.cli.source import Source, as_fitted, differs, load_run
    from ppl_vae.data import Spec
    from ppl_vae.data.own.units import same_columns
    from ppl_vae.training.options import find_device

    run = load_run(directory, verify=verify)
    source = (
        Source.of(run.config, directory) if data is None else Source(run.config.get("source", {}).get("pair", ""), data)
    )
    how = binarization if data is not None else binarization or run.config["data"]["spec"]["binarization"]
    options = {**source.data_options, **parse.settings("--data-option", data_option)}
    dataset = as_fitted(replace(source, binarization=how, data_options=options), run).load_data()
    same_columns(dataset.spec, Spec.from_json(run.config["data"]["spec"]))
    run.pair.to(find_device(device))
    difference = differs(run, dataset.splits)
    note = f"caution: not the data of the fit: {difference}" if difference else "the data are those of the fit"
    return run, dataset, note
