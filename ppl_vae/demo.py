"""The demonstration: PPCA by SVI against its closed form, then a VAE, on handwritten digits, as one report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.linalg import orthogonal_procrustes

from ppl_vae import exact, plots
from ppl_vae.context import evaluating, isolated
from ppl_vae.data import Dataset, Split
from ppl_vae.errors import InputError
from ppl_vae.evaluate import log_likelihood
from ppl_vae.fit import fit
from ppl_vae.progress import bar
from ppl_vae.report import Report, add_run, run_report
from ppl_vae.result import LogLikelihood
from ppl_vae.runs import Run, environment
from ppl_vae.source import Source

SEED = 0
LATENTS = 8

INTRODUCTION = """
A **model** p(x, z) says how data x come about from latents z that nobody sees. A **guide** q(z | x) says which latents
may have made an x. Stochastic variational inference (**SVI**) fits both at once, by raising a lower bound on log p(x), the
**ELBO**. Two pairs of model and guide are fitted here to 8x8 images of handwritten digits:

- **PPCA** (probabilistic principal component analysis) is linear, and its best fit is known in closed form. It shows how
  close SVI comes.
- A **VAE** (variational autoencoder) replaces the straight lines by networks. Its log p(x) has no closed form; it is
  estimated, with an error bar.

All log-likelihoods are in **nats per datum** (1 nat = 1.44 bits), higher is better. Those of the two models do **not**
compare: PPCA sees grey values and gives a density, the VAE sees black and white pixels and gives a probability.
"""

NEXT = """
## What to try next

- `ppl-vae list` names the models, data sets and likelihoods there are.
- `ppl-vae fit vae --data digits --latent-dim 2 --run-dir runs/mine` fits one of your own, `ppl-vae evaluate runs/mine`
  estimates its log p(x), and `ppl-vae report runs/mine` writes a page like this one.
- `ppl-vae fit ppca --data mine.csv` takes your own data, one row each.
"""


@dataclass(frozen=True)
class Effort:
    """How much is done: epochs, size of the VAE's networks, particles of its estimate."""

    ppca_epochs: int = 600
    vae_epochs: int = 400
    patience: int = 40
    hidden: tuple[int, ...] = (200, 200)
    num_particles: int = 1000
    embedding: str = "tsne"


QUICK = Effort(ppca_epochs=4, vae_epochs=4, patience=2, hidden=(16,), num_particles=200, embedding="pca")


def demo(out: Path, *, quick: bool = False, say: Callable[[str], object] = print, progress: bool | None = None) -> Path:
    """Run the demonstration and return the path of its report.

    Parameters
    ----------
    out : Path
        Folder for ``report.html`` and for the runs ``ppca`` and ``vae``. One that was stopped half-way is gone on with.
    quick : bool
        A few seconds instead of minutes, for tests: the numbers then mean little.
    say : callable
        Told one line at a time.
    progress : bool, optional
        Whether to show progress bars; by default on a terminal.

    Raises
    ------
    InputError
        If the folder holds a finished demonstration, or runs with other settings.
    RunError
        If it cannot be written to or the disk is full.
    """
    if (out / "report.html").exists():
        raise InputError(f"out {out}", expected="a new folder", got="one that holds a report", hint="another folder")
    effort = QUICK if quick else Effort()
    report = Report(
        "ppl_vae on handwritten digits",
        "A linear model against its closed form, and a variational autoencoder.",
        environment={**environment(torch.device("cpu")), "seed": SEED, "runs": f"{out / 'ppca'}, {out / 'vae'}"},
    )
    report.text(INTRODUCTION)

    say(f"1/4  fit PPCA ({LATENTS} latents) to grey digits, and compare with the closed form")
    summary = _ppca(report, out / "ppca", effort, progress)
    say(f"2/4  fit a VAE ({LATENTS} latents) to the digits in black and white, drawn afresh in every epoch")
    vae, data = _fit(Source("vae", "digits", {"latent_dim": LATENTS, "hidden": effort.hidden}, "dynamic"),
                     out / "vae", progress, epochs=effort.vae_epochs, patience=effort.patience)  # fmt: skip
    say(f"3/4  estimate its log p(x) on {data.test.size} test digits")
    summary += _vae(report, vae, data, effort, progress)
    say("4/4  write the reports")
    report.text(NEXT)
    path = report.write(out / "report.html", progress=progress)
    say("")
    for line in _lined_up(summary):
        say(line)
    say(f"\nreport: {path}   (runs with reports of their own: {out / 'ppca'}, {out / 'vae'})")
    return path


