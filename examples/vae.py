"""One variational autoencoder, trained twice: by a plain `pyro.infer.SVI` script and by `ppl_vae.fit`.

Model and guide are Pyro programs and the objective is a `pyro.infer.ELBO`, so nothing ties them to our training loop.
Side by side: the lines it takes, the seconds, and log p(x) of the test data with its error bar.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from torch.nn.functional import pad

import ppl_vae
from ppl_vae.data import Dataset
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.report import RECORD, recorded

BATCH_SIZE = 128
LR = 1e-3


def make_pair(data: Dataset, latent_dim: int = 8) -> ppl_vae.Pair:
    """Return a fresh VAE for binary data: p(x|z) = Bernoulli(decoder(z)), q(z|x) = N(m(x), diag s(x)^2)."""
    torch.manual_seed(0)
    D = data.spec.x_dim
    return ppl_vae.Pair(VAE(D, latent_dim, likelihood="bernoulli"), AmortizedNormal(D, latent_dim))


def train_with_svi(pair: ppl_vae.Pair, data: Dataset, epochs: int) -> list[float]:
    """Train with Pyro alone; return the mean bound of each epoch, nats per datum."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    objective = ppl_vae.objectives.ELBO()
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": LR}), loss=objective)
    bounds = []
    for _ in range(epochs):
        total = 0.0
        for index in torch.randperm(data.train.size).split(BATCH_SIZE):
            total += svi.step(x=data.train.batch(index)["x"])
        bounds.append(-total / data.train.size)
    return bounds


def train_with_fit(pair: ppl_vae.Pair, data: Dataset, epochs: int) -> list[float]:
    """Train with the library; return the mean bound of each epoch, nats per datum."""
    # `SVI` hands the optimiser the gradient of the summed loss and `fit` that of the mean; Adam does not mind.
    return ppl_vae.fit(pair, data, epochs=epochs, batch_size=BATCH_SIZE, lr=LR).history["train_bound"]


def draw(bounds: dict[str, list[float]], samples: dict[str, torch.Tensor], data: Dataset) -> Figure:
    """Draw the training curves above each other, and samples of both fits beside them."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    curves, *pictures = figure.subplots(1, 1 + len(samples))
    for (name, values), style in zip(bounds.items(), ("-", "--"), strict=True):
        curves.plot(range(1, len(values) + 1), values, style, label=name)
    curves.set(xlabel="epoch", ylabel="training bound (nats per datum)")
    curves.legend()
    assert data.spec.image_shape is not None
    _, height, width = data.spec.image_shape
    for axes, (name, x) in zip(pictures, samples.items(), strict=True):
        framed = pad(x.reshape(6, 6, height, width), (1, 1, 1, 1), value=0.3)
        grid = framed.transpose(1, 2).reshape(6 * (height + 2), 6 * (width + 2))
        axes.imshow(grid.cpu(), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(f"means of 36 samples, {name}", fontsize=10)
        axes.axis("off")
    return figure


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train both ways, print the comparison and save the figure."""
    parser = argparse.ArgumentParser(parents=[RECORD], description="One VAE, by a plain SVI script and by ppl_vae.fit.")
    parser.add_argument("--data", default="digits", help="a data set of binary images, such as digits or mnist")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("vae.png"), help="where the figure goes")
    parser.add_argument("--quick", action="store_true", help="a short fit, for a look or a test")
    options = parser.parse_args(argv)
    epochs = 3 if options.quick else options.epochs

    data = ppl_vae.data.load(options.data)
    bounds, samples = {}, {}
    print(f"{'':12} {'seconds':>8}   log p(x) of the test data")
    for name, train in (("plain SVI", train_with_svi), ("fit", train_with_fit)):
        pair = make_pair(data)
        started = time.perf_counter()
        bounds[name] = train(pair, data, epochs)
        seconds = time.perf_counter() - started
        ll = ppl_vae.log_likelihood(pair, data.test, num_particles=50 if options.quick else 1000)
        print(f"{name:12} {seconds:8.1f}   {ll}")
        torch.manual_seed(1)
        samples[name] = pair.decode({"z": torch.randn(36, pair.model.latent_dim)})["x"]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(bounds, samples, data).savefig(options.out, dpi=120)
    print(f"figure: {options.out}")
    return {"seed": 0, "device": str(pair.device)}


if __name__ == "__main__":
    main()
