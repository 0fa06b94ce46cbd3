"""How far the layer nearest the data carries a hierarchy by itself (Zhao, Song & Ermon 2017, section 3.1).

Where the bound is tight, q(z1|x) = p(z1|x), and the chain

    z1 ~ q(z1|x),   x ~ p(x|z1),   again and again

has the model's own p(x) as its stationary distribution: p(x|z1) and q(z1|x) generate by themselves, whatever the layers
above have learned. So the bound gives no reason to put anything into them that z1 could not hold. How it is:

- x rebuilt from z1 ~ q(z1|x), and from z1 ~ p(z1|z2) with z2, ..., zL from the guide: what is lost is in z1 alone;
- the chain, started at noise, which sees nothing of p(z1|z2), ..., p(zL);
- log p(x) of what it arrives at, beside that of data and of the model's own draws, p(zL), ..., p(z1|z2), p(x|z1).

    python examples/z1_alone.py
    python examples/z1_alone.py --data mnist --run runs/layers/stacked-3
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import pad

import ppl_vae
from ppl_vae.data import Dataset
from ppl_vae.evaluation import layer_table, layer_use, reconstruct_from
from ppl_vae.report import RECORD, recorded

SHOWN = (0, 1, 2, 5, 10, 20, 50, 100, 200)  # steps of the chain


def get_pair(data: Dataset, options: argparse.Namespace) -> ppl_vae.Pair:
    """Return the pair of the run folder, or a small one fitted here."""
    if options.run is not None:
        return ppl_vae.load(options.run).pair
    networks = {"latent_dims": (16, 8), "hidden": (100,), "activation": "leaky_relu", "batch_norm": True}
    pair = ppl_vae.zoo.build("hierarchical", data.spec, guide=options.guide, seed=options.seed, **networks)
    return ppl_vae.fit(pair, data, epochs=options.epochs, kl_warmup=options.epochs / 3, seed=options.seed).pair.cpu()


def rebuilt(pair: ppl_vae.Pair, x: Tensor) -> dict[str, Tensor]:
    """Return E[x|z1] (B, D) by where z1 comes from: the guide, the model given the guide's z2, the model alone."""
    sites = [f"z{k}" for k in range(1, len(pair.model.latent_dims) + 1)]
    return {
        "q(z1|x)": reconstruct_from(pair, {"x": x}, sites)["x"],
        "p(z1|z2)": reconstruct_from(pair, {"x": x}, sites[1:])["x"],
        "p(z1)": pair.decode({"z1": pair.generate(len(x))["z1"]})["x"],
    }


def chain(pair: ppl_vae.Pair, x: Tensor, steps: int) -> list[Tensor]:
    """Return E[x|z1] (B, D) after 0 (x itself), 1, ... steps of z1 ~ q(z1|x), x ~ Bernoulli(E[x|z1])."""
    means = [x]
    for _ in range(steps):
        z1 = pair.posterior({"x": torch.bernoulli(means[-1])})["z1"][0]
        means.append(pair.decode({"z1": z1})["x"])
    return means


def cross_entropy(x: Tensor, mean: Tensor) -> tuple[float, float]:
    """Return the mean of -log Bernoulli(x; mean) over the data, nats per datum, and its standard error."""
    values = torch.nn.functional.binary_cross_entropy(mean, x, reduction="none").sum(-1)
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def sheet(pictures: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """Return pictures (rows, columns, D) as one, with grey lines between."""
    rows, columns = pictures.shape[:2]
    framed = pad(pictures.reshape(rows, columns, *image_shape[1:]), (1, 1, 1, 1), value=0.4)
    return framed.transpose(1, 2).flatten(2).flatten(0, 1)


def draw(x: Tensor, sources: dict[str, Tensor], steps: list[Tensor], image_shape: tuple[int, ...]) -> Figure:
    """Draw data and what is rebuilt from z1 by its source, and the chain beside it: a row per datum, and per chain."""
    rows = 6
    shown = [step for step in SHOWN if step < len(steps)]
    panels = (
        ("E[x|z1], z1 from ...", ["x", *sources], [x, *sources.values()]),
        (
            "the chain of z1 and x: E[x|z1] after so many steps",
            [str(step) for step in shown],
            [steps[s] for s in shown],
        ),
    )
    figure = Figure(figsize=(1.0 * (len(shown) + 5), 7.2), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=[len(pictures) for _, _, pictures in panels])
    for ax, (title, labels, pictures) in zip(axes, panels, strict=True):
        tiles = torch.stack([picture[:rows] for picture in pictures], 1)
        ax.imshow(sheet(tiles, image_shape), cmap="gray", vmin=0, vmax=1)
        width = image_shape[2] + 2
        ax.set_xticks([(i + 0.5) * width - 0.5 for i in range(len(labels))], labels)
        ax.set_yticks([])
        ax.tick_params(length=0)
        ax.set_title(title, fontsize=10)
    return figure


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(parents=[RECORD], description="What z1 alone carries of a hierarchical VAE.")
    parser.add_argument("--data", default="digits", help="a data set of binary images")
    parser.add_argument("--run", type=Path, help="a run folder of a hierarchical pair, in the place of a small fit")
    parser.add_argument("--guide", default="bottom-up", help="of the small fit: bottom-up, top-down or ladder")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200, help="of the chain")
    parser.add_argument("--num-test", type=int, default=1000)
    parser.add_argument("--num-particles", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("z1_alone.png"), help="where the figure goes")
    parser.add_argument("--quick", action="store_true", help="a short fit and chain, for a look or a test")
    options = parser.parse_args(argv)
    if options.quick:
        options.epochs, options.steps, options.num_test, options.num_particles = 3, 5, 50, 20

    data = ppl_vae.data.load(options.data, binarization="dynamic")
    test = data.test.take(min(options.num_test, data.test.size), seed=0)
    pair, x = get_pair(data, options), test["x"]
    print(layer_table(layer_use(pair, test, seed=options.seed)))
    print(f"\n{'x rebuilt from z1 of':22} -log p(x|z1), nats per datum")
    with ppl_vae.isolated(options.seed):
        sources = rebuilt(pair, x)
        steps = chain(pair, torch.full_like(x, 0.5).bernoulli(), options.steps)
        drawn = {"data": x, "the chain": steps[-1].bernoulli(), "the model": pair.generate(len(x))["x"]}
    for name, mean in sources.items():
        print("{:22} {:.1f} ± {:.1f}".format(name, *cross_entropy(x, mean)))
    print(f"\nlog p(x) under the model (importance, K = {options.num_particles}), nats per datum")
    for name, values in drawn.items():
        ll = ppl_vae.log_likelihood(pair, {"x": values}, num_particles=options.num_particles, seed=options.seed)
        print(f"{name:22} {ll.mean:.1f} ± {ll.data_standard_error:.1f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    assert data.spec.image_shape is not None
    draw(x, sources, steps, data.spec.image_shape).savefig(options.out, dpi=120)
    print(f"\nfigure: {options.out}")
    return {"seed": options.seed, "device": str(pair.device)}


if __name__ == "__main__":
    main()
