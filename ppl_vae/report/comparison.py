"""A fitted PPCA against what is known of it in closed form: log p(x), W, and the posterior of z.

gap = max log p(x) - log p(x) of the fit,    KL(q(z|x) || p(z|x)) of the guide to the fitted model's exact posterior
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ppl_vae import exact, plots
from ppl_vae.core.process import evaluating, isolated
from ppl_vae.data import Dataset, Split
from ppl_vae.exact import PPCAParameters
from ppl_vae.report.page import Report
from ppl_vae.training.run_folder.run import Run


@dataclass(frozen=True)
class PPCAComparison:
    """Means over data, in nats per datum, of one fit of PPCA with a linear guide.

    Attributes
    ----------
    run, data
        The fit, and what it was fitted to.
    best : PPCAParameters
        Maximum likelihood in closed form, float64.
    fitted, maximum, witness : dict of str to float
        log p(x) by split: of the fit, of `best`, and of scikit-learn's PCA.
    bound, bound_error, kl : float
        ELBO on the training data with its Monte Carlo standard error, and the guide's KL to the exact posterior.
    """

    run: Run
    data: Dataset
    best: PPCAParameters
    fitted: dict[str, float]
    maximum: dict[str, float]
    witness: dict[str, float]
    bound: float
    bound_error: float
    kl: float

    @classmethod
    def of(cls, run: Run, data: Dataset) -> PPCAComparison:
        """Compare the fit `run` of PPCA to `data` with its closed form."""
        from sklearn.decomposition import PCA  # slow to import

        model: Any = run.pair.model
        guide: Any = run.pair.guide
        L = model.latent_dim
        splits = {"train": data.train["x"].double(), "test": data.test["x"].double()}
        best = exact.ppca_maximum_likelihood(splits["train"], L)
        sklearn = PCA(L, svd_solver="full").fit(splits["train"].numpy())
        x = data.train["x"].to(run.pair.device, run.pair.dtype)
        with torch.no_grad():
            q, (mean, covariance) = guide.posterior(x), model.posterior(x)
            fitted = {
                role: float(exact.log_marginal(value, *_parameters(run)).mean()) for role, value in splits.items()
            }
            kl = exact.gaussian_kl(*(t.double() for t in (q.loc, q.covariance_matrix, mean, covariance))).mean()
        bound, bound_error = monte_carlo_bound(run, data.train)
        return cls(
            run,
            data,
            best,
            fitted,
            {role: float(exact.log_marginal(value, *best).mean()) for role, value in splits.items()},
            {role: float(sklearn.score(value.numpy())) for role, value in splits.items()},
            bound,
            bound_error,
            float(kl),
        )

    @property
    def gap(self) -> float:
        """What the fit's log p(x) of the training data falls short of the maximum, in nats per datum."""
        return self.maximum["train"] - self.fitted["train"]

    def add_to(self, report: Report) -> None:
        """Add a section with a table and three figures."""
        report.text(
            "## PPCA: how close SVI comes to the closed form\n\n"
            f"p(z) = N(0, I) with {self.run.pair.model.latent_dim} latents, p(x | z) = N(Wz + b, s²I). The W, b and s "
            "that make the data most likely follow from the eigenvectors of their covariance (Tipping and Bishop "
            f"1999). SVI knows nothing of this, and ends **{self.gap:.4f} nats** per datum below that maximum. Its "
            f"guide is **{self.kl:.4f} nats** (mean KL) from the exact posterior."
        )
        s = float(_parameters(self.run).scale)
        report.table(
            ("nats per datum", "SVI", "exact", "sklearn"),
            [
                ("log p(x), training", self.fitted["train"], self.maximum["train"], self.witness["train"]),
                ("log p(x), test", self.fitted["test"], self.maximum["test"], self.witness["test"]),
                ("ELBO, training", self.bound, None, None),
                ("KL to posterior", self.kl, None, None),
                ("noise s (no nats)", s, float(self.best.scale), None),
            ],
            "log p(x) of SVI's fit, of the closed form (exact), and of scikit-learn's PCA. No PPCA gives the training "
            "data more than the closed form does; other data it need not suit best. The ELBO lies below log p(x) by "
            f"the KL in the line under it (its Monte Carlo error is {self.bound_error:.4f}).",
        )
        report.figure(
            plots.history(self.run.history, reference=self.maximum["train"]),
            "SVI's bound over the epochs. On the training data it should rise to the dashed line, the highest log p(x) "
            "that any PPCA gives them, and settle there; single epochs scatter about it, each being a noisy estimate.",
            "ppca-history",
        )
        shape = self.data.spec.image_shape
        if shape is not None:
            report.figure(
                plots.weights_as_images(_parameters(self.run).weight, shape, reference=self.best.weight),
                "The columns of W as images: what one latent does to the picture (red adds ink, blue takes it away). "
                "The two rows should look the same. The data determine W only up to a rotation of the latents, so "
                "SVI's W is shown after the orthogonal Procrustes rotation that brings it nearest to the closed form.",
                "ppca-weights",
            )
        expected, means = self.posterior_means()
        report.figure(
            plots.posterior_comparison(expected, means),
            f"What each of {len(means)} test data says about each latent: the guide's mean, rotated like W, against "
            "the mean of the closed form's posterior. Points belong on the dashed line; the lower panel magnifies "
            "what is left.",
            "ppca-posterior",
        )

    def posterior_means(self) -> tuple[Tensor, Tensor]:
        """Return the means of z (N, L) for the test data: the closed form's, and the guide's in the same rotation."""
        from scipy.linalg import orthogonal_procrustes  # slow to import

        x, guide = self.data.test["x"], cast(Any, self.run.pair.guide)
        rotation, _ = orthogonal_procrustes(_parameters(self.run).weight.numpy(), self.best.weight.numpy())
        with torch.no_grad():
            z = guide.posterior(x.to(self.run.pair.device, self.run.pair.dtype)).loc.double().cpu()
        return exact.posterior(x.double(), *self.best)[0], z @ torch.from_numpy(rotation)


def monte_carlo_bound(run: Run, split: Split, draws: int = 50, seed: int = 0) -> tuple[float, float]:
    """Return the ELBO of a split, in nats per datum, and its Monte Carlo standard error."""
    with isolated(seed, device=run.pair.device), evaluating(run.pair):
        weights = run.pair.log_weights(split.to(run.pair.device, run.pair.dtype), draws).double()
    each = weights.mean(1)
    return float(each.mean()), float(each.std()) / draws**0.5


def _parameters(run: Run) -> PPCAParameters:
    """Return W, b and s of the fitted model, float64 on the CPU."""
    model: Any = run.pair.model
    W, b, s = (value.detach().double().cpu() for value in (model.weight, model.bias, model.log_scale.exp()))
    return PPCAParameters(W, b, s)
