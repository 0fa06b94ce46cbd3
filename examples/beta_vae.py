"""beta-VAE: reconstruction against disentanglement over beta, on sprites or real dSprites, over several seeds.

    maximise  E_q(z|x)[log p(x|z)] - beta KL(q(z|x) || p(z))

(Higgins et al. 2017, eq. 4). MIG is the mutual information gap (Chen et al. 2018), and accuracy the beta-VAE metric.
Distortion, -E[log p(x|z)], and rate, the KL, are of the test data, in nats per datum. Draws the trade-off, and latent
traversals of the first seed's pairs: each row changes one coordinate of the code of one image.

    python examples/beta_vae.py --quick
    python examples/beta_vae.py --data dsprites --betas 1 4 8
    python examples/beta_vae.py --data mnist --delta 20        # KL <= 20 nats, by a learned multiplier
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import ppl_vae
from ppl_vae import plots
from ppl_vae.data import Dataset
from ppl_vae.evaluation.disentanglement import factor_accuracy, mutual_information_gap
from ppl_vae.kl_weights import Constrained

Row = dict[str, float]
STEPS = torch.arange(-3.0, 4.0) * (2 / 3)  # of a coordinate, in standard deviations of the prior


def build(data: Dataset, options: argparse.Namespace, seed: int = 0) -> ppl_vae.Pair:
    """Return a fresh VAE."""
    networks = {"hidden": (256, 256), "activation": "relu"}
    return ppl_vae.zoo.build("vae", data.spec, latent_dim=options.latent_dim, seed=seed, **networks)


def fit_one(data: Dataset, beta: float, seed: int, options: argparse.Namespace) -> tuple[ppl_vae.Pair, Row]:
    """Fit one pair and return it with what was measured."""
    pair = build(data, options, seed)
    ppl_vae.fit(pair, data.train, kl_weight=beta, epochs=options.epochs, batch_size=128, lr=2e-3, seed=seed)
    seen = data.train.take(min(data.train.size, options.rows))
    gap = mutual_information_gap(pair, seen, num_draws=options.draws, seed=seed)
    accuracy, _ = factor_accuracy(pair, seen, seed=seed)
    return pair, {"MIG": gap.value, "shuffled": gap.floor, "accuracy": accuracy} | measure(pair, data.test)


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


def table(rows: dict[float, list[Row]]) -> str:
    """Return the table that is printed: mean and standard error over seeds."""
    names = ("MIG", "shuffled", "accuracy", "distortion", "rate")
    lines = ["| beta | " + " | ".join(names) + " |", "|" + " --- |" * (1 + len(names))]
    for beta, found in rows.items():
        cells = [
            "{:.{d}f} ± {:.{d}f}".format(*mean_and_error([r[n] for r in found]), d=2 if n in names[3:] else 3)
            for n in names
        ]
        lines.append(f"| {beta:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: dict[float, list[Row]], name: str) -> Figure:
    """Draw both measures of disentanglement against distortion, a point per seed and a colour per beta."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for ax, measure in zip(figure.subplots(1, 2), ("MIG", "accuracy"), strict=True):
        for beta, found in rows.items():
            x, y = ([row[column] for row in found] for column in ("distortion", measure))
            ax.plot(x, y, "o", label=f"beta {beta:g}")
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


def measure(pair: ppl_vae.Pair, split: ppl_vae.data.Split) -> Row:
    """Return distortion and rate, in nats per datum."""
    with torch.no_grad():
        halves = ppl_vae.objectives.ELBO().halves(*pair.programs(), **pair.arguments(split))
    return {name: float(value) / split.size for name, value in halves.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Fit over betas and seeds, print the table, save the figures."""
    parser = argparse.ArgumentParser(description="Reconstruction against disentanglement over beta.")
    parser.add_argument("--data", default="sprites", choices=("sprites", "dsprites", "mnist"))
    parser.add_argument("--delta", type=float, help="hold the KL to so many nats per datum instead, and say if it is")
    parser.add_argument("--betas", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--size", type=int, default=32, help="of sprites, in pixels")
    parser.add_argument("--images", type=int, default=10_000, help="images in all, 80 %% of them to train on")
    parser.add_argument("--latent-dim", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("beta_vae.png"), help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="short fits, for a look or a test")
    options = parser.parse_args(argv)
    options.rows, options.draws = 3000, 300
    if options.quick:
        options.betas, options.seeds, options.epochs, options.images = [1.0, 4.0], 2, 2, 1000
        options.rows, options.draws = 500, 100

    started = time.perf_counter()
    sprites = {"num_rows": options.images, "size": options.size}
    more: dict[str, Any] = {"sprites": sprites, "dsprites": {"num_rows": options.images}}.get(options.data, {})
    data = ppl_vae.data.load(options.data, **more)
    if options.delta is not None:
        constrained(data, options)
        return
    assert data.spec.image_shape is not None
    rows: dict[float, list[Row]] = {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for beta in options.betas:
        for seed in range(options.seeds):
            pair, row = fit_one(data, beta, seed, options)
            rows.setdefault(beta, []).append(row)
            if seed == 0:
                walk = plots.latent_walk(
                    traversals(pair, data.test["x"][0]), data.spec.image_shape, values=STEPS.tolist()
                )
                walk.savefig(options.out.with_stem(f"{options.out.stem}-beta-{beta:g}"), dpi=120)
    print(table(rows))
    seconds = time.perf_counter() - started
    print(f"distortion and rate in nats per datum of the test data; ± standard errors over {options.seeds} seeds")
    size = f"D = {data.spec.x_dim}, {data.train.size:,} to train on"
    print(f"{options.data}, {size}, {options.epochs} epochs, {seconds:.0f} s")
    draw(rows, options.data).savefig(options.out, dpi=120)
    print(f"figures: {options.out} and {options.out.stem}-beta-*.png")


if __name__ == "__main__":
    main()
