"""Hierarchical VAEs: more layers of latents, and guides that keep the upper ones in use.

    p(x|z1) p(z1|z2) ... p(zL)

- *one* and *two*: one layer (784-200-200-z50) and two (784-200-200-z100-100-100-z50), as in Burda et al. 2016.
- *stacked-L* and *ladder-L*: one model of L layers (latents 64-32-16-8-4, hidden 512-256-128-64-64; Sønderby et al.
  2016) with the guide q(z1|x) q(z2|z1) ..., and with the ladder, which merges what x says of a layer with what the
  model says of it.

All are fitted with what Sønderby et al. found upper layers to need: batch norm, and a KL that warms up. Without these,
and with the tanh of Burda et al.: `--no-batch-norm --warm-up 0 --activation tanh`.

Prints log p(x) with its errors, and how each layer is used; draws what the upper layers hold of a picture: z_L, ...,
z_k from the guide, those below from the model.

    python examples/hierarchical.py
    python examples/hierarchical.py --data mnist --pairs one two --runs runs/layers
    python examples/hierarchical.py --data mnist --pairs ladder-3 stacked-3 ladder-5 stacked-5 --runs runs/layers
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import ppl_vae
from ppl_vae import plots
from ppl_vae.data import Dataset
from ppl_vae.evaluation import layer_table, layer_use, reconstruct_from
from ppl_vae.report import RECORD, recorded

LATENTS, HIDDEN = (64, 32, 16, 8, 4), (512, 256, 128, 64, 64)

#: What is compared with what: (better, worse) by the papers.
COMPARED = (("two", "one"), ("ladder-3", "stacked-3"), ("ladder-5", "stacked-5"))
NAMES = ("one", "two", "stacked-3", "ladder-3", "stacked-5", "ladder-5")


def layers(name: str) -> dict[str, Any]:
    """Return the options of `zoo.build` that tell one pair from another."""
    if name in ("one", "two"):
        latents, hidden = (((50,), ((200, 200),)), ((100, 50), ((200, 200), (100, 100))))[name == "two"]
        return {"latent_dims": latents, "hidden": hidden, "guide": "bottom-up"}
    kind, L = name.split("-")
    guide = "ladder" if kind == "ladder" else "bottom-up"
    hidden = tuple((width, width) for width in HIDDEN[: int(L)])
    return {"latent_dims": LATENTS[: int(L)], "hidden": hidden, "guide": guide}


def fit(name: str, data: Dataset, options: argparse.Namespace) -> ppl_vae.Run:
    """Build a pair and fit it, or go on with the fit in its folder."""
    built = layers(name) | {"hidden": (20,)} if options.quick else layers(name)
    built |= {"activation": options.activation, "batch_norm": options.batch_norm, "init": "glorot"}
    return ppl_vae.fit(
        ppl_vae.zoo.build("hierarchical", data.spec, seed=options.seed, **built),
        data,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        schedule="cosine",
        kl_warmup=round(options.epochs * options.warm_up),
        seed=options.seed,
        compile=options.compile,
        device=options.device,
        run_dir=options.runs and options.runs / name,
        resume=options.runs is not None,
    )


def differences(found: dict[str, ppl_vae.LogLikelihood]) -> list[str]:
    """Return by how much log p(x) differs, on the same data, with the standard error over them and the draws."""
    lines = []
    for better, worse in COMPARED:
        if better in found and worse in found:
            gain = found[better].values - found[worse].values
            lines.append(
                f"{better} minus {worse}: {float(gain.mean()):+.3f} ± {float(gain.std() / len(gain) ** 0.5):.3f}"
            )
    return lines


def upper_layers(pair: ppl_vae.Pair, x: Tensor, seed: int) -> Tensor:
    """Return pictures (B, 1 + L, D): x, then E[x|z] with all layers from the guide, with all but z1, ..., with zL."""
    sites = [f"z{k}" for k in range(1, len(pair.model.latent_dims) + 1)]
    with ppl_vae.isolated(seed):
        rebuilt = [reconstruct_from(pair, {"x": x}, sites[k:])["x"] for k in range(len(sites))]
    return torch.stack([x, *rebuilt], 1)


def draw(pairs: dict[str, ppl_vae.Pair], data: Dataset, seed: int) -> Figure:
    """Draw what the upper layers hold, for the pairs of the most layers."""
    most = max(len(pair.model.latent_dims) for pair in pairs.values())
    deepest = {name: pair for name, pair in pairs.items() if len(pair.model.latent_dims) == most}
    rows = torch.arange(5)
    if "y" in data.test:  # different ones
        rows = torch.stack([(data.test["y"] == label).nonzero()[0, 0] for label in (2, 3, 4, 5, 8)])
    x, shape = data.test["x"][rows], data.spec.image_shape
    assert shape is not None
    return plots.latent_walk(
        torch.cat([upper_layers(pair.cpu(), x, seed) for pair in deepest.values()]),
        shape,
        values=["x", "all", *(f"z{k}" + ("" if k == most else f" to z{most}") for k in range(2, most + 1))],
        value_name="layers drawn by the guide; those below are drawn by the model",
        row_labels=[name for name in deepest for _ in rows],
        limits=(0.0, 1.0),
    )


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Fit the pairs, print the table and save the figure."""
    parser = argparse.ArgumentParser(parents=[RECORD], description="Hierarchical VAEs of one to five layers.")
    parser.add_argument("--data", default="digits", help="a data set of images, such as digits or mnist")
    parser.add_argument("--pairs", nargs="+", choices=NAMES, default=["one", "two", "stacked-3", "ladder-3"])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warm-up", type=float, default=0.5, help="share of the fit in which the KL's weight rises")
    parser.add_argument("--activation", default="leaky_relu")
    parser.add_argument("--batch-norm", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--num-particles", type=int, default=500, help="of the estimate of log p(x)")
    parser.add_argument("--num-test", type=int, default=1000, help="test data for it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", default="auto", help="auto, off, graph or inductor")
    parser.add_argument("--device", default="auto", help="to train on: auto, cpu, cuda")
    parser.add_argument("--runs", type=Path, help="folder for the fits, which go on from there; none are kept without")
    parser.add_argument("--out", type=Path, default=Path("hierarchical.png"), help="where the figure goes")
    parser.add_argument("--quick", action="store_true", help="short fits of small networks, for a look or a test")
    options = parser.parse_args(argv)
    if options.quick:
        options.epochs, options.num_particles, options.num_test = 3, 20, 100

    data = ppl_vae.data.load(options.data, binarization="dynamic")
    test = data.test.take(min(options.num_test, data.test.size), seed=0)
    found, pairs = {}, {}
    for name in options.pairs:
        run = fit(name, data, options)
        run.pair.cpu()  # where the data are
        found[name] = ppl_vae.log_likelihood(run.pair, test, num_particles=options.num_particles, seed=options.seed)
        seconds = sum(run.timing["seconds"])
        print(f"{name}: {len(run.history['epoch'])} epochs in {seconds:,.0f} s\n{found[name]}")
        print(layer_table(layer_use(run.pair, test, seed=options.seed)), end="\n\n", flush=True)
        pairs[name] = run.pair
    print("\n".join(differences(found)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(pairs, data, options.seed).savefig(options.out, dpi=120)
    print(f"\nfigure: {options.out}")
    return {"seed": options.seed, "device": run.config["fit"]["device"]}


if __name__ == "__main__":
    main()
