"""Digits from a few labels: M1, M2 and M1+M2 (Kingma, Mohamed, Rezende & Welling 2014).

    M1      a VAE's features, the means of q(z|x), and a support vector machine on those that are labelled
    M2      p(y) p(z) p(x|y, z),  q(y|x) q(z|x, y);  y is summed out where it is not known
    M1+M2   M2 of the features of M1; M1's networks go on learning, or stay as they are (`--frozen`, as in the paper)

Every draw takes other labels, equally many of each class; the accuracy is its mean over draws with Student's 95 %
interval. Pictures are binarised afresh for every batch, and classified by their grey values. Settings were chosen on
validation data; test data are only counted. Labelled data are repeated until they are a share `--labelled` of all, and
Kingma's alpha is a share of the data too: a labelled datum counts alpha N / N_l log q(y|x) beside its bound.

Figures, of the first draw with the fewest labels: whether q(y|x) is calibrated, the style of a test picture under every
label, and a t-SNE of the styles, which should not know the digit; how far a linear classifier still tells it from them
is printed.

    python examples/semi_supervised.py --labels 100 --draws 5
    python examples/semi_supervised.py --data mnist --labels 100 600 1000 3000 --compile inductor --runs runs/few
    python examples/semi_supervised.py --models m2 --classes enumerated sampled relaxed    # what summing out is worth
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor
from torch.nn.functional import one_hot

import ppl_vae
from ppl_vae import plots
from ppl_vae.data import Dataset, Role, Split
from ppl_vae.evaluation import Classification, classify, confidence_interval
from ppl_vae.guides import AmortizedMixture, AmortizedNormal, StackedMixture
from ppl_vae.models import M1M2, M2, VAE
from ppl_vae.report import RECORD, recorded

MODELS = ("m1", "m2", "m1+m2")


def fit(pair: ppl_vae.Pair, data: Dataset, name: str, options: argparse.Namespace, **settings: Any) -> None:
    """Fit a pair, in a folder of its own where fits are kept."""
    ppl_vae.fit(
        pair, data, batch_size=options.batch_size, compile=options.compile, device=options.device,
        run_dir=options.runs and options.runs / name, resume=options.runs is not None, **settings,
    )  # fmt: skip
    pair.cpu()


def m1(data: Dataset, options: argparse.Namespace) -> ppl_vae.Pair:
    """Return a VAE fitted to all pictures, without labels."""
    torch.manual_seed(options.seed)
    D, L, networks = data.spec.x_dim, options.latent_dim, {"hidden": tuple(options.m1_hidden), "activation": "softplus"}
    pair = ppl_vae.Pair(VAE(D, L, **networks), AmortizedNormal(D, L, **networks))
    fit(pair, data, "m1", options, epochs=options.m1_epochs, lr=1e-3, schedule="exponential", seed=options.seed)
    return pair


def semi_supervised(
    data: Dataset, how: str, alpha: float, vae: ppl_vae.Pair | None, options: argparse.Namespace
) -> ppl_vae.Pair:
    """Return a fresh M2 of pictures, or of the features of a VAE, from which its own copy of M1 starts."""
    D, L, C = data.spec.x_dim, options.style_dim, data.spec.num_classes
    assert C is not None
    networks: dict[str, Any] = {"hidden": (options.hidden,), "activation": "softplus"}
    given: dict[str, Any] = {"classes": how, "alpha": alpha} | networks
    networks["one_hot"] = how == "relaxed"
    if vae is None:
        return ppl_vae.Pair(M2(D, L, C, **networks), AmortizedMixture(D, L, C, **given))
    m1 = copy.deepcopy(vae).requires_grad_(not options.frozen)
    F = options.latent_dim
    return ppl_vae.Pair(
        M1M2(m1.model, M2(F, L, C, likelihood="normal-decoder", **networks)),
        StackedMixture(m1.guide, AmortizedMixture(F, L, C, **given)),
    )


def features(vae: ppl_vae.Pair, split: Split) -> Tensor:
    """Return the means of q(z|x), (N, L)."""
    return vae.posterior_mean({"x": split["x"]})["z"]


def support_vectors(vae: ppl_vae.Pair, few: Dataset, grey: Dataset, role: Role) -> float:
    """Return the accuracy of M1: a support vector machine on features of the labelled data."""
    shown = few.train["labelled"][: grey.train.size]
    z, y = features(vae, grey.train)[shown], grey.train["y"][shown]
    machine = SVC(C=10.0).fit(z, y)  # in units of all features together: those that hold nothing stay small
    split = grey.splits[role]
    return float(machine.score(features(vae, split), split["y"]))


def styles(pair: ppl_vae.Pair, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the mean of the style given the label, by its site: z of M2, z2 of M1+M2."""
    means = pair.posterior_mean({"x": x, "y": y})
    return {name: z for name, z in means.items() if name == ("z2" if "z2" in means else "z")}


