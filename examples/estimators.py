"""What log p(x) costs: prior, importance, annealed importance sampling and the sandwich, in nats against seconds.

The data are drawn by the models themselves, so that the bidirectional sandwich bounds their log p(x) from both sides.
On the left PPCA fitted to digits, whose log p(x) is known in closed form, with a guide put wrong on purpose: the
posterior's mean pulled towards zero. Importance weighting pays for the guide, annealing from the prior does not need
it. On the right a VAE, whose guide was trained; nobody knows its log p(x), and the narrowest sandwich says where it
lies.

    python examples/estimators.py
    python examples/estimators.py --data binarized-mnist --latent-dim 50 --epochs 20 --effort 4
    python examples/estimators.py --run runs/vae --effort 4
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import ppl_vae
from ppl_vae import exact, plots
from ppl_vae.guides import LinearGaussian
from ppl_vae.models import PPCA
from ppl_vae.report import RECORD, recorded

CHAINS = 8
COLOURS = dict(zip(("prior", "importance", "AIS, prior", "AIS, guide", "sandwich"), plots.canvas.SERIES, strict=False))


class Point(NamedTuple):
    """One estimate: nats per datum, its Monte Carlo standard error, and what it took; `upper` for a sandwich."""

    method: str
    size: str
    seconds: float
    value: float
    error: float
    upper: float | None = None


class Panel(NamedTuple):
    """All estimates for one model, and its exact log p(x) where that is known."""

    points: list[Point]
    log_p: float | None


def ppca_with_poor_guide(latent_dim: int) -> ppl_vae.Pair:
    """Return PPCA at the maximum likelihood of grey digits, and q(z|x) = N(m(x) / 2, C) for a posterior N(m(x), C)."""
    x = ppl_vae.data.load("digits", binarization="none").train["x"].double()
    model = PPCA.maximum_likelihood(x, latent_dim)
    guide = LinearGaussian(x.shape[1], latent_dim).to(x)
    W, b, s = exact.ppca_maximum_likelihood(x, latent_dim)
    covariance = torch.linalg.inv(torch.eye(latent_dim).to(x) + W.T @ W / s**2)
    gain = covariance @ W.T / s**2
    guide.set_posterior(0.5 * gain, -0.5 * gain @ b, covariance)
    return ppl_vae.Pair(model, guide)


def trained_vae(name: str, latent_dim: int, epochs: int) -> ppl_vae.Pair:
    """Return a VAE for a set of binary images, trained by the ELBO."""
    data = ppl_vae.data.load(name)
    pair = ppl_vae.zoo.build("vae", data.spec, latent_dim=latent_dim)
    return ppl_vae.fit(pair, data, epochs=epochs, batch_size=100, lr=1e-3).pair


def measure(pair: Any, num_data: int, effort: float, sizes: int = 3) -> Panel:
    """Return estimates by every method at so many `sizes`, for data that the model drew."""
    points = []
    lengths = [max(2, round(T * effort)) for T in (16, 64, 256)[-sizes:]]
    for T in lengths:
        # One seed gives the same data every time.
        found = ppl_vae.sandwich(pair, num_data, num_particles=CHAINS, annealing=_annealing(T, "prior"))
        lower, upper = float(found.lower.mean()), float(found.upper.mean())
        error = float(found.lower_variances.sum().sqrt()) / num_data
        points.append(Point("sandwich", f"T = {T:,}", found.seconds, lower, error, upper))
    batch = found.batch
    for method, largest in (("prior", 30_000), ("importance", 30_000)):
        for K in (max(2, round(largest * effort / part)) for part in (100, 10, 1)[-sizes:]):
            ll = ppl_vae.log_likelihood(pair, batch, method=method, num_particles=K)
            points.append(Point(method, f"K = {K:,}", ll.seconds, ll.mean, ll.standard_error))
    for start in ("prior", "guide"):
        for T in lengths:
            options = _annealing(T, start)
            ll = ppl_vae.log_likelihood(pair, batch, method="ais", num_particles=CHAINS, annealing=options)
            points.append(Point(f"AIS, {start}", f"T = {T:,}", ll.seconds, ll.mean, ll.standard_error))
    known = getattr(pair.model, "log_marginal", None)
    with torch.no_grad():
        log_p: Tensor | None = None if known is None else known(**batch).mean()
    return Panel(points, None if log_p is None else float(log_p))


def _annealing(T: int, start: str) -> dict[str, Any]:
    """Return options of T distributions, with a pass that adapts step sizes that is not much longer than they are."""
    return {"num_distributions": T, "start": start, "rungs": min(max(T, 10), 100)}


def table(panel: Panel) -> str:
    """Return the estimates as text."""
    lines = [f"{'':12} {'size':>12} {'seconds':>8} {'log p(x)':>10} {'± s.e.':>8} {'upper':>10}"]
    for point in panel.points:
        upper = "" if point.upper is None else f"{point.upper:10.3f}"
        lines.append(
            f"{point.method:12} {point.size:>12} {point.seconds:8.2f} {point.value:10.3f} {point.error:8.3f} {upper}"
        )
    if panel.log_p is not None:
        lines.append(f"exact {panel.log_p:.3f}")
    return "\n".join(lines) + "\n"


def draw(panels: dict[str, Panel]) -> Figure:
    """Draw nats against seconds: error bars of two standard errors, the exact value or the narrowest sandwich."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    for axes, (title, panel) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        best = min((p for p in panel.points if p.upper is not None), key=lambda p: abs((p.upper or 0) - p.value))
        low, high = sorted((best.value, best.upper or best.value))
        if panel.log_p is not None:
            axes.axhline(panel.log_p, color="black", linewidth=1.2, linestyle="--", label="log p(x), exact")
        else:
            axes.axhspan(low, high, color="#dddddd", label="narrowest sandwich")
        # Down to where the last estimate of each method can be seen: earlier ones may lie far below.
        truth = 0.5 * (low + high) if panel.log_p is None else panel.log_p
        last = {p.method: p for p in panel.points}.values()
        reach = 1.3 * max(truth - p.value + 2 * p.error for p in last)
        axes.set_ylim(truth - reach, max(truth + 0.4 * reach, high + 0.1 * reach))
        for method, colour in COLOURS.items():
            points = [p for p in panel.points if p.method == method]
            if method == "sandwich":
                _draw_sandwich(axes, points, colour)
            else:
                x, y = [p.seconds for p in points], [p.value for p in points]
                bars = [2 * p.error for p in points]
                axes.errorbar(
                    x, y, bars, color=colour, marker="o", markersize=4, capsize=3, linewidth=1.2, label=method
                )
                _mark_below(axes, points, colour)
        axes.set(xscale="log", xlabel="seconds", ylabel="nats per datum")
        axes.set_title(title, fontsize=10)
        axes.grid(color="#eeeeee")
    legend: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    figure.legend(legend.values(), legend.keys(), loc="outside right center", fontsize=9, frameon=False)
    return figure


