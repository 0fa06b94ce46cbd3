"""A one-dimensional VAE that can be solved exactly, and what a well-known answer to it costs.

    data    x ~ N(mu, s^2)
    guide   q(z|x) = N(a x + b, 1)
    model   p(z) = N(0, 1),  p(x|z) = N(c z + d, c^2),  c > 0

A lecture gives a = 1/s, b = -mu/s, c = s, d = mu: the encoder whitens the data, the decoder undoes it. With
m = a mu + b, the bound averaged over the data is, in nats per datum,

    F(a, b, c, d) = -1/2 log 2 pi c^2 - 1/2 - [(mu - d - c m)^2 + s^2 (1 - a c)^2] / (2 c^2) - (m^2 + a^2 s^2) / 2

Its maximum: m = 0 and d = mu zero the only terms that hold b and d. Then dF/da = 0 reads (1 - a c) / c = a, so that
a c = 1/2, not 1: the KL pulls the encoder half-way back to the prior. What is left, -log c - s^2 / (4 c^2), is largest
at

    c = s / sqrt 2,   a = 1 / (sqrt 2 s),   b = -a mu,   d = mu       (the same with the signs of a, b and c turned)

The lecture's answer falls short of that by (log 2) / 2 = 0.347 nats per datum, whatever mu and s. To see why, split

    F = -entropy of the data - misfit - gap,   misfit = KL(data || p(x)),   gap = E KL(q(z|x) || p(z|x))

with p(x) = N(d, 2 c^2), as the decoder's noise c^2 adds to the c^2 that z brings, and p(z|x) = N((x - d) / 2c, 1/2).
With c = s the model has twice the variance of the data (misfit (log 2)/2 - 1/4 = 0.097), and the posterior mean is half
of what the encoder says (0.250 of the gap). At the maximum the model is the data's distribution and the guide's mean is
the posterior's; the gap that stays, (1 - log 2)/2 = 0.153, comes from the guide's variance, 1 where the posterior has
1/2. Freeing that variance changes none of a, b, c, d, and makes the bound tight.

    python examples/linear_gaussian_1d.py --mu 3 --s 2 --out linear_gaussian_1d.png
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.nn import PyroModule
from torch import Tensor, nn

import ppl_vae
from ppl_vae.report import RECORD, recorded

# ---------------------------------------------------------------------------------------------------- exact answers


class Parameters(NamedTuple):
    """Encoder slope and offset a, b; decoder slope (and noise) and offset c, d."""

    a: float
    b: float
    c: float
    d: float


def lecture(mu: float, s: float) -> Parameters:
    """Return the lecture's answer."""
    return Parameters(1 / s, -mu / s, s, mu)


def optimum(mu: float, s: float) -> Parameters:
    """Return the maximum of the expected bound; see the top of this file."""
    a = 1 / (math.sqrt(2) * s)
    return Parameters(a, -a * mu, s / math.sqrt(2), mu)


def expected_bound(parameters: Parameters, mu: float, s: float, guide_variance: float = 1.0) -> float:
    """Return F, the ELBO averaged over x ~ N(mu, s^2), in nats per datum, for a guide of any variance v."""
    a, b, c, d = parameters
    v, m = guide_variance, a * mu + b
    squared_error = (mu - d - c * m) ** 2 + s**2 * (1 - a * c) ** 2 + c**2 * v
    log_likelihood = -0.5 * math.log(2 * math.pi * c**2) - squared_error / (2 * c**2)
    kl = 0.5 * (m**2 + a**2 * s**2 + v - 1 - math.log(v))
    return log_likelihood - kl


def entropy(s: float) -> float:
    """Return the entropy of the data, nats: no model's mean log p(x) can lie above its negative."""
    return 0.5 * math.log(2 * math.pi * math.e * s**2)


def misfit(parameters: Parameters, mu: float, s: float) -> float:
    """Return KL(data || p(x)) = KL(N(mu, s^2) || N(d, 2 c^2)), nats."""
    ratio = s**2 / (2 * parameters.c**2)
    return 0.5 * (ratio + (mu - parameters.d) ** 2 / (2 * parameters.c**2) - 1 - math.log(ratio))


def gap(parameters: Parameters, mu: float, s: float, guide_variance: float = 1.0) -> float:
    """Return E_x KL(q(z|x) || p(z|x)), p(z|x) = N((x - d) / 2c, 1/2): log p(x) minus the bound, on average, nats."""
    a, b, c, d = parameters
    slope = a - 1 / (2 * c)
    offset = a * mu + b - (mu - d) / (2 * c)
    return 0.5 * (2 * guide_variance + 2 * (offset**2 + slope**2 * s**2) - 1 - math.log(2 * guide_variance))


