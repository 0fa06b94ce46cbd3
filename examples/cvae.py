"""A VAE given the label (Kingma et al. 2014, section 2 and figure 1): the latents are left with the style of a picture.

    p(z) = N(0, I),   p(x|z, c) = Bernoulli(decoder(z, c)),   q(z|x, c) = N(m(x, c), diag s(x, c)^2)

Style held while the label changes: z of a test picture, decoded under every label. Label held while the style changes:
draws of z, decoded under one label. In numbers: log p(x|c) under the true labels, and how often Bayes' rule with equal
shares of the classes, argmax_c p(x|c), finds them.

    python examples/cvae.py
    python examples/cvae.py --data mnist --latent-dim 50 --hidden 500 500 --epochs 30
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
from ppl_vae.data import Dataset, Split
from ppl_vae.guides import ConditionalNormal
from ppl_vae.models import CVAE
from ppl_vae.report import RECORD, recorded


def make_pair(data: Dataset, latent_dim: int, hidden: Sequence[int], prior: str) -> ppl_vae.Pair:
    """Return a fresh CVAE for binary pictures given their label."""
    torch.manual_seed(0)
    D, C = data.spec.x_dim, data.spec.num_classes
    return ppl_vae.Pair(
        CVAE(D, latent_dim, num_classes=C, prior=prior, hidden=hidden),
        ConditionalNormal(D, latent_dim, num_classes=C, hidden=hidden),
    )


def log_p_by_label(pair: ppl_vae.Pair, test: Split, classes: int, num_particles: int) -> Tensor:
    """Return log p(x|c) for every label c, (N, C), nats."""
    results = [
        ppl_vae.log_likelihood(
            pair, {"x": test["x"], "c": torch.full_like(test["c"], label)}, num_particles=num_particles
        )
        for label in range(classes)
    ]
    return torch.stack([result.values for result in results], -1)


def same_style(pair: ppl_vae.Pair, x: Tensor, c: Tensor, classes: int) -> Tensor:
    """Return rows of one style: the datum x (n, D), then E[x | z, c'] of its z under every label c', (n, 1 + C, D)."""
    z = pair.posterior_mean({"x": x, "c": c})["z"].repeat_interleave(classes, 0)
    labels = torch.arange(classes).repeat(len(x))
    return torch.cat([x[:, None], pair.decode({"z": z}, c=labels)["x"].unflatten(0, (len(x), classes))], 1)


def same_label(pair: ppl_vae.Pair, classes: int, count: int) -> Tensor:
    """Return rows of one label: E[x | z, c] for draws of z from the prior, (C, count, D)."""
    labels = torch.arange(classes).repeat_interleave(count)
    with ppl_vae.isolated(1):
        z = pair.generate(c=labels)["z"]
    return pair.decode({"z": z}, c=labels)["x"].unflatten(0, (classes, count))


def draw(styles: Tensor, labels: Tensor, image_shape: tuple[int, int, int]) -> Figure:
    """Draw both sheets of pictures side by side."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    _, height, width = image_shape
    left, right = figure.subplots(1, 2)
    for axes, sheet in ((left, styles), (right, labels)):
        rows, columns, _ = sheet.shape
        framed = pad(sheet.reshape(rows, columns, height, width), (1, 1, 1, 1), value=0.3)
        picture = framed.transpose(1, 2).reshape(rows * (height + 2), columns * (width + 2))
        axes.imshow(picture.cpu(), cmap="gray_r", vmin=0, vmax=1)
        axes.tick_params(length=0)
    columns = styles.shape[1]
    middles = [(column + 0.5) * (width + 2) - 0.5 for column in range(columns)]
    left.set_xticks(middles, ["datum", *map(str, range(columns - 1))])
    left.set_yticks([])
    left.set(title="style held (a row), label changed", xlabel="label")
    right.set_yticks([(row + 0.5) * (height + 2) - 0.5 for row in range(len(labels))], map(str, range(len(labels))))
    right.set_xticks([])
    right.set(title="label held (a row), style drawn from the prior", ylabel="label")
    return figure


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, print log p(x|c) and save the figure."""
    parser = argparse.ArgumentParser(parents=[RECORD], description="A VAE of pictures given their label.")
    parser.add_argument("--data", default="digits", help="a data set of binary images with labels: digits or mnist")
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--hidden", type=int, nargs="+", default=[200, 200])
    parser.add_argument("--prior", default="standard", choices=["standard", "conditional"])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--device", default="auto", help="to train on: auto, cpu, cuda")
    parser.add_argument("--compile", default="auto", help="auto, off, graph or inductor")
    parser.add_argument("--out", type=Path, default=Path("cvae.png"), help="where the figure goes")
    parser.add_argument("--quick", action="store_true", help="a short fit, for a look or a test")
    options = parser.parse_args(argv)
    epochs, K, size = (3, 20, 50) if options.quick else (options.epochs, 1000, 1000)

    data = ppl_vae.data.given_labels(ppl_vae.data.load(options.data))
    classes, image_shape = data.spec.num_classes, data.spec.image_shape
    assert classes is not None
    assert image_shape is not None
    pair = make_pair(data, options.latent_dim, options.hidden, options.prior)
    run = ppl_vae.fit(pair, data, epochs=epochs, patience=10, compile=options.compile, device=options.device)
    pair.cpu()  # where the data are
    print(f"{len(run.history['epoch'])} epochs, of which epoch {run.config['kept']['epoch']} is kept")

    test = data.test.take(min(size, data.test.size), 0)
    print(ppl_vae.log_likelihood(pair, test, num_particles=K))
    found = log_p_by_label(pair, test, classes, K // 10).argmax(-1)
    right = (found == test["c"]).double()
    error = right.std() / len(right) ** 0.5
    print(f"argmax_c p(x|c) is the true label of {right.mean():.1%} ± {error:.1%} of {len(right):,} test pictures")

    rows = torch.stack([(test["c"] == label).nonzero()[0, 0] for label in range(classes)])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    styles = same_style(pair, test["x"][rows], test["c"][rows], classes)
    draw(styles, same_label(pair, classes, 10), image_shape).savefig(options.out, dpi=120)
    print(f"\nfigure: {options.out}")
    return {"seed": 0, "device": run.config["fit"]["device"]}


if __name__ == "__main__":
    main()