def _fit(source: Source, folder: Path, progress: bool | None, **options: Any) -> tuple[Run, Dataset]:
    """Fit what `source` names, or go on with it, and return the run and its data."""
    data = source.load_data()
    pair = source.build_pair(data.spec, SEED)
    run = fit(pair, data, device="cpu", run_dir=folder, resume=True, seed=SEED, source=source.to_json(), progress=progress, **options)
    return run, data


# ------------------------------------------------------------------------------------------------ PPCA


def _ppca(report: Report, folder: Path, effort: Effort, progress: bool | None) -> list[tuple[str, str]]:
    """Fit PPCA, add its comparison with the closed form to `report`, and return lines for the summary."""
    from sklearn.decomposition import PCA  # slow to import

    source = Source("ppca", "digits", {"latent_dim": LATENTS}, "none")
    run, data = _fit(source, folder, progress, epochs=effort.ppca_epochs, batch_size=256, lr=2e-2, schedule="cosine")
    model, guide = run.pair.model, run.pair.guide
    train, test = data.train["x"], data.test["x"]
    best = exact.ppca_maximum_likelihood(train.double(), LATENTS)
    with torch.no_grad():
        reached = {
            split.role: float(model.log_marginal(split["x"]).double().mean()) for split in (data.train, data.test)
        }
        maximum = {
            role: float(exact.log_marginal(x.double(), *best).mean()) for role, x in (("train", train), ("test", test))
        }
        q, (mean, covariance) = guide.posterior(train), model.posterior(train)
        kl = exact.gaussian_kl(q.loc.double(), q.covariance_matrix.double(), mean.double(), covariance.double()).mean()
        bound, error = _bound(run, data.train)
        W, s = model.weight.double(), model.log_scale.exp()
        R = torch.from_numpy(orthogonal_procrustes(W.numpy(), best.weight.numpy())[0])
        means = guide.posterior(test).loc.double() @ R
    witness = PCA(LATENTS, svd_solver="full").fit(train.double().numpy())
    gap = maximum["train"] - reached["train"]

    report.text("## PPCA: how close SVI comes to the closed form")
    report.text(
        f"p(z) = N(0, I) with {LATENTS} latents, p(x | z) = N(Wz + b, s²I). Maximum likelihood has W, b and s from the "
        f"eigenvectors of the covariance (Tipping and Bishop 1999). SVI knows nothing of this and ends **{gap:.4f} nats** "
        f"per datum below that maximum; its guide is **{float(kl):.4f} nats** (mean KL) from the exact posterior."
    )
    rows = [
        ("log p(x), training data", f"{reached['train']:.4f}", f"{maximum['train']:.4f}", f"{witness.score(train.double()):.4f}"),
        ("log p(x), test data", f"{reached['test']:.4f}", f"{maximum['test']:.4f}", f"{witness.score(test.double()):.4f}"),
        ("ELBO, training data", f"{bound:.4f} ± {error:.4f}", None, None),
        ("KL(guide ‖ exact posterior)", f"{float(kl):.4f}", "0", None),
        ("noise s", f"{float(s):.5f}", f"{float(best.scale):.5f}", f"{witness.noise_variance_**0.5:.5f}"),
    ]  # fmt: skip
    report.table(
        ("nats per datum", "SVI", "closed form", "scikit-learn"),
        rows,
        "The fitted model's exact log p(x), against the closed-form maximum and scikit-learn's PCA (which divides by N − 1 "
        "where maximum likelihood divides by N). Only on the training data is the closed form the highest there is. The ELBO "
        "lies below log p(x) by the KL of the line after it; ± is its Monte Carlo error.",
    )
    report.figure(
        plots.history(run.history, reference=maximum["train"]),
        "SVI's bound over the epochs. It should rise to the dashed line, the highest log p(x) of the training data that any "
        "PPCA has, and not above it.",
        "ppca-history",
    )
    report.figure(
        plots.weights_as_images(W, data.spec.image_shape or (), reference=best.weight),
        "The columns of W as images: how one latent changes the picture (red adds ink, blue takes it away). The rows should "
        "look the same. The data determine W only up to a rotation of the latents, so SVI's W is shown after the orthogonal "
        "Procrustes rotation that brings it nearest to the closed form.",
        "ppca-weights",
    )
    report.figure(
        plots.posterior_comparison(exact.posterior(test.double(), *best)[0], means),
        f"What each of the {len(test)} test digits says about each latent: the guide's mean, rotated as above, against the "
        "closed form's posterior mean. Points belong on the dashed line; the lower panel magnifies what is left.",
        "ppca-posterior",
    )
    run.record(log_likelihood(run.pair, data.test, method="exact"))
    run_report(run, data, progress=progress, reference=maximum["train"], seed=SEED)
    return [
        ("PPCA, log p(x) of SVI's fit (training)", f"{reached['train']:.3f}"),
        ("PPCA, closed-form maximum", f"{maximum['train']:.3f}"),
        ("PPCA, KL of guide to exact posterior", f"{float(kl):.3f}"),
    ]


