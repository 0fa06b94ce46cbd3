"""An image and its label as two modalities of one latent (Wu & Goodman 2018, section 5.1).

    p(z) p(image|z) p(label|z),   q(z|image), q(z|label) and q(z|image, label) from an expert for each

How experts are joined, and on what they are trained:

    product, both       ELBO(image, label) alone: nothing trains an expert to stand by itself
    product, subsets    ELBO(image, label) + ELBO(image) + ELBO(label), by masks (MVAE; Wu & Goodman 2018, eq. 5)
    product, across     sum over sources i and targets t of E_q(z|x_i)[log p(x_t|z)] - KL (Spurr et al. 2018, eq. 4)
    mixture, both       q(z|image) or q(z|label), by chance, for both (MMVAE; Shi et al. 2019)
    mixture-of-products, both                                         (MoPoE; Sutter et al. 2021)

Every fit stops by its own bound on validation data. Reported, on test data: how often the label that p(label|z),
averaged over q(z|image), finds most probable is the true one; log p(image), log p(label|image) and log p(image|label);
and, by a forest of trees that scikit-learn fits to the training images, the share of images drawn together with a label
(joint coherence), and of those drawn for one (cross coherence), that are of this label. Images are binary, one draw of
their grey values; those that are drawn are shown, and judged, as their means.

An importance estimate is as good as its guide: behind a † stands for how many data it is not to be trusted, by its own
diagnostics. An expert that was never trained to stand by itself is no guide to p(image), and the estimate is far off.

    python examples/image_and_label.py
    python examples/image_and_label.py --data mnist --epochs 20 --hidden 400 --latent-dim 20 --compile inductor
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.ensemble import ExtraTreesClassifier
from torch import Tensor
from torch.nn.functional import one_hot

import ppl_vae
from ppl_vae import plots
from ppl_vae.data import Dataset, Split
from ppl_vae.evaluation import conditional_log_likelihood
from ppl_vae.guides import Experts
from ppl_vae.models import CrossModal
from ppl_vae.objectives import ELBO, CrossModalELBO
from ppl_vae.report import RECORD, recorded

BOTH = {"image": 1.0, "label": 1.0}
METHODS = ("product, both", "product, subsets", "product, across", "mixture, both", "mixture-of-products, both")


def modalities(split: Split) -> dict[str, Tensor]:
    """Return the images and labels of a split, the latter one-hot."""
    assert split.spec.num_classes is not None
    return {"image": split["x"], "label": one_hot(split["y"], split.spec.num_classes).to(split["x"].dtype)}


def every_subset(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return every datum three times: with both modalities, without its label, without its image."""
    there = torch.tensor([[True, True], [True, False], [False, True]]).repeat_interleave(len(batch["image"]), 0)
    thrice = {name: x.repeat(3, 1) for name, x in batch.items()}
    return thrice | {"image_present": there[:, 0], "label_present": there[:, 1]}


