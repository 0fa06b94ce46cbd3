"""beta-VAE: reconstruction against disentanglement over beta, on sprites or real dSprites, over several seeds.

    maximise  E_q(z|x)[log p(x|z)] - beta KL(q(z|x) || p(z))

(Higgins et al. 2017, eq. 4). MIG is the mutual information gap (Chen et al. 2018), and accuracy the beta-VAE metric.
Distortion, -E[log p(x|z)], and rate, the KL, are of the test data, in nats per datum. Draws the trade-off, and latent
traversals of the first seed's pairs: each row changes one coordinate of the code of one image.

Betas share a seed's initial parameters, batches and noise, so a second table holds differences paired by seed.

    python examples/beta_vae.py --quick
    python examples/beta_vae.py --data dsprites --betas 1 4 8 --compile inductor
    python examples/beta_vae.py --data mnist --delta 20        # KL <= 20 nats, by a learned multiplier
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import scipy.stats
import torch
from matplotlib.figure import Figure
from torch import Tensor

import ppl_vae
from ppl_vae import plots
from ppl_vae.data import Dataset
from ppl_vae.evaluation import factor_accuracy, mutual_information_gap
from ppl_vae.kl_weights import Constrained
from ppl_vae.report import RECORD, recorded

Row = dict[str, float]
MEASURES = ("MIG", "shuffled", "accuracy", "distortion", "rate")
STEPS = torch.arange(-3.0, 4.0) * (2 / 3)  # of a coordinate, in standard deviations of the prior


def build(data: Dataset, options: argparse.Namespace, seed: int = 0) -> ppl_vae.Pair:
    """Return a fresh VAE."""
    networks = {"hidden": options.hidden, "activation": "relu"}
    return ppl_vae.zoo.build("vae", data.spec, latent_dim=options.latent_dim, seed=seed, **networks)


def fit_one(data: Dataset, beta: float, seed: int, options: argparse.Namespace) -> tuple[ppl_vae.Pair, Row]:
    """Fit one pair and return it with what was measured."""
    pair = build(data, options, seed)
    how: dict[str, Any] = {"epochs": options.epochs, "batch_size": options.batch_size, "lr": 2e-3}
    folder = options.runs and options.runs / f"{options.data}-beta-{beta:g}-seed-{seed}"
    how |= {"compile": options.compile, "run_dir": folder, "resume": folder is not None}
    run = ppl_vae.fit(pair, data.train, kl_weight=beta, seed=seed, **how)
    pair.cpu()  # where the data are
    seen = data.train.take(min(data.train.size, options.rows))
    gap = mutual_information_gap(pair, seen, num_draws=options.draws, seed=seed)
    accuracy, _ = factor_accuracy(pair, seen, num_points=options.points, seed=seed)
    found = {"MIG": gap.value, "shuffled": gap.floor, "accuracy": accuracy, **measure(pair, data.test)}
    return pair, found | {"seconds": sum(run.timing["seconds"])}


def traversals(pair: ppl_vae.Pair, x: Tensor) -> Tensor:
    """Return images (L, steps, D): the code of one x, with each coordinate in turn set to `STEPS`."""
    with torch.no_grad():
        z = pair.posterior_mean({"x": x[None]})["z"]
        codes = z.repeat(z.shape[1], len(STEPS), 1)
        for j in range(z.shape[1]):
            codes[j, :, j] = STEPS
        return pair.decode({"z": codes.flatten(0, 1)})["x"].unflatten(0, codes.shape[:2])


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and its standard error."""
    v = torch.tensor(values, dtype=torch.float64)
    return float(v.mean()), float(v.std() / math.sqrt(len(v))) if len(v) > 1 else math.nan


def cells(found: dict[str, list[float]]) -> list[str]:
    """Return the mean of each measure over seeds, with its standard error if there are several, as text."""
    signs = {"distortion": ".2f", "rate": ".2f"}
    shown = ((mean_and_error(values)[: len(values)], signs.get(name, ".3f")) for name, values in found.items())
    return [" ± ".join(f"{value:{sign}}" for value in estimate) for estimate, sign in shown]


