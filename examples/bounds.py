"""ELBO <= IWELBO_K <= log p(x): the importance-weighted bound rises with K to a log p(x) that is known.

    L_K = E[log 1/K sum_k p(x, z_k) / q(z_k|x)],   z_k ~ q(z|x),   L_1 = ELBO     (Burda et al. 2016, eq. 8, theorem 1)

On the left PPCA at its maximum likelihood, whose log p(x) is known in closed form, with a guide that was put wrong on
purpose: the posterior's mean pulled towards zero and its scale doubled. Its ELBO has a closed form too. On the right
two VAEs, one trained by the ELBO and one by IWELBO; where they have one or two latents, quadrature gives log p(x). Each
curve comes from one pass over the particles, and its error bars (two standard errors) are Monte Carlo's for these data.

    python examples/bounds.py
    python examples/bounds.py --data binarized-mnist --latent-dim 50 --epochs 20
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

import ppl_vae
from ppl_vae import exact, plots
from ppl_vae.data import Dataset, Split
from ppl_vae.guides import AmortizedNormal, LinearGaussian
from ppl_vae.models import PPCA, VAE
from ppl_vae.objectives import ELBO, IWELBO
from ppl_vae.report import RECORD, recorded


class Curve(NamedTuple):
    """L_K over K of one pair, in nats per datum."""

    num_particles: tuple[int, ...]
    bounds: Tensor
    standard_errors: Tensor
    log_p: float | None  # the exact mean of log p(x), where it is known
    elbo: float | None = None  # in closed form, where there is one


def perturbed_ppca(x: Tensor, latent_dim: int) -> ppl_vae.Pair:
    """Return PPCA at the maximum likelihood of x (N, D), with q(z|x) = N(0.8 m(x), 4 C) for a posterior N(m(x), C)."""
    model = PPCA.maximum_likelihood(x, latent_dim)
    guide = LinearGaussian(x.shape[1], latent_dim).to(x)
    line = exact.hierarchy.joint([(model.weight, model.bias, model.log_scale.exp())]).regression("z1", on="x")
    guide.set_posterior(0.8 * line.weights["x"], 0.8 * line.bias, 4 * line.covariance)
    return ppl_vae.Pair(model, guide)


def ppca_curve(x: Tensor, latent_dim: int, num_particles: int) -> Curve:
    """Return the curve of `perturbed_ppca` on its own data x (N, D)."""
    pair = perturbed_ppca(x, latent_dim)
    model, q = pair.model, pair.guide.posterior(x)
    parameters = (model.weight, model.bias, model.log_scale.exp())
    with torch.no_grad():
        elbo = exact.elbo(x, *parameters, q.mean, q.covariance_matrix).mean()
        log_p = exact.log_marginal(x, *parameters).mean()
    return curve(pair, {"x": x}, num_particles)._replace(log_p=float(log_p), elbo=float(elbo))


def trained_vae(data: Dataset, objective: ELBO, latent_dim: int, epochs: int) -> ppl_vae.Pair:
    """Return a VAE for binary data, trained by `objective`, in float64."""
    torch.manual_seed(0)
    D = data.spec.x_dim
    pair = ppl_vae.Pair(VAE(D, latent_dim, likelihood="bernoulli"), AmortizedNormal(D, latent_dim))
    ppl_vae.fit(pair, data.train, objective=objective, epochs=epochs, batch_size=100, lr=1e-3)
    return pair.double()


def vae_curve(pair: ppl_vae.Pair, data: Split, num_particles: int) -> Curve:
    """Return the curve of a VAE on some data, with log p(x) by quadrature if there are no more than two latents."""
    found, model = curve(pair, data, num_particles), pair.model
    if model.latent_dim > 2:
        return found
    x = data["x"].to(pair.device, pair.dtype)
    exactly = exact.quadrature.integrate(  # far nearer than the tolerance, which is met by a coarser rule
        lambda z, x: model.decode(z).log_prob(x), x, model.prior.loc, model.prior.scale, tolerance=1e-2
    )
    return found._replace(log_p=float(exactly.log_marginal.mean()))


def curve(pair: ppl_vae.Pair, data: Split | dict[str, Tensor], num_particles: int) -> Curve:
    """Return the curve up to K = `num_particles`, from one pass."""
    found = ppl_vae.log_likelihood(pair, data, num_particles=num_particles).curve
    return Curve(found.num_particles, found.bounds, found.standard_errors, None)


def table(curves: dict[str, Curve]) -> str:
    """Return the curves as text."""
    lines = []
    for name, found in curves.items():
        lines += [name, f"{'K':>8} {'bound':>10} {'± s.e.':>8}" + ("   log p(x) - bound" if found.log_p else "")]
        for K, bound, error in zip(found.num_particles, found.bounds, found.standard_errors, strict=True):
            gap = "" if found.log_p is None else f"{found.log_p - bound:19.4f}"
            lines.append(f"{K:8,} {bound:10.4f} {error:8.4f}{gap}")
        if found.elbo is not None:
            lines.append(f"ELBO in closed form {found.elbo:.4f}")
        if found.log_p is not None:
            lines.append(f"log p(x), exact {found.log_p:.4f}")
        lines.append("")
    return "\n".join(lines)


def draw(panels: dict[str, dict[str, Curve]]) -> Figure:
    """Draw each panel's curves over K, with their exact log p(x) as lines."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for (name, found), colour in zip(curves.items(), plots.canvas.SERIES, strict=False):
            if found.log_p is not None:
                axes.axhline(found.log_p, color=colour, linestyle="--", linewidth=1.2, label=f"log p(x), {name}")
            axes.errorbar(
                found.num_particles, found.bounds, 2 * found.standard_errors,
                color=colour, marker="o", markersize=4, linewidth=1.2, capsize=3, label=f"bound, {name}",
            )  # fmt: skip
            if found.elbo is not None:
                axes.plot(1, found.elbo, "D", color="black", markersize=9, fillstyle="none", label="ELBO, closed form")
        axes.set(xscale="log", xlabel="K", ylabel="nats per datum")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(title, fontsize=10)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8, frameon=False)
    return figure


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the curves and save the figure."""
    parser = argparse.ArgumentParser(parents=[RECORD], description="ELBO <= IWELBO_K <= log p(x), as K grows.")
    parser.add_argument("--data", default="digits", help="a data set of binary images, for the VAEs")
    parser.add_argument("--latent-dim", type=int, default=2, help="of the VAEs; log p(x) is exact for 1 and 2")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--train-particles", type=int, default=10, help="K of the IWELBO that trains")
    parser.add_argument("--num-particles", type=int, default=1000, help="the largest K of a curve")
    parser.add_argument("--test-size", type=int, default=50, help="how many test data, drawn at random")
    parser.add_argument("--out", type=Path, default=Path("bounds.png"), help="where the figure goes")
    parser.add_argument("--quick", action="store_true", help="a short fit, for a look or a test")
    options = parser.parse_args(argv)
    epochs, K = (3, 50) if options.quick else (options.epochs, options.num_particles)
    test_size = 20 if options.quick else options.test_size

    grey = ppl_vae.data.load("digits", binarization="none").train["x"].double()
    panels = {"PPCA of grey digits, a guide put wrong": {"8 latents": ppca_curve(grey, 8, K)}}
    data = ppl_vae.data.load(options.data)
    test, curves = data.test.take(test_size, seed=0), {}
    objectives = {"ELBO": ELBO(), f"IWELBO, K = {options.train_particles}": IWELBO(options.train_particles, "dreg")}
    for name, objective in objectives.items():
        pair = trained_vae(data, objective, options.latent_dim, epochs)
        curves[f"trained by {name}"] = vae_curve(pair, test, K)
    plural = "s" if options.latent_dim > 1 else ""
    panels[f"VAEs of {options.latent_dim} latent{plural}, {len(test['x'])} test images of {options.data}"] = curves
    print("nats per datum\n")
    for title, curves in panels.items():
        print(title, table(curves), sep="\n\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(panels).savefig(options.out, dpi=120)
    print(f"figure: {options.out}")
    return {"seed": 0, "device": str(pair.device)}


if __name__ == "__main__":
    main()
