"""``fit``: a pair by name, to data by name or from a file, into a run folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ppl_vae.cli import parse
from ppl_vae.cli.app import again, app, interruptible, say

if TYPE_CHECKING:
    from ppl_vae.data import Dataset
    from ppl_vae.training.run_folder.run import Run


@app.command("fit", epilog="Example:  ppl-vae fit vae --data digits --patience 20 --run-dir runs/vae")
def fit_command(
    pair: Annotated[str, typer.Argument(metavar="PAIR", help="Model and guide; see ppl-vae list.", show_default=False)],
    data: Annotated[
        str, typer.Option(metavar="NAME_OR_PATH", help="A data set, or a .npz, .npy or .csv file.")
    ] = "digits",
    run_dir: Annotated[Path | None, typer.Option(help="Folder to write to.", show_default="runs/PAIR-DATA")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's last checkpoint.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run that the folder holds, and start anew.")
    ] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the data.", rich_help_panel="Training")] = 100,
    batch_size: Annotated[int, typer.Option(help="Data per step.", rich_help_panel="Training")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel="Training")] = 1e-3,
    optimizer: Annotated[str, typer.Option(help="Optimiser of torch.optim.", rich_help_panel="Training")] = "adam",
    schedule: Annotated[
        str,
        typer.Option(help="Of the learning rate: constant, linear, cosine or exponential.", rich_help_panel="Training"),
    ] = "constant",
    clip_norm: Annotated[
        float | None, typer.Option(help="Largest norm of the gradient.", show_default=False, rich_help_panel="Training")
    ] = None,
    kl_weight: Annotated[
        str,
        typer.Option(
            metavar="NUMBER|RULE",
            help="Weight of the KL: a number, or capacity, constrained, cyclical, normalised or warmup.",
            rich_help_panel="Training",
        ),
    ] = "1",
    kl_weight_option: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE", help="Of that rule, such as delta=20.", show_default=False, rich_help_panel="Training"
        ),
    ] = [],  # noqa: B006 (typer copies it)
    kl_warmup: Annotated[
        float, typer.Option(help="Epochs over which the KL's weight rises from 0.", rich_help_panel="Training")
    ] = 0,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many epochs without a better validation bound, and keep the best.",
            show_default="no early stopping",
            rich_help_panel="Training",
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="What SVI maximises; see ppl-vae list.", rich_help_panel="Training")
    ] = "elbo",
    objective_option: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE", help="Such as num_particles=5.", show_default=False, rich_help_panel="Training"
        ),
    ] = [],  # noqa: B006 (typer copies it)
    seed: Annotated[
        int, typer.Option(help="Seed of the initial parameters, batches and noise.", rich_help_panel="Training")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.", rich_help_panel="Training")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or float64.", rich_help_panel="Training")] = "float32",
    compile: Annotated[
        str, typer.Option(help="auto, off, graph or inductor: whether steps are recorded.", rich_help_panel="Training")
    ] = "auto",
    checkpoint_seconds: Annotated[
        float, typer.Option(help="Least time between two checkpoints.", rich_help_panel="Training")
    ] = 10.0,
    latent_dim: Annotated[
        int | None, typer.Option(help="Number of latents, L.", show_default="the pair's", rich_help_panel="Pair")
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(metavar="200,200", help="Hidden layers.", show_default="the pair's", rich_help_panel="Pair"),
    ] = None,
    likelihood: Annotated[
        str | None, typer.Option(help="p(x|z); see ppl-vae list.", show_default="by the data", rich_help_panel="Pair")
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(metavar="mlp|conv", help="Kind of networks.", show_default="mlp", rich_help_panel="Pair"),
    ] = None,
    covariance: Annotated[
        str | None,
        typer.Option(
            metavar="diagonal|isotropic|full", help="Of the guide.", show_default="diagonal", rich_help_panel="Pair"
        ),
    ] = None,
    pair_option: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE", help="Any other option of the pair.", show_default=False, rich_help_panel="Pair"
        ),
    ] = [],  # noqa: B006
    binarization: Annotated[
        str | None,
        typer.Option(
            metavar="none|fixed|dynamic",
            help="How grey values become binary.",
            show_default="none for PPCA and factor analysis, else the data set's",
            rich_help_panel="Data",
        ),
    ] = None,
    data_seed: Annotated[
        int, typer.Option(help="Seed of the split and of fixed binarisation.", rich_help_panel="Data")
    ] = 0,
    labels: Annotated[
        int | None,
        typer.Option(
            help="Labels of the training data to show, for m2 and m1m2.", show_default="all", rich_help_panel="Data"
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="How often each datum with such a label stands there.", rich_help_panel="Data")
    ] = 1,
    standardise: Annotated[
        bool,
        typer.Option(
            "--standardise",
            help="Bring each column of a file of real numbers to mean 0 and standard deviation 1.",
            rich_help_panel="Data",
        ),
    ] = False,
    data_option: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE",
            help="Such as num_rows=2000, image_shape=1,28,28, channels=last or support=count.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = [],  # noqa: B006
) -> None:
    """Fit a pair by stochastic variational inference, into a run folder.

    Ctrl-C stops it without loss. The same command with --resume goes on, to the same numbers as if it had never
    stopped. Several processes share the work under torchrun: torchrun --nproc-per-node 2 -m ppl_vae fit …
    """
    folder = run_dir or Path("runs") / f"{pair}-{Path(data).stem}"
    with interruptible(lambda: _kept(folder)):
        from ppl_vae import zoo

        zoo.options(pair)  # an unknown pair is said before its data are fetched
        given = {
            "latent_dim": latent_dim,
            "hidden": parse.numbers("--hidden", hidden),
            "likelihood": likelihood,
            "architecture": architecture,
            "covariance": covariance,
        }
        options = {name: value for name, value in given.items() if value is not None}
        options |= parse.settings("--pair-option", pair_option)
        of_data = parse.settings("--data-option", data_option) | ({"standardise": True} if standardise else {})
        chosen = parse.objective(objective, parse.settings("--objective-option", objective_option))
        weight = parse.kl_weight(kl_weight, parse.settings("--kl-weight-option", kl_weight_option))

        from ppl_vae.cli.source import Source
        from ppl_vae.training.distributed.workers import is_first
        from ppl_vae.training.fit import fit

        source = Source(pair, data, options, binarization, data_seed, of_data, labels, repeats)
        dataset = source.load_data()
        built = source.build_pair(dataset.spec, seed)
        if is_first():
            _announce(pair, dataset, folder, chose=binarization is None)
            if dataset.spec.units:
                say(dataset.spec.units)
        run = fit(
            built,
            dataset,
            objective=chosen,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            optimizer=optimizer,
            schedule=schedule,
            clip_norm=clip_norm,
            kl_weight=weight,
            kl_warmup=kl_warmup,
            patience=patience,
            seed=seed,
            device=device,
            dtype=dtype,
            compile=compile,
            run_dir=folder,
            resume=resume,
            overwrite=overwrite,
            checkpoint_seconds=checkpoint_seconds,
            source=source.to_json() | {"binarization": dataset.spec.binarization},
        )
    if run.writes:
        _result(run, folder)


def _announce(pair: str, dataset: Dataset, folder: Path, *, chose: bool) -> None:
    sizes = ", ".join(f"{split.size:,} {role}" for role, split in dataset.splits.items())
    how = f"binarization {dataset.spec.binarization}" + (" (chosen for it; see --binarization)" if chose else "")
    say(f"{pair} on {dataset.name}: {sizes}; {how}; run folder {folder}")


def _result(run: Run, folder: Path) -> None:
    name = "validation_bound" if "validation_bound" in run.history else "train_bound"
    bounds = run.history[name]
    epoch = max(range(len(bounds)), key=bounds.__getitem__) if run.config["fit"]["patience"] else len(bounds) - 1
    seconds = sum(run.timing["seconds"])
    say(f"{name.replace('_', ' ')} {bounds[epoch]:.3f} nats per datum after epoch {epoch + 1}; {seconds:.1f} s in all")
    say(f"next: ppl-vae evaluate {shlex.quote(str(folder))}")


def _kept(folder: Path) -> str:
    """Return what a stopped fit has left, and how to go on."""
    from ppl_vae.core import files
    from ppl_vae.training.run_folder.files import columns_from_csv

    path = folder / "history.csv"
    epochs = len(columns_from_csv(files.read_bytes(path).decode()).get("epoch", [])) if path.exists() else 0
    if not epochs:
        return f"nothing was fitted yet; start again with: {again()}"
    return f"{epochs} epochs are kept in {folder}; go on with: {again('--resume')}"
