"""Probabilistic PCA by SVI, held against its exact solution (Tipping & Bishop 1999) and scikit-learn.

The one VAE whose log p(x), posterior and maximum likelihood are known. Its bound must end below log p(x), its guide at
the exact posterior, and its W in the span of the closed form's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.decomposition import PCA
from torch import Tensor

import ppl_vae
from ppl_vae import exact, plots
from ppl_vae.guides import LinearGaussian
from ppl_vae.models import PPCA
from ppl_vae.report import RECORD, recorded


def fit(x: Tensor, latent_dim: int, noise: str, epochs: int) -> ppl_vae.Run:
    """Fit PPCA, or factor analysis with ``noise="diagonal"``, to x (N, D) by SVI."""
    torch.manual_seed(0)
    D = x.shape[1]
    pair = ppl_vae.Pair(PPCA(D, latent_dim, noise=noise), LinearGaussian(D, latent_dim))
    return ppl_vae.fit(pair, {"x": x}, epochs=epochs, lr=1e-2, schedule="cosine")


def closed_form(x: Tensor, latent_dim: int, noise: str) -> exact.PPCAParameters | exact.FactorAnalysisParameters:
    """Return the maximum-likelihood W (D, L), b (D,) and s (() or (D,)) of x."""
    if noise == "isotropic":
        return exact.ppca_maximum_likelihood(x, latent_dim)
    return exact.factor_analysis_maximum_likelihood(x, latent_dim)


def compare(run: ppl_vae.Run, x: Tensor, latent_dim: int, noise: str) -> dict[str, float]:
    """Return the numbers that tell how near SVI came, in nats per datum."""
    pair = run.pair.to("cpu", torch.float64)  # the fit may have been on a GPU
    model, guide = pair.model, pair.guide
    with torch.no_grad():
        log_p = model.log_marginal(x)
        bound = exact.elbo(x, model.weight, model.bias, model.log_scale.exp(), *_moments(guide.posterior(x)))
        mean, covariance = model.posterior(x)
        kl = exact.gaussian_kl(*_moments(guide.posterior(x)), mean, covariance)
    best = exact.log_marginal(x, *closed_form(x, latent_dim, noise))
    numbers = {
        "log p(x), maximum in closed form": float(best.mean()),
        "log p(x), fitted by SVI": float(log_p.mean()),
        "bound, fitted by SVI": float(bound.mean()),
        "KL from the guide to the exact posterior": float(kl.mean()),
    }
    if noise == "isotropic":
        # scikit-learn's covariance has divisor N - 1, a little off the maximum.
        numbers["log p(x), scikit-learn's PCA"] = float(PCA(latent_dim).fit(x.numpy()).score(x.numpy()))
    return numbers


def _moments(posterior: torch.distributions.MultivariateNormal) -> tuple[Tensor, Tensor]:
    return posterior.mean, posterior.covariance_matrix


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the comparison and save the columns of W, SVI's turned onto the closed form's, as pictures."""
    parser = argparse.ArgumentParser(parents=[RECORD], description="PPCA by SVI against its exact solution, on digits.")
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument(
        "--noise", choices=("isotropic", "diagonal"), default="isotropic", help="PPCA or factor analysis"
    )
    parser.add_argument("--out", type=Path, default=Path("ppca.png"), help="where the figure goes")
    parser.add_argument("--quick", action="store_true", help="a short fit, for a look or a test")
    options = parser.parse_args(argv)

    data = ppl_vae.data.load("digits", binarization="none")
    x, L = data.train["x"].double(), options.latent_dim
    if options.noise == "diagonal":
        # A pixel that never changes has no noise to learn, and factor analysis no upper bound: leave such pixels out.
        x = x[:, x.var(0) > 1e-3]
    run = fit(x, L, options.noise, epochs=20 if options.quick else 600)
    print("nats per datum")
    for name, value in compare(run, x, L, options.noise).items():
        print(f"{name:45} {value:9.4f}")

    if options.noise == "isotropic":
        options.out.parent.mkdir(parents=True, exist_ok=True)
        W = run.pair.model.weight
        reference = closed_form(x, L, options.noise).weight
        figure = plots.weights_as_images(W, data.spec.image_shape, reference=reference)
        figure.savefig(options.out, dpi=120)
        print(f"figure: {options.out}")
    return {"seed": 0, "device": run.config["fit"]["device"]}


if __name__ == "__main__":
    main()