def fitted(method: str, data: Dataset, options: argparse.Namespace) -> ppl_vae.Pair:
    """Return a pair whose experts are joined, and trained, as the method says."""
    join, how = method.split(", ")
    torch.manual_seed(options.seed)
    shapes = {"image": data.spec.x_dim, "label": data.spec.num_classes}
    networks = {"hidden": (options.hidden,), "activation": "softplus"}
    likelihood = {"image": "bernoulli", "label": "one-hot"}
    pair = ppl_vae.Pair(
        CrossModal(shapes, options.latent_dim, likelihood=likelihood, **networks),
        Experts(shapes, options.latent_dim, join=join, **networks),
    )
    change = (lambda split: every_subset(modalities(split))) if how == "subsets" else modalities
    parts = Dataset(*(Split(change(split), split.spec, role=role) for role, split in data.splits.items()))
    epochs = options.epochs // 3 if how == "subsets" else options.epochs  # of as many steps for all
    across = CrossModalELBO({"image": BOTH, "label": BOTH, "image+label": BOTH})
    ppl_vae.fit(
        pair, parts, objective=across if how == "across" else ELBO(), epochs=epochs, patience=max(1, epochs // 5),
        batch_size=options.batch_size, lr=options.lr, seed=options.seed, compile=options.compile, device=options.device,
        run_dir=options.runs and options.runs / method.replace(", ", "-"), resume=options.runs is not None,
    )  # fmt: skip
    return pair.cpu()


def translated(pair: ppl_vae.Pair, given: dict[str, Tensor], target: str, draws: int = 1) -> Tensor:
    """Return E[target|z] for draws of z given some modalities, (draws, B, D)."""
    z = pair.posterior(given, draws)["z"]
    return pair.decode({"z": z.flatten(0, 1)})[target].unflatten(0, z.shape[:2])


def share(right: Tensor) -> str:
    """Return a share and its standard error."""
    p = float(right.double().mean())
    return f"{p:.1%} ± {(p * (1 - p) / len(right)) ** 0.5:.1%}"


def measured(
    pair: ppl_vae.Pair, test: dict[str, Tensor], judge: ExtraTreesClassifier, options: argparse.Namespace
) -> list[str]:
    """Return the entries of a row of the table."""
    y, few = test["label"].argmax(-1), {name: x[: options.likelihoods] for name, x in test.items()}
    found = translated(pair, {"image": test["image"]}, "label", 50).mean(0).argmax(-1)
    images = translated(pair, {"label": test["label"]}, "image")[0]
    joint = pair.generate(len(y))
    together = pair.decode({"z": joint["z"]})["image"]

    def judged(images: Tensor) -> Tensor:
        return torch.as_tensor(judge.predict(images.numpy()))

    alone = ppl_vae.log_likelihood(pair, {"image": few["image"]}, num_particles=options.particles)
    conditionals = [
        conditional_log_likelihood(pair, few, target, given, num_particles=options.particles)
        for target, given in (("label", "image"), ("image", "label"))
    ]
    return [
        share(found == y), share(judged(together) == joint["label"].argmax(-1)), share(judged(images) == y),
        *(f"{ll.mean:.3f} ± {ll.standard_error:.3f}, †{ll.untrusted}" for ll in (alone, *conditionals)),
    ]  # fmt: skip


def figures(pairs: dict[str, ppl_vae.Pair], data: Dataset, out: Path) -> list[Path]:
    """Save what each pair makes of a test image of each class, of its label, and of both; return where."""
    C, test, shape = data.spec.num_classes, data.test, data.spec.image_shape
    assert C is not None
    assert shape is not None
    rows = torch.stack([(test["y"] == k).nonzero()[0, 0] for k in range(C)])
    here = {name: x[rows] for name, x in modalities(test).items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for method, pair in pairs.items():
        images = [
            here["image"][None], *(
                translated(pair, {name: here[name] for name in given}, "image", draws)
                for given, draws in ((("image",), 1), (("image", "label"), 1), (("label",), 4))
            )
        ]  # fmt: skip
        figure = plots.latent_walk(
            torch.cat(images), shape, values=[str(k) for k in range(C)], value_name=f"label; {method}",
            row_labels=["test image", "from image", "from both", "from label", "", "", ""],
        )  # fmt: skip
        paths.append(out.with_stem(f"{out.stem}-{method.replace(', ', '-')}"))
        figure.savefig(paths[-1], dpi=120)
    return paths


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Fit a pair by every method, print the table and save the figures."""
    parser = argparse.ArgumentParser(
        parents=[RECORD], description="An image and its label as two modalities of one latent."
    )
    parser.add_argument("--data", default="digits", help="a data set of grey images with labels: digits or mnist")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--particles", type=int, default=1000, help="for each log likelihood")
    parser.add_argument("--likelihoods", type=int, default=1000, help="test data that log likelihoods are of, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="to train on: auto, cpu, cuda")
    parser.add_argument("--compile", default="auto", help="auto, off, graph or inductor")
    parser.add_argument("--runs", type=Path, help="folder for the fits, which go on from there; none are kept without")
    parser.add_argument("--out", type=Path, default=Path("image_and_label.png"), help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="short fits, for a look or a test")
    options = parser.parse_args(argv)
    if options.quick:
        options.epochs, options.hidden, options.particles, options.likelihoods = 3, 32, 10, 50

    data = ppl_vae.data.load(options.data, binarization="fixed")
    test = modalities(data.test)
    judge = ExtraTreesClassifier(300, random_state=options.seed)
    judge.fit(data.train["x"].numpy(), data.train["y"].numpy())
    right = torch.as_tensor(judge.predict(data.test["x"].numpy())) == data.test["y"]
    pairs, rows = {}, []
    for method in options.methods:
        pairs[method] = fitted(method, data, options)
        torch.manual_seed(options.seed)
        rows.append(f"| {method} | " + " | ".join(measured(pairs[method], test, judge, options)) + " |")
        print(rows[-1], flush=True)
    counted = min(options.likelihoods, data.test.size)
    heads = ("label of an image", "joint coherence", "image of a label")
    bounds = ("log p(image)", "log p(label given image)", "log p(image given label)")
    print(
        f"\n{data.test.size:,} test data of {options.data}; log p in nats per datum, of {counted:,} of them, K = "
        f"{options.particles:,}, ± Monte Carlo, † not to be trusted; the classifier itself: {share(right)}\n"
        f"| experts, trained on | {' | '.join((*heads, *bounds))} |\n|{' --- |' * 7}\n" + "\n".join(rows)
    )
    print("\nfigures: " + ", ".join(map(str, figures(pairs, data, options.out))))
    return {"seed": options.seed, "device": options.device}


if __name__ == "__main__":
    main()
