"""An autoencoder beside a VAE of the same networks: their latent spaces, and what these are worth with few labels.

    AE    z = encoder(x), trained by |x - decoder(z)|^2; no prior, no log p(x)
    VAE   p(x|z) = Bernoulli(decoder(z)), q(z|x) = N(m(x), diag s(x)^2), trained by the ELBO; its features are m(x)
    PPCA  p(z|x) at the maximum likelihood of grey pixels, in closed form; its features are the means

AE and VAE are trained on the same binarised pictures, without labels. A classifier, scikit-learn's logistic regression,
then gets 100 or 1000 labels, equally many of each class, and features of grey pictures: their pixels, or the above.
Other labels give other accuracies, so each stands with its mean and standard error over draws of labels, and the
difference to pixels, on the same draws, with its own. Features are centred and divided by one number, from the training
data without labels; the penalty is chosen for each draw by 5-fold cross-validation (log loss) on the labelled data.
Test data have no part in any choice.

    python examples/autoencoder.py
    python examples/autoencoder.py --data mnist --latent-dim 50 --hidden 500 500 --epochs 20 --batch-size 256
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold

import ppl_vae
from ppl_vae import plots
from ppl_vae.data import Dataset, Split
from ppl_vae.guides import AmortizedDelta, AmortizedNormal
from ppl_vae.models import PPCA, VAE, Autoencoder
from ppl_vae.report import RECORD, recorded

Floats = NDArray[np.float64]

#: Inverse strengths of the penalty to choose from.
STRENGTHS = np.logspace(-1, 4, 6)


def train(data: Dataset, options: argparse.Namespace) -> dict[str, ppl_vae.Run]:
    """Return the fits to the same data of an autoencoder and a VAE whose networks have the same hidden layers."""
    D, L, kept = data.spec.x_dim, options.latent_dim, options.runs
    networks = {"hidden": tuple(options.hidden), "activation": "relu"}
    runs = {}
    for name in ("AE", "VAE"):
        torch.manual_seed(options.seed)
        if name == "AE":
            pair = ppl_vae.Pair(Autoencoder(D, L, **networks), AmortizedDelta(D, L, **networks))
        else:
            pair = ppl_vae.Pair(VAE(D, L, **networks), AmortizedNormal(D, L, **networks))
        runs[name] = ppl_vae.fit(
            pair, data, epochs=options.epochs, batch_size=options.batch_size, lr=1e-3, seed=options.seed,
            device=options.device, run_dir=kept and kept / name.lower(), resume=kept is not None,
        )  # fmt: skip
        runs[name].pair.cpu()
    return runs


def features(split: Split, runs: dict[str, ppl_vae.Run], ppca: PPCA) -> dict[str, Floats]:
    """Return what a classifier may see of some data, (N, D) or (N, L), by name."""
    with torch.no_grad():
        found = {"pixels": split["x"], "PPCA": ppca.posterior(split["x"].double())[0]}
        found |= {name: run.pair.posterior_mean(split)["z"] for name, run in runs.items()}
    return {name: value.double().numpy() for name, value in found.items()}


def balanced(y: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Return `count` rows, as many of each class, drawn without repeats."""
    generator, classes = np.random.default_rng(seed), np.unique(y)
    each = count // len(classes)
    return np.concatenate([generator.choice(np.flatnonzero(y == value), each, replace=False) for value in classes])


def accuracy(x: Floats, y: NDArray[np.int64], x_test: Floats, y_test: NDArray[np.int64], seed: int) -> float:
    """Return the accuracy in % on test data of a classifier of labelled data x (n, F), y (n,)."""
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": STRENGTHS}, scoring="neg_log_loss", cv=folds)
    return 100 * float(np.mean(search.fit(x, y).predict(x_test) == y_test))


def accuracies(
    train: dict[str, Floats], test: dict[str, Floats], data: Dataset, count: int, draws: int, seed: int
) -> dict[str, Floats]:
    """Return the accuracy by features for each draw of `count` labels, (draws,) in %."""
    y, y_test = data.train["y"].numpy(), data.test["y"].numpy()
    rows = [balanced(y, count, seed + draw) for draw in range(draws)]
    found = {}
    for name, x in train.items():
        centre, scale = x.mean(0), x.var(0).sum() ** 0.5
        z, z_test = (x - centre) / scale, (test[name] - centre) / scale
        found[name] = np.array([accuracy(z[row], y[row], z_test, y_test, seed) for row in rows])
    return found


