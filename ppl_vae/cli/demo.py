"""The demonstration: PPCA by SVI against its closed form, then a VAE, on handwritten digits, as one report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ppl_vae.cli.source import Source
from ppl_vae.core.errors import InputError
from ppl_vae.core.process import one_thread
from ppl_vae.core.progress import bar
from ppl_vae.data import Dataset
from ppl_vae.evaluation.marginal_likelihood import log_likelihood
from ppl_vae.evaluation.result import LogLikelihood
from ppl_vae.report import Report, add_run, run_report
from ppl_vae.report.comparison import PPCAComparison, monte_carlo_bound
from ppl_vae.training.fit import fit
from ppl_vae.training.run_folder.run import Run, environment

SEED = 0
LATENTS = 8
PPCA_SETTINGS: dict[str, Any] = {"batch_size": 256, "lr": 2e-2, "schedule": "cosine"}

INTRODUCTION = """
A **model** p(x, z) says how data x come about from latents z that nobody sees. A **guide** q(z | x) says which latents
may have made an x. Stochastic variational inference (**SVI**) fits both at once: it raises a lower bound on log p(x),
the **ELBO**. Two such pairs are fitted here to images of handwritten digits, 8 by 8 pixels:
"""

PAIRS = (
    "- **PPCA** (probabilistic principal component analysis) is linear. Its best fit is known in closed form, so it "
    "shows how close SVI comes.",
    "- A **VAE** (variational autoencoder) puts networks in place of straight lines. Its log p(x) has no closed form: "
    "it is estimated, with an error bar.",
)

BLACK_AND_WHITE = """
## VAE: what it sees