def columns(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Return what was measured, a list over seeds for each measure."""
    return {name: [row[name] for row in rows] for name in MEASURES}


def table(rows: dict[float, list[Row]]) -> str:
    """Return the table that is printed: mean and standard error over seeds."""
    lines = ["| beta | " + " | ".join(MEASURES) + " |", "|" + " --- |" * (1 + len(MEASURES))]
    lines += [f"| {beta:g} | " + " | ".join(cells(columns(found))) + " |" for beta, found in rows.items()]
    return "\n".join(lines)


def differences(rows: dict[float, list[Row]]) -> str:
    """Return the table of differences from the first beta, paired by seed, each with the p-value of Student's t."""
    (first, *others), names = rows, [name for name in MEASURES if name != "shuffled"]
    lines = [f"| beta minus {first:g} | " + " | ".join(names) + " |", "|" + " --- |" * (1 + len(names))]
    for beta in others:
        one, two = columns(rows[first]), columns(rows[beta])
        apart = {name: [b - a for a, b in zip(one[name], two[name], strict=True)] for name in names}
        chance = [float(scipy.stats.ttest_1samp(apart[name], 0.0).pvalue) for name in names]
        shown = [f"{cell} (p = {p:.2g})" for cell, p in zip(cells(apart), chance, strict=True)]
        lines.append(f"| {beta:g} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def draw(rows: dict[float, list[Row]], name: str) -> Figure:
    """Draw both measures of disentanglement against distortion, a point per seed and a colour per beta."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for ax, measure in zip(figure.subplots(1, 2), ("MIG", "accuracy"), strict=True):
        for beta, found in rows.items():
            held = columns(found)
            ax.plot(held["distortion"], held[measure], "o", label=f"beta {beta:g}")
        ax.set(xlabel="distortion, -E[log p(x|z)] (nats per datum)", ylabel=measure)
        ax.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle(f"{name}: disentanglement against reconstruction, a point per seed", fontsize=10)
    return figure


def constrained(data: Dataset, options: argparse.Namespace) -> None:
    """Fit one pair with KL <= delta, and print what came of it."""
    pair = build(data, options)
    rule = Constrained(options.delta)
    run = ppl_vae.fit(pair, data, kl_weight=rule, epochs=options.epochs, lr=1e-3, schedule="exponential")
    print(f"{'':10} {'asked':>8} {'KL':>8} {'off':>8}   nats per datum")
    for role, split in data.splits.items():
        rate = measure(pair, split)["rate"]
        print(f"{role:10} {options.delta:8.2f} {rate:8.3f} {100 * (rate / options.delta - 1):+7.2f}%")
    print(f"multiplier {run.history['kl_weight'][-1]:.4f} after {options.epochs} epochs")


def compare(data: Dataset, options: argparse.Namespace) -> None:
    """Fit over betas and seeds, print the tables, save the figures."""
    assert data.spec.image_shape is not None
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows: dict[float, list[Row]] = {beta: [] for beta in options.betas}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for beta, found in rows.items():
            pair, row = fit_one(data, beta, seed, options)
            found.append(row)
            measures = ", ".join(f"{name} {row[name]:.3f}" for name in MEASURES)
            print(f"seed {seed}, beta {beta:g}: {measures}; fitted in {row['seconds']:.0f} s", flush=True)
            if seed == seeds[0]:
                images = traversals(pair, data.test["x"][0])
                walk = plots.latent_walk(images, data.spec.image_shape, values=STEPS.tolist())
                walk.suptitle(f"{data.spec.name}, beta = {beta:g}, seed {seed}: the code of one image", fontsize=10)
                walk.savefig(options.out.with_stem(f"{options.out.stem}-beta-{beta:g}"), dpi=120)
    size = f"D = {data.spec.x_dim}, {data.train.size:,} to train on, {options.epochs} epochs"
    over = f"mean ± standard error over seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    print(f"\n{options.data}, {size}; {over};")
    print(f"distortion and rate in nats per datum of the test data\n\n{table(rows)}")
    if len(rows) > 1 and len(seeds) > 1:
        print(f"\ndifferences paired by seed, with the p-value of a two-sided t-test\n\n{differences(rows)}")
    draw(rows, options.data).savefig(options.out, dpi=120)
    print(f"\nfigures: {options.out} and {options.out.stem}-beta-*.png")


def measure(pair: ppl_vae.Pair, split: ppl_vae.data.Split) -> Row:
    """Return distortion and rate, in nats per datum."""
    with torch.no_grad(), ppl_vae.isolated(0):
        terms = ppl_vae.objectives.ELBO().distortion_and_rate(*pair.programs(), **pair.arguments(split))
    return {name: float(value) / split.size for name, value in terms.items()}


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Fit over betas and seeds, print the table, save the figures."""
    parser = argparse.ArgumentParser(parents=[RECORD], description="Reconstruction against disentanglement over beta.")
    parser.add_argument("--data", default="sprites", choices=("sprites", "dsprites", "mnist"))
    parser.add_argument("--delta", type=float, help="hold the KL to so many nats per datum instead, and say if it is")
    parser.add_argument("--betas", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--size", type=int, default=32, help="of sprites, in pixels")
    parser.add_argument("--images", type=int, default=10_000, help="images in all, 80 %% of them to train on")
    parser.add_argument("--latent-dim", type=int, default=10)
    parser.add_argument("--rows", type=int, default=3000, help="training images that MIG and accuracy are measured on")
    parser.add_argument("--draws", type=int, default=300, help="of codes, for MIG")
    parser.add_argument("--compile", default="auto", help="auto, off, graph or inductor")
    parser.add_argument("--runs", type=Path, help="folder for the fits, which go on from there; none are kept without")
    parser.add_argument("--out", type=Path, default=Path("beta_vae.png"), help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="short fits, for a look or a test")
    options = parser.parse_args(argv)
    options.points = 2000 if options.quick else 10_000
    if options.quick:
        options.betas, options.seeds, options.epochs, options.images = [1.0, 4.0], 2, 2, 1000
        options.rows, options.draws = 500, 100

    sprites = {"num_rows": options.images, "size": options.size}
    more: dict[str, Any] = {"sprites": sprites, "dsprites": {"num_rows": options.images}}.get(options.data, {})
    data = ppl_vae.data.load(options.data, **more)
    if options.delta is not None:
        constrained(data, options)
        return {"seed": 0, "device": "auto"}
    compare(data, options)
    return {"seed": f"{options.first_seed} to {options.first_seed + options.seeds - 1}", "device": "auto"}


if __name__ == "__main__":
    main()