def estimate(values: Floats, sign: str = "") -> str:
    """Return a mean with its standard error over draws."""
    return f"{values.mean():{sign}6.2f} ± {values.std(ddof=1) / len(values) ** 0.5:.2f}"


def quality(runs: dict[str, ppl_vae.Run], test: Split, few: Split, num_particles: int) -> str:
    """Return a table of mean squared errors of reconstructions of `test`, and of log p(x) of `few`."""
    x = test["x"]
    lines = [f"{'':6}{'squared error':>15}   log p(x), nats per datum"]
    for name, run in runs.items():
        x_hat = run.pair.decode(run.pair.posterior_mean(test))["x"]
        shown = "none: an autoencoder is no model of x"
        if name == "VAE":
            shown = str(ppl_vae.log_likelihood(run.pair, few, num_particles=num_particles))
        lines.append(f"{name:6}{float((x - x_hat).square().sum(1).mean()):15.3f}   {shown}")
    return "\n".join(lines)


def comparison(found: dict[str, Floats]) -> str:
    """Return a table of accuracies, and of their differences to pixels on the same draws, ± standard errors."""
    lines = [f"{'features':10}{'accuracy':>15}{'minus pixels':>17}"]
    for name, values in found.items():
        paired = "" if name == "pixels" else estimate(values - found["pixels"], "+")
        lines.append(f"{name:10}{estimate(values):>15}{paired:>17}".rstrip())
    return "\n".join(lines)


def latent_spaces(runs: dict[str, ppl_vae.Run], few: Split) -> Figure:
    """Draw the features of both side by side, brought to the plane by PCA (above) and by t-SNE (below)."""
    panels = {
        f"{name}, {title}": plots.embed(run.pair.posterior_mean(few)["z"], method=method)
        for method, title in (("pca", "PCA"), ("tsne", "t-SNE"))
        for name, run in runs.items()
    }
    return plots.embeddings(panels, few["y"])


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, print reconstructions, log p(x) and accuracies, and save the latent spaces side by side."""
    parser = argparse.ArgumentParser(
        parents=[RECORD], description="An autoencoder beside a VAE: latent spaces, and few labels."
    )
    parser.add_argument("--data", default="digits", help="a data set of grey images with labels: digits or mnist")
    parser.add_argument("--latent-dim", type=int, default=10)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 1000], help="how many the classifier gets")
    parser.add_argument("--draws", type=int, default=10, help="draws of labels")
    parser.add_argument("--num-particles", type=int, default=200, help="of the VAE's log p(x)")
    parser.add_argument("--num-test", type=int, default=1000, help="test data for log p(x) and for the figure, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--runs", type=Path, help="folder for the fits, which go on from there; none are kept without")
    parser.add_argument("--out", type=Path, default=Path("autoencoder.png"), help="where the figure goes")
    parser.add_argument("--quick", action="store_true", help="a short fit, for a look or a test")
    options = parser.parse_args(argv)
    if options.quick:
        options.epochs, options.labels, options.draws, options.num_particles = 2, [100], 2, 10

    data, grey = ppl_vae.data.load(options.data), ppl_vae.data.load(options.data, binarization="none")
    runs = train(data, options)
    device = runs["VAE"].config["fit"]["device"]
    ppca = PPCA.maximum_likelihood(grey.train["x"].double(), options.latent_dim)
    few = data.test.take(min(options.num_test, data.test.size), seed=options.seed)

    print(f"{options.data}, {options.latent_dim} latents\n")
    print(quality(runs, data.test, few, options.num_particles), flush=True)
    train_features, test_features = (features(split, runs, ppca) for split in (grey.train, grey.test))
    for count in options.labels:
        found = accuracies(train_features, test_features, grey, count, options.draws, options.seed)
        print(
            f"\n{count:,} labels, {options.draws} draws: accuracy on {data.test.size:,} test data, %, ± standard error"
        )
        print(comparison(found), flush=True)

    options.out.parent.mkdir(parents=True, exist_ok=True)
    latent_spaces(runs, few).savefig(options.out, dpi=120)
    print(f"\nfigure: {options.out}")
    return {"seed": options.seed, "device": device}


if __name__ == "__main__":
    main()