Every time an image is drawn for training, each pixel is made black or white anew, white as often as it is bright
(dynamic binarisation). So the data of the figures below look ragged, and the **means** of the model, which never saw a
grey pixel, should look like smooth grey digits.
"""

NEXT = (
    "- `ppl-vae list` names the models, data sets and likelihoods there are.",
    "- `ppl-vae fit vae --data digits --latent-dim 2 --run-dir runs/mine` fits one of your own; "
    "`ppl-vae evaluate runs/mine` estimates its log p(x); `ppl-vae report runs/mine` writes a page like this one.",
    "- `ppl-vae fit ppca --data mine.csv` takes your own data, one row each.",
)


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


@one_thread()
def demo(out: Path, *, quick: bool = False, say: Callable[[str], object] = print, progress: bool | None = None) -> Path:
    """Run the demonstration and return the path of its report.

    Parameters
    ----------
    out : Path
        Folder for ``report.html`` and for the runs ``ppca`` and ``vae``. One that was stopped half-way is gone on with.
    quick : bool
        A few seconds instead of minutes, for tests: the numbers then mean little.
    say : callable
        Called with one line at a time.
    progress : bool, optional
        Whether to show progress bars; by default on a terminal.

    Raises
    ------
    InputError
        If the folder holds a finished demonstration, or runs with other settings.
    RunError
        If it cannot be written to or the disk is full.
    """
    path = out / "report.html"
    if path.exists():
        raise InputError(f"out {out}", expected="a new folder", got="one that holds a report", hint="another folder")
    effort = QUICK if quick else Effort()

    say(f"1/4  fit PPCA ({LATENTS} latents) to grey digits, and compare with the closed form")
    ppca = Source("ppca", "digits", {"latent_dim": LATENTS}, "none")
    comparison = PPCAComparison.of(*_fit(ppca, out / "ppca", progress, epochs=effort.ppca_epochs, **PPCA_SETTINGS))

    say(f"2/4  fit a VAE ({LATENTS} latents) to the digits in black and white, drawn anew in every epoch")
    vae = Source("vae", "digits", {"latent_dim": LATENTS, "hidden": effort.hidden}, "dynamic")
    run, data = _fit(vae, out / "vae", progress, epochs=effort.vae_epochs, patience=effort.patience)

    say(f"3/4  estimate the VAE's log p(x) of {data.test.size} test digits")
    bound = monte_carlo_bound(run, data.test, seed=SEED)
    estimates = [
        log_likelihood(run.pair, data.test, num_particles=effort.num_particles // share, seed=SEED, progress=progress)
        for share in (100, 10, 1)
    ]
    comparison.run.record(log_likelihood(comparison.run.pair, comparison.data.test, method="exact"))
    run.record(estimates[-1])

    say("4/4  write the reports")
    summary = _summary(comparison, bound, estimates[-1])
    report = Report(
        "ppl_vae on handwritten digits",
        "A linear model against its closed form, and a variational autoencoder.",
        environment={**environment(torch.device("cpu")), "seed": SEED, "runs": f"{out / 'ppca'}, {out / 'vae'}"},
    )
    _introduce(report, summary)
    comparison.add_to(report)
    with bar("pictures", 1, progress) as advance:
        report.text(BLACK_AND_WHITE)
        add_run(report, run, data, name="VAE", estimates=estimates[-1:], embedding=effort.embedding, seed=SEED)
        advance()
    _tighten(report, bound, estimates)
    report.text("## What to try next\n\n" + "\n".join(NEXT))
    run_report(comparison.run, comparison.data, progress=progress, reference=comparison.maximum["train"], seed=SEED)
    run_report(run, data, progress=progress, estimates=estimates[-1:], embedding=effort.embedding, seed=SEED)
    report.write(path, progress=progress)  # last: its presence shows that the demo is complete

    width = max(len(what) for what, _ in summary)
    for line in ["", *(f"{what:{width}}  {value}" for what, value in summary), ""]:
        say(line)
    say(f"report: {path} (with a report of each run in {out / 'ppca'} and {out / 'vae'})")
    return path


def _fit(source: Source, folder: Path, progress: bool | None, **settings: Any) -> tuple[Run, Dataset]:
    """Fit what `source` names, or go on with it, and return the run and its data."""
    data = source.load_data()
    run = fit(
        source.build_pair(data.spec, SEED),
        data,
        seed=SEED,
        device="cpu",
        run_dir=folder,
        resume=True,
        source=source.to_json(),
        progress=progress,
        **settings,
    )
    return run, data


def _summary(comparison: PPCAComparison, bound: tuple[float, float], estimate: LogLikelihood) -> list[tuple[str, str]]:
    """Return what came out, in a few lines."""
    return [
        ("PPCA, log p(x) of SVI's fit (training)", f"{comparison.fitted['train']:.3f} nats per datum"),
        ("PPCA, closed-form maximum", f"{comparison.maximum['train']:.3f}"),
        ("PPCA, KL of the guide to the exact posterior", f"{comparison.kl:.3f}"),
        ("VAE, ELBO (test)", f"{bound[0]:.3f} ± {bound[1]:.3f} Monte Carlo"),
        (
            f"VAE, log p(x) (test, K = {estimate.num_particles:,})",
            f"{estimate.mean:.3f} ± {estimate.standard_error:.3f} Monte Carlo "
            f"± {estimate.data_standard_error:.3f} data sampling",
        ),
    ]


def _introduce(report: Report, summary: list[tuple[str, str]]) -> None:
    report.text(INTRODUCTION)
    report.text("\n".join(PAIRS))
    report.table(
        ("what", "value"),
        [(what, value.replace("-", "−")) for what, value in summary],
        "What came out, in nats per datum (1 nat = 1.44 bits); of log p(x) and ELBO, higher is better. **The two "
        "models do not compare**: PPCA sees grey values and gives a density, the VAE sees black and white pixels and "
        "gives a probability.",
    )


def _tighten(report: Report, bound: tuple[float, float], estimates: list[LogLikelihood]) -> None:
    """Add how the bound closes on log p(x) with the number of particles."""
    report.text(
        "## VAE: from the bound to log p(x)\n\n"
        "The ELBO averages the log weights, log p(x, z) − log q(z | x), of latents z that the guide draws. Importance "
        "weighting averages the weights of K draws before it takes the logarithm. In expectation that is a bound too, "
        "and it rises to log p(x) as K grows."
    )
    rows = [("ELBO", None, *bound)]
    rows += [("importance", each.num_particles, each.mean, each.standard_error) for each in estimates]  # type: ignore[misc]
    report.table(
        ("test digits", "K", "nats per datum", "± MC"),
        rows,
        "From top to bottom the values should rise, and level off within their Monte Carlo errors (± MC). What the "
        f"ELBO lacks at the end, {estimates[-1].mean - bound[0]:.2f} nats, is the KL of the guide to the exact "
        "posterior.",
    )
