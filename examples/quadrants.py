"""Pictures completed by a conditional VAE, given one, two or three of their quadrants (Sohn et al. 2015, section 5.1).

    c = the picture, its missing pixels filled in by a network trained to guess them (NN, the baseline)
    p(z|c) = N(m(c), diag(s(c))^2),   p(x|z, c) = Bernoulli(decoder(z, c)),   q(z|x, c) Normal

NN has one guess for each pixel. The CVAE has many completions, each a coherent picture. Two measures, per picture:

- *grey*, the published one: sum of -x log p - (1 - x) log(1 - p) over the missing pixels, x grey in [0, 1]; for the
  CVAE inside a bound with 10 particles. It is no likelihood: grey values are outside a Bernoulli's support.
- *binary*: the pixels binarised once, and -log p(x|c) of them, a likelihood; NN's exactly, the CVAE's by importance
  weighting with K = 1000 particles and an error bar.

    python examples/quadrants.py
    python examples/quadrants.py --data mnist --runs runs/quadrants
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import constraints

import ppl_vae
from ppl_vae import likelihoods, plots
from ppl_vae.config import configurable
from ppl_vae.data import Dataset, Split
from ppl_vae.guides import ConditionalNormal
from ppl_vae.models import CVAE
from ppl_vae.nn import MLP
from ppl_vae.report import RECORD, recorded

#: Negative conditional log-likelihoods that Pyro's tutorial on CVAEs prints for 1, 2, 3 quadrants given, on grey MNIST.
PUBLISHED = {"NN": (100.4, 61.9, 25.4), "CVAE": (71.8, 51.0, 24.2)}


class GreyScore(dist.Bernoulli):
    """x log p + (1 - x) log(1 - p) for x anywhere in [0, 1]: a score, and no density there."""

    support = constraints.unit_interval


@configurable
class Grey(likelihoods.Likelihood):
    """The score of grey pixels, in a likelihood's place."""

    def distribution(self, parameters: Tensor) -> Any:
        """Return the score by logits (..., *x_shape, 1)."""
        return GreyScore(logits=parameters.squeeze(-1))