# ------------------------------------------------------------------------------------------------- the same by SVI


class Decoder(PyroModule):
    """p(z) = N(0, 1), p(x|z) = N(c z + d, c^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_c = nn.Parameter(torch.tensor(0.0))
        self.d = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Draw z and x (B, 1), or score the x that is given."""
        c = self.log_c.exp()
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(c.new_zeros(1), c.new_ones(1)).to_event(1))
            return pyro.sample("x", dist.Normal(c * z + self.d, c).to_event(1), obs=x)


class Encoder(PyroModule):
    """q(z|x) = N(a x + b, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.0))
        self.b = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """Draw z (B, 1) for each x (B, 1)."""
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(self.a * x + self.b, x.new_ones(1)).to_event(1))


def draw_data(mu: float, s: float, size: int, seed: int = 0) -> Tensor:
    """Draw x (N, 1), shifted and scaled to have mean mu and variance s^2 exactly.

    The bound depends on the data's mean and variance alone, so that its optimum on this sample is the true one.
    """
    noise = torch.randn(size, 1, generator=torch.Generator().manual_seed(seed))
    return mu + s * (noise - noise.mean()) / noise.std(correction=0)


def fit_by_svi(mu: float, s: float, *, size: int = 1000, epochs: int = 400, seed: int = 0) -> Parameters:
    """Fit (a, b, c, d) by stochastic variational inference, knowing nothing of the closed form."""
    decoder, encoder = Decoder(), Encoder()
    pair = ppl_vae.Pair(decoder, encoder)
    data = {"x": draw_data(mu, s, size, seed)}
    objective = ppl_vae.objectives.ELBO()
    ppl_vae.fit(
        pair,
        data,
        objective=objective,
        epochs=epochs,
        batch_size=250,
        lr=0.05,
        schedule="cosine",
        seed=seed,
        device="cpu",
    )
    return Parameters(encoder.a.item(), encoder.b.item(), decoder.log_c.exp().item(), decoder.d.item())


# -------------------------------------------------------------------------------------------------- table and figure


def table(rows: dict[str, tuple[Parameters, float]], mu: float, s: float) -> str:
    """Return the comparison as text; each row has parameters and the guide's variance."""
    best = expected_bound(optimum(mu, s), mu, s)
    head = f"{'':24}{'a':>9}{'b':>9}{'c':>9}{'d':>9}{'bound':>10}{'vs optimum':>12}{'misfit':>9}{'gap':>9}"
    lines = [f"x ~ N({mu:g}, {s:g}^2); the last four columns in nats per datum", "", head, "-" * len(head)]
    for name, (parameters, variance) in rows.items():
        bound = expected_bound(parameters, mu, s, variance)
        numbers = "".join(f"{value:9.4f}" for value in parameters)
        parts = f"{misfit(parameters, mu, s):9.4f}{gap(parameters, mu, s, variance):9.4f}"
        lines.append(f"{name:24}{numbers}{bound:10.4f}{bound - best:+z12.4f}{parts}")
    return "\n".join(lines)


def explanation(mu: float, s: float) -> str:
    """Return in words what the table shows."""
    theirs, best = lecture(mu, s), optimum(mu, s)
    short = expected_bound(best, mu, s) - expected_bound(theirs, mu, s)
    more_misfit = misfit(theirs, mu, s) - misfit(best, mu, s)
    more_gap = gap(theirs, mu, s) - gap(best, mu, s)
    left = gap(best, mu, s)
    return (
        f"bound = {-entropy(s):.4f} (minus the entropy of the data) - misfit - gap\n\n"
        f"The lecture's answer falls {short:.4f} = (log 2)/2 nats per datum short of the optimum of its own bound:\n"
        f"  {more_misfit:.4f}  because its p(x) has variance 2 c^2 = 2 s^2, twice that of the data;\n"
        f"  {more_gap:.4f}  because its encoder's mean is (x - mu)/s, where the posterior's is half of that.\n"
        "At the optimum p(x) is the data's distribution and the encoder's mean is exact. The gap that stays,\n"
        f"{left:.4f}, is the guide's variance: fixed at 1 where the posterior has 1/2. Set free, it makes the bound\n"
        "tight, at the same a, b, c, d."
    )