def analogies(pair: ppl_vae.Pair, x: Tensor, y: Tensor, C: int) -> Tensor:
    """Return pictures x (n, D), each followed by its style under every label, (n, 1 + C, D)."""
    given = {name: z.repeat_interleave(C, 0) for name, z in styles(pair, x, y).items()}
    labels, drawn = torch.arange(C).repeat(len(x)), pair.posterior({"x": x})["y"]
    given["y"] = one_hot(labels, C).to(drawn.dtype) if drawn.is_floating_point() else labels
    if "z2" in given:
        given["z1"] = pair.decode(given)["z1"]
    return torch.cat([x[:, None], pair.decode(given)["x"].unflatten(0, (len(x), C))], 1)


def linear_probe(z: Tensor, y: Tensor) -> float:
    """Return how often a linear classifier tells y from z, on the half of the data that it was not fitted to."""
    half = len(z) // 2
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(z[:half], y[:half])
    return float(probe.score(z[half:], y[half:]))


def draw(pair: ppl_vae.Pair, found: Classification, test: Split, out: Path, title: str) -> list[Path]:
    """Save the three figures, and return where they are."""
    C = found.probabilities.shape[-1]
    assert test.spec.image_shape is not None
    rows = torch.stack([(test["y"] == k).nonzero()[0, 0] for k in range(C)])
    few = test.take(min(2000, test.size), seed=0)
    z = next(iter(styles(pair, few["x"], few["y"]).values()))
    print(ppl_vae.log_likelihood(pair, {"x": few["x"][:500]}, num_particles=100))
    print(f"a linear classifier tells the class from the style in {linear_probe(z, few['y']):.1%} of test data")
    panels = {"t-SNE of the data": few["x"], f"t-SNE of the styles, {title}": z}
    figures = {
        "calibration": plots.calibration({title: found.calibration()}),
        "analogies": plots.latent_walk(
            analogies(pair, test["x"][rows], test["y"][rows], C), test.spec.image_shape,
            values=["datum", *map(str, range(C))], value_name="label, with the style of the datum",
            row_labels=[str(k) for k in range(C)],
        ),
        "styles": plots.embeddings(
            {name: plots.embed(points, method="tsne") for name, points in panels.items()}, few["y"]
        ),
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = [out.with_stem(f"{out.stem}-{name}") for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        figure.savefig(path, dpi=120)
    return paths


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Fit every model to every draw of labels, print the table and save the figures."""
    parser = argparse.ArgumentParser(parents=[RECORD], description="Classes from a few labels: M1, M2 and M1+M2.")
    parser.add_argument("--data", default="digits", help="a data set of grey images with labels: digits or mnist")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--classes", nargs="+", default=["enumerated"], choices=["enumerated", "sampled", "relaxed"])
    parser.add_argument("--labels", type=int, nargs="+", default=[100])
    parser.add_argument("--draws", type=int, default=5, help="of labels, for each number of them")
    parser.add_argument("--labelled", type=float, default=0.1, help="share of labelled data in training, by repeating")
    parser.add_argument("--alpha", type=float, default=0.1, help="Kingma's, a share of the data")
    parser.add_argument("--style-dim", type=int, default=5, help="of the style z of M2, z2 of M1+M2")
    parser.add_argument("--hidden", type=int, default=300, help="of M2's networks")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--latent-dim", type=int, default=50, help="of M1, the VAE")
    parser.add_argument("--m1-hidden", type=int, nargs="+", default=[500, 500])
    parser.add_argument("--m1-epochs", type=int, default=40)
    parser.add_argument("--frozen", action="store_true", help="leave M1's networks as they are in M1+M2")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--lr", type=float, default=3e-3, help="of M2 and M1+M2")
    parser.add_argument("--seed", type=int, default=0, help="of the VAE, and of the first draw")
    parser.add_argument("--device", default="auto", help="to train on: auto, cpu, cuda")
    parser.add_argument("--compile", default="auto", help="auto, off, graph or inductor")
    parser.add_argument("--role", default="test", choices=["validation", "test"], help="what the accuracy is of")
    parser.add_argument("--runs", type=Path, help="folder for the fits, which go on from there; none are kept without")
    parser.add_argument("--out", type=Path, default=Path("semi_supervised.png"), help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="short fits, for a look or a test")
    options = parser.parse_args(argv)
    if options.quick:
        options.epochs = options.m1_epochs = options.draws = 2
        options.hidden, options.m1_hidden, options.latent_dim = 32, [32], 5

    data, grey = ppl_vae.data.load(options.data), ppl_vae.data.load(options.data, binarization="none")
    vae = m1(data, options) if {"m1", "m1+m2"} & set(options.models) else None
    kinds = [(model, how) for model in options.models for how in (options.classes if model != "m1" else ["SVM"])]
    lines, drawn = (
        ["| labels | " + " | ".join(f"{m}, {how}" for m, how in kinds) + " |", "|" + " --- |" * (1 + len(kinds))],
        [],
    )
    for labels in options.labels:
        repeats = max(1, round(options.labelled * data.train.size / labels))
        alpha = options.alpha * data.train.size / (labels * repeats)
        cells = []
        for model, how in kinds:
            accuracies = []
            for number in range(options.draws):
                seed = options.seed + number
                few = ppl_vae.data.with_few_labels(data, labels, seed=seed, repeats=repeats)
                if model == "m1":
                    assert vae is not None
                    accuracies.append(support_vectors(vae, few, grey, options.role))
                    continue
                torch.manual_seed(seed)
                pair = semi_supervised(data, how, alpha, vae if model == "m1+m2" else None, options)
                name = f"{model}-{how}-{labels}-{seed}"
                # A score function takes the mean of the other particles for a baseline.
                objective = ppl_vae.objectives.ELBO(4 if how == "sampled" else 1)
                chosen = {"epochs": options.epochs, "lr": options.lr, "schedule": "linear", "seed": seed}
                fit(pair, few, name, options, objective=objective, **chosen)
                found = classify(pair, grey.splits[options.role], num_particles=10)
                accuracies.append(found.accuracy)
                print(f"{model}, {how}, {labels:,} labels, draw {number}: {found}", flush=True)
                if number == 0 and labels == min(options.labels):
                    title = f"{model}, {how}, {labels:,} labels"
                    drawn += draw(
                        pair, found, data.test, options.out.with_stem(f"{options.out.stem}-{model}-{how}"), title
                    )
            mean, half = confidence_interval(accuracies)
            cells.append(f"{mean:.2%} ± {half:.2%}")
        lines.append(f"| {labels:,} | " + " | ".join(cells) + " |")
    print(
        f"\naccuracy on {grey.splits[options.role].size:,} {options.role} data of {options.data}: mean, 95 % interval"
    )
    print(
        "\n".join(lines) + f"\n{options.draws} draws of labels, {options.epochs} epochs, {options.m1_epochs} of the VAE"
    )
    print("\nfigures: " + ", ".join(map(str, drawn)))
    return {"seed": options.seed, "device": options.device}


if __name__ == "__main__":
    main()