class Guess(PyroModule):
    """NN: p(x|c) = Bernoulli(network(c)), with nothing latent."""

    def __init__(self, network: MLP, likelihood: likelihoods.Likelihood) -> None:
        super().__init__()
        self.network, self.likelihood = network, likelihood

    def forward(self, x: Tensor | None = None, c: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample x given c (B, D), or observe it."""
        assert c is not None
        with pyro.plate("data", len(c), dim=-1):
            return pyro.sample("x", self.likelihood(self.network(c).unsqueeze(-2)), obs=x)

    def log_marginal(self, x: Tensor, c: Tensor) -> Tensor:
        """Return log p(x|c), (B,)."""
        return self.likelihood(self.network(c).unsqueeze(-2)).log_prob(x)


class Nothing(PyroModule):
    """The guide of a model without latents."""

    def forward(self, x: Tensor | None = None, c: Tensor | None = None, size: int | None = None) -> None:
        """Sample nothing."""


@dataclass(frozen=True)
class Setting:
    """How to train: the tutorial's numbers by default."""

    hidden: tuple[int, ...]
    latent_dim: int
    epochs: int
    patience: int
    seed: int
    runs: Path | None
    compile: str
    device: str

    def fit(self, pair: ppl_vae.Pair, data: Dataset, name: str) -> ppl_vae.Run:
        """Train by Adam at 1e-3 in batches of 128 until the validation bound has not risen for `patience` epochs."""
        run = ppl_vae.fit(
            pair,
            data,
            epochs=self.epochs,
            patience=self.patience,
            batch_size=128,
            lr=1e-3,
            seed=self.seed,
            compile=self.compile,
            device=self.device,
            run_dir=self.runs and self.runs / name,
            resume=self.runs is not None,
        )
        run.pair.cpu()  # where the data are
        return run


def train_guess(data: Dataset, setting: Setting, name: str) -> ppl_vae.Run:
    """Return the fit of NN, trained to guess the missing pixels."""
    torch.manual_seed(setting.seed)
    network = MLP(data.train["c"].shape[1], data.spec.x_dim, setting.hidden, "relu")
    pair = ppl_vae.Pair(Guess(network, likelihood(data)), Nothing())
    return setting.fit(pair, data, f"{name}-nn")


def train_cvae(data: Dataset, setting: Setting, name: str) -> ppl_vae.Run:
    """Return the fit of the CVAE, trained on conditions that NN has filled in."""
    torch.manual_seed(setting.seed)
    D, C = data.spec.x_dim, data.train["c"].shape[1]
    networks: dict[str, Any] = {"c_shape": C, "hidden": setting.hidden, "activation": "relu"}
    pair = ppl_vae.Pair(
        CVAE(D, setting.latent_dim, prior="conditional", likelihood=likelihood(data), **networks),
        ConditionalNormal(D, setting.latent_dim, **networks),
    )
    return setting.fit(pair, data, f"{name}-cvae")


def likelihood(data: Dataset) -> likelihoods.Likelihood:
    """Return the likelihood of binary pixels, or the score of grey ones."""
    return likelihoods.Bernoulli() if data.spec.support == "binary" else Grey()


def filled_in(data: Dataset, guess: ppl_vae.Pair, image_shape: tuple[int, ...], given: int) -> Dataset:
    """Return `data` with NN's guesses in the place of c's missing pixels."""

    def filled(split: Split) -> Split:
        with torch.no_grad():
            x = guess.model.network(split["c"]).sigmoid()
        c = ppl_vae.data.whole_pictures(x, split["c"], image_shape, given)
        return Split({**split, "c": c}, split.spec, role=split.role)

    parts = {role: filled(split) for role, split in data.splits.items()}
    return Dataset(parts["train"], parts.get("validation"), parts["test"])


def bound(pair: ppl_vae.Pair, split: Split, num_particles: int, seed: int) -> float:
    """Return the ELBO on a split, each datum's a mean over so many particles."""
    total = 0.0
    with ppl_vae.isolated(seed), torch.no_grad():
        for rows in torch.arange(split.size).split(500):
            batch = {name: split[name][rows] for name in ("x", "c")}
            total += float(pair.log_weights(batch, num_particles).mean(0).double().sum())
    return total / split.size


def completions(pair: ppl_vae.Pair, c: Tensor, count: int) -> Tensor:
    """Return E[x | z, c] for `count` draws of z from p(z|c), (B, count, D')."""
    rows = c.repeat_interleave(count, 0)
    z = pair.generate(c=rows)["z"]
    return pair.decode({"z": z}, c=rows)["x"].unflatten(0, (len(c), count))


def pictures(data: Dataset, cvae: ppl_vae.Pair, filled: Dataset, image_shape: tuple[int, ...], given: int) -> Tensor:
    """Return rows of pictures, (4, 3 + 7, D): what is given, the truth, NN's guess, and seven completions."""
    chosen = torch.arange(4)
    if "y" in data.test:  # four different ones
        chosen = torch.stack([(data.test["y"] == label).nonzero()[0, 0] for label in (2, 4, 5, 8)])
    x, c, c_filled = data.test["x"][chosen], data.test["c"][chosen], filled.test["c"][chosen]
    with ppl_vae.isolated(0):
        drawn = completions(cvae, c_filled, 7)
    whole = ppl_vae.data.whole_pictures(drawn, c[:, None], image_shape, given)
    truth = ppl_vae.data.whole_pictures(x, c, image_shape, given)
    seen = c.masked_fill(ppl_vae.data.hidden_pixels(image_shape, given), 0.4)
    return torch.cat([torch.stack([seen, truth, c_filled], 1), whole], 1)


def measured(
    measure: str, guess: ppl_vae.Pair, cvae: ppl_vae.Pair, data: Dataset, filled: Dataset, options: Any
) -> dict[str, Any]:
    """Return what the table says of both networks, nats per picture of the test data, lower is better."""
    if measure == "grey":
        tenfold = ppl_vae.log_likelihood(cvae, filled.test, num_particles=10, seed=options.seed)
        nn = ppl_vae.log_likelihood(guess, data.test, method="exact")
        return {"nn": nn, "bound": -bound(cvae, filled.test, 10, options.seed), "cvae": tenfold}
    few = (min(options.num_test, data.test.size), 0)  # the same rows for both
    K = options.num_particles
    cvae_ll = ppl_vae.log_likelihood(cvae, filled.test.take(*few), num_particles=K, seed=options.seed)
    return {"nn": ppl_vae.log_likelihood(guess, data.test.take(*few), method="exact"), "cvae": cvae_ll}


def fit_times(*runs: ppl_vae.Run) -> str:
    """Return how long fits took."""
    return ", ".join(f"{len(run.history['epoch'])} epochs in {sum(run.timing['seconds']):,.0f} s" for run in runs)


def table(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Return both measures as tables."""
    lines = ["In nats per datum, that is, per picture's missing pixels; lower is better. ±: standard error."]
    grey = [row for row in rows if row["measure"] == "grey"]
    if grey:
        lines += [
            f"\nGrey pixels of {name} ({len(grey[0]['nn'].values):,} test pictures) scored under a Bernoulli: the "
            "tutorial's measure, **no likelihood**.\n",
            "| given | NN | CVAE, ELBO of 10 particles | CVAE, importance bound of 10 | tutorial's NN, CVAE (MNIST) | "
            "fits of NN, CVAE |",
            "|---|---|---|---|---|---|",
        ]
    for row in grey:
        nn, cvae = row["nn"], row["cvae"]
        printed = ", ".join(f"{PUBLISHED[who][row['given'] - 1]}" for who in ("NN", "CVAE"))
        figures = f"{-nn.mean:.2f} | {row['bound']:.2f} | {-cvae.mean:.2f}"
        lines.append(f"| {row['given']} | {figures} | {printed} | {row['fits']} |")
    binary = [row for row in rows if row["measure"] == "binary"]
    if binary:
        K, size = binary[0]["cvae"].num_particles, len(binary[0]["nn"].values)
        lines += [
            f"\nPixels of {name} binarised once ({size:,} test pictures): -log p(missing pixels given visible ones), "
            "a likelihood.\n",
            f"| given | NN, exact (± data) | CVAE, importance, K = {K:,} (± Monte Carlo, ± data) | "
            "CVAE better by (±) | median ESS | fits of NN, CVAE |",
            "|---|---|---|---|---|---|",
        ]
    for row in binary:
        nn, cvae = row["nn"], row["cvae"]
        gain = cvae.values - nn.values
        error = float(gain.std() / len(gain) ** 0.5)
        lines.append(
            f"| {row['given']} | {-nn.mean:.2f} ± {nn.data_standard_error:.2f} | {-cvae.mean:.2f} ± "
            f"{cvae.standard_error:.2f} ± {cvae.data_standard_error:.2f} | {float(gain.mean()):.2f} ± "
            f"{error:.2f} | {float(cvae.effective_sample_size.median()):.1f} | {row['fits']} |"
        )
    return "\n".join(lines)


def draw(panels: dict[int, Tensor], image_shape: tuple[int, ...]) -> Figure:
    """Draw for each number of quadrants a few pictures: the input, the truth, NN's guess, completions by the CVAE."""
    walk = torch.cat(list(panels.values()))
    return plots.latent_walk(
        walk,
        image_shape,
        values=["given", "truth", "NN", *map(str, range(1, walk.shape[1] - 2))],
        value_name="1, 2, …: the CVAE's E[x | z, c], for draws of z from p(z | c)",
        row_labels=[f"{given} given" for given, pictures in panels.items() for _ in pictures],
        limits=(0.0, 1.0),
    )


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train both networks for each number of quadrants and measure, print the table, save the figure."""
    parser = argparse.ArgumentParser(
        parents=[RECORD], description="Missing quadrants of pictures, by a network and by a CVAE."
    )
    parser.add_argument("--data", default="digits", help="a data set of grey images, such as digits or mnist")
    parser.add_argument("--given", type=int, nargs="+", default=[1, 2, 3], help="how many quadrants one sees")
    parser.add_argument("--measures", nargs="+", default=["grey", "binary"], choices=["grey", "binary"])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--patience", type=int, default=3)
    parser.add_argument("--hidden", type=int, nargs="+", default=[500, 500])
    parser.add_argument("--latent-dim", type=int, default=200)
    parser.add_argument("--num-particles", type=int, default=1000, help="of the importance-weighted likelihood")
    parser.add_argument("--num-test", type=int, default=1000, help="test data for that likelihood")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", default="auto", help="auto, off, graph or inductor")
    parser.add_argument("--device", default="auto", help="to train on: auto, cpu, cuda")
    parser.add_argument("--runs", type=Path, help="folder for the fits, which go on from there; none are kept without")
    parser.add_argument("--out", type=Path, default=Path("quadrants.png"), help="where the figure goes")
    parser.add_argument("--quick", action="store_true", help="short fits, for a look or a test")
    options = parser.parse_args(argv)
    if options.quick:
        options.epochs, options.hidden, options.latent_dim, options.num_particles = 2, [50], 8, 20
    setting = Setting(
        tuple(options.hidden), options.latent_dim, options.epochs, options.patience,
        options.seed, options.runs, options.compile, options.device,
    )  # fmt: skip

    rows: list[dict[str, Any]] = []
    panels: dict[int, Tensor] = {}
    for measure in options.measures:
        source = ppl_vae.data.load(options.data, binarization="none" if measure == "grey" else "fixed")
        shape = source.spec.image_shape
        assert shape is not None
        for given in options.given:
            data, name = ppl_vae.data.given_quadrants(source, given), f"{measure}-{given}"
            nn = train_guess(data, setting, name)
            filled = filled_in(data, nn.pair, shape, given)
            cvae = train_cvae(filled, setting, name)
            rows.append({"measure": measure, "given": given, "fits": fit_times(nn, cvae)})
            rows[-1] |= measured(measure, nn.pair, cvae.pair, data, filled, options)
            print(table(rows[-1:], options.data), end="\n\n", flush=True)
            if given not in panels:
                panels[given] = pictures(data, cvae.pair, filled, shape, given)
    print(table(rows, options.data))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(panels, shape).savefig(options.out, dpi=120)
    print(f"\nfigure: {options.out}")
    return {"seed": options.seed, "device": cvae.config["fit"]["device"]}


if __name__ == "__main__":
    main()