def draw(fitted: Parameters, mu: float, s: float) -> Figure:
    """Draw the bound over (a, c), the posteriors of one datum, and p(x): lecture, optimum and SVI."""
    answers = {"lecture": lecture(mu, s), "optimum": optimum(mu, s), "SVI": fitted}
    colours = {"lecture": "#bd1f01", "optimum": "#3f90da", "SVI": "#ffa90e"}
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    surface, posteriors, predictive = figure.subplots(1, 3)

    slopes, scales = np.linspace(0.2, 1.3, 120) / s, np.linspace(0.4, 1.3, 120) * s
    best = expected_bound(answers["optimum"], mu, s)
    short = [[best - expected_bound(Parameters(a, -a * mu, c, mu), mu, s) for a in slopes] for c in scales]
    levels = [0.01, 0.03, 0.1, 0.2, 0.5 * math.log(2), 0.6, 1.0]
    lines = surface.contour(slopes * s, scales / s, short, levels=levels, colors="#717581", linewidths=1)
    surface.clabel(lines, fmt="%.2f", fontsize=8)
    for name, size in (("lecture", 70), ("optimum", 130), ("SVI", 35)):
        p = answers[name]
        surface.scatter(
            p.a * s, p.c / s, s=size, color=colours[name], label=name, zorder=3, edgecolor="black", linewidth=0.6
        )
    surface.set(xlabel="a s", ylabel="c / s", title="Nats per datum below the best bound")
    surface.legend(loc="upper left", fontsize=9)

    datum = mu + 1.5 * s
    z = np.linspace(-2.5, 4.5, 400)
    for name in ("lecture", "optimum"):
        a, b, c, d = answers[name]
        posteriors.plot(z, _density(z, a * datum + b, 1.0), color=colours[name], label=f"q(z|x), {name}")
        posterior = _density(z, (datum - d) / (2 * c), math.sqrt(0.5))
        posteriors.plot(z, posterior, color=colours[name], linestyle="--", label=f"p(z|x), {name}")
    posteriors.plot(
        z,
        _density(z, fitted.a * datum + fitted.b, 1.0),
        color=colours["SVI"],
        linestyle=":",
        linewidth=3,
        label="q(z|x), SVI",
    )
    posteriors.set(xlabel="z", title="Guide and posterior at x = mu + 1.5 s")
    posteriors.legend(fontsize=8, loc="upper left")

    x = np.linspace(mu - 4 * s, mu + 4 * s, 400)
    predictive.fill_between(x, _density(x, mu, s), color="#dddddd", label="data")
    for name, style in (("lecture", "-"), ("optimum", "-"), ("SVI", ":")):
        p = answers[name]
        width = 3 if name == "SVI" else 1.5
        predictive.plot(
            x, _density(x, p.d, math.sqrt(2) * p.c), style, color=colours[name], linewidth=width, label=f"p(x), {name}"
        )
    predictive.set(xlabel="x", title="Data and what the model generates")
    predictive.legend(fontsize=8, loc="upper left")
    for axes in (posteriors, predictive):
        axes.set_ylim(bottom=0)
        axes.set_ylabel("density")
    return figure


def _density(x: np.ndarray, mean: float, scale: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the table and save the figure."""
    parser = argparse.ArgumentParser(parents=[RECORD], description="A one-dimensional VAE: lecture, optimum and SVI.")
    parser.add_argument("--mu", type=_finite, default=3.0, help="mean of the data")
    parser.add_argument("--s", type=_positive, default=2.0, help="standard deviation of the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("linear_gaussian_1d.png"), help="where the figure goes")
    parser.add_argument("--quick", action="store_true", help="a short fit, for a look or a test")
    options = parser.parse_args(argv)
    mu, s = options.mu, options.s

    fitted = fit_by_svi(mu, s, epochs=150 if options.quick else 400, seed=options.seed)
    rows = {
        "lecture": (lecture(mu, s), 1.0),
        "optimum": (optimum(mu, s), 1.0),
        "SVI": (fitted, 1.0),
        "optimum, variance 1/2": (optimum(mu, s), 0.5),
    }
    print(table(rows, mu, s), explanation(mu, s), sep="\n\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(fitted, mu, s).savefig(options.out, dpi=120)
    print(f"\nfigure: {options.out}")
    return {"seed": options.seed, "device": "cpu"}


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number; got {text}")
    return value


def _positive(text: str) -> float:
    value = _finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a positive number; got {text}")
    return value


if __name__ == "__main__":
    main()