def _draw_sandwich(axes: Axes, points: list[Point], colour: str) -> None:
    """Draw a bar from the lower to the upper bound of each sandwich."""
    for index, point in enumerate(points):
        label = "sandwich, lower to upper" if index == 0 else None
        x, ends = [point.seconds] * 2, [point.value, point.upper or point.value]
        axes.plot(x, ends, color=colour, linewidth=4, alpha=0.6, solid_capstyle="butt", label=label)
        axes.plot(x, ends, "_", color=colour, markersize=9, markeredgewidth=2)


def _mark_below(axes: Axes, points: list[Point], colour: str) -> None:
    """Mark each estimate that lies below the axis at its foot, with its value."""
    bottom = axes.get_ylim()[0]
    for point in points:
        if point.value < bottom:
            axes.plot(point.seconds, bottom, "v", color=colour, markersize=7, clip_on=False, zorder=3)
            text = f"{point.value:.0f}".replace("-", "−")
            axes.annotate(
                text, (point.seconds, bottom), (0, 6), textcoords="offset points", ha="center", fontsize=7, color=colour
            )


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the tables and save the figure."""
    parser = argparse.ArgumentParser(parents=[RECORD], description="Estimators of log p(x): nats against seconds.")
    parser.add_argument("--data", default="digits", help="a data set of binary images, for the VAE")
    parser.add_argument("--run", type=Path, help="the folder of a fit, whose pair takes the VAE's place")
    parser.add_argument("--latent-dim", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--num-data", type=int, default=30, help="how many data each model draws")
    parser.add_argument("--effort", type=float, default=1.0, help="scales particles and distributions")
    parser.add_argument("--out", type=Path, default=Path("estimators.png"), help="where the figure goes")
    parser.add_argument("--quick", action="store_true", help="a short run, for a look or a test")
    options = parser.parse_args(argv)
    epochs, num_data, effort, sizes = options.epochs, options.num_data, options.effort, 3
    if options.quick:
        epochs, num_data, effort, sizes = 3, 5, 0.05, 1

    L = options.latent_dim
    if options.run is None:
        pair, name = trained_vae(options.data, L, epochs), f"VAE of {L} latents, trained on {options.data}"
    else:
        pair, name = ppl_vae.load(options.run).pair, f"the pair in {options.run}"
    panels = {
        f"PPCA of {L} latents, a guide put wrong": measure(ppca_with_poor_guide(L), num_data, effort, sizes),
        name: measure(pair, num_data, effort, sizes),
    }
    print(f"nats per datum, {num_data} data that each model drew; AIS and sandwiches with {CHAINS} chains\n")
    for title, panel in panels.items():
        print(title, table(panel), sep="\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(panels).savefig(options.out, dpi=120)
    print(f"figure: {options.out}")
    return {"seed": 0, "device": str(pair.device)}


if __name__ == "__main__":
    main()