# ------------------------------------------------------------------------------------------------ VAE


def _vae(report: Report, run: Run, data: Dataset, effort: Effort, progress: bool | None) -> list[tuple[str, str]]:
    """Add the sections on the VAE to `report`, and return lines for the summary."""
    estimates = [
        log_likelihood(run.pair, data.test, num_particles=K, seed=SEED, progress=progress)
        for K in (effort.num_particles // 100, effort.num_particles // 10, effort.num_particles)
    ]
    best = estimates[-1]
    run.record(best)
    bound, error = _bound(run, data.test)
    with bar("pictures", 1, progress) as advance:
        add_run(report, run, data, name="VAE", estimates=[best], embedding=effort.embedding, seed=SEED)
        advance()
    report.text("## VAE: from the bound to log p(x)")
    report.text(
        "The ELBO averages the log weights log p(x, z) − log q(z | x) of latents z drawn from the guide. Importance weighting "
        "averages the weights of K draws before it takes the logarithm: also a bound in expectation, which rises to log p(x) "
        "as K grows."
    )
    rows: list[tuple[str, str, str]] = [("ELBO", f"{bound:.3f}", f"{error:.3f}")]
    rows += [
        (f"importance, K = {each.num_particles:,}", f"{each.mean:.3f}", f"{each.standard_error:.3f}")
        for each in estimates
    ]
    report.table(
        ("on the test digits", "nats per datum", "± Monte Carlo"),
        rows,
        f"The values should rise downwards and level off. What the ELBO lacks, {best.mean - bound:.2f} nats, is how far the "
        "guide is from the exact posterior (KL).",
    )
    run_report(run, data, progress=progress, estimates=[best], embedding=effort.embedding, seed=SEED)
    return [
        ("VAE, ELBO (test)", f"{bound:.3f} ± {error:.3f}"),
        (f"VAE, log p(x) (test, importance, K = {best.num_particles:,})", _both_errors(best)),
    ]


def _both_errors(estimate: LogLikelihood) -> str:
    return f"{estimate.mean:.3f} ± {estimate.standard_error:.3f} Monte Carlo ± {estimate.data_standard_error:.3f} data"


def _bound(run: Run, split: Split, draws: int = 50) -> tuple[float, float]:
    """Return the ELBO of a split, in nats per datum, and its Monte Carlo standard error."""
    with isolated(SEED), evaluating(run.pair):
        per_draw = run.pair.log_weights(split.to(run.pair.device, run.pair.dtype), draws).double().mean(1)
    return float(per_draw.mean()), float(per_draw.std()) / draws**0.5


def _lined_up(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(what) for what, _ in rows)
    return [
        "nats per datum, higher is better (but for the KL)",
        *(f"  {what:{width}}  {value}" for what, value in rows),
    ]
