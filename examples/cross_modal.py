"""Hands seen three ways, as 2D joints, 3D joints and a picture, with one latent (Spurr, Song, Park & Hilliges 2018).

    p(z) = N(0, I),   p(x_m|z) = N(decoder_m(z), s_m^2),   q(z|x_S) = product of experts
    together   every source (2D, picture, 3D, 2D with picture) is to generate every modality
    apart      each modality generates itself alone, so that their latents are not those of one another

Test hands are another person's (NYU) or another video's (ICVL). For that reason, each training hand is followed by
copies that are turned and have bones of other lengths, and all methods get these. A prediction is the mean of what is
generated: the mean over draws z ~ q(z|x_i) of E[x_3D|z]. An interval is the central one of draws z ~ q(z|x_i),
x_3D ~ p(x_3D|z), and coverage the share of true coordinates within; see `generate` for whose scales p(x_3D|z) has then.
Errors are over all joints but the root, which is known. With 2D joints divided by their own size and the length of the
person's mean bone known, one number is known of a test person that 2D joints do not tell; ``--hand-size unknown`` is
without.

    python examples/cross_modal.py
    python examples/cross_modal.py --data hands-icvl
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

import ppl_vae
from ppl_vae import plots
from ppl_vae.data import Dataset, Split, with_varied_hands
from ppl_vae.evaluation import (
    JointErrors,
    conditional_log_likelihood,
    interval_coverage,
    joint_errors,
    regression,
)
from ppl_vae.guides import Experts
from ppl_vae.likelihoods import Normal
from ppl_vae.models import CrossModal
from ppl_vae.objectives import CrossModalELBO
from ppl_vae.report import RECORD, recorded

LEVEL = 0.9
KEPT = (20.0, 40.0)  # mm, thresholds of the worst joint


def objective(kind: str, image: str, image_weight: float) -> CrossModalELBO:
    """Return the bound of one kind of training; a picture has more pixels than there are joints, and less weight."""
    weights = {"joints2d": 1.0, "joints3d": 1.0, image: image_weight}
    if kind == "together":
        return CrossModalELBO(dict.fromkeys((*weights, f"joints2d+{image}"), weights))
    return CrossModalELBO({name: {name: weight} for name, weight in weights.items()})


def train(data: Dataset, kind: str, seed: int, options: argparse.Namespace) -> ppl_vae.Pair:
    """Return a pair fitted in one way; joints have a learned scale for each coordinate."""
    J = data.spec.x_shape[0]
    shapes = {"joints2d": (J, 2), "joints3d": (J, 3), options.image: (math.prod(data.truth.image_shape),)}
    likelihoods = {
        name: Normal("learned", shape=() if name == options.image else shape) for name, shape in shapes.items()
    }
    networks = {"hidden": tuple(options.hidden), "activation": "tanh"}
    torch.manual_seed(seed)
    pair = ppl_vae.Pair(
        CrossModal(shapes, options.latent_dim, likelihood=likelihoods, **networks),
        Experts(shapes, options.latent_dim, location="mean", **networks),
    )
    bound = objective(kind, options.image, options.image_weight)
    ppl_vae.fit(
        pair, data.train, objective=bound, epochs=math.ceil(options.steps * options.batch_size / data.train.size),
        batch_size=options.batch_size, lr=options.lr, seed=seed, schedule="cosine", clip_norm=50.0,
        kl_weight=options.kl_weight, compile=options.compile, device="cpu", resume=options.runs is not None,
        run_dir=None if options.runs is None else options.runs / f"{options.data}-{kind}-{seed}",
    )  # fmt: skip
    return pair


def decoded_means(pair: ppl_vae.Pair, hands: Mapping[str, Tensor], sources: Sequence[str], draws: int) -> Tensor:
    """Return E[x_3D|z] for draws z ~ q(z|x_S), (K, N, J, 3)."""
    given = {name: hands[name] for name in sources}
    with torch.no_grad():
        return pair.model.decode(pair.posterior(given, num_samples=draws)["z"], "joints3d").mean


def generate(
    pair: ppl_vae.Pair, held_out: Mapping[str, Tensor], test: Mapping[str, Tensor], sources: Sequence[str], draws: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of generated 3D joints, draws of them (K, N, J, 3), and the log density (N,) of the true ones.

    The scales (J, 3) of p(x_3D|z) are those of the largest bound on `held_out`, E_q(z|x_S)[log p(x_3D|z)], for these
    sources: those that were learned are of hands that the networks were fitted to, and of all sources together.
    """
    with ppl_vae.isolated(0):
        scale = (decoded_means(pair, held_out, sources, 10) - held_out["joints3d"]).square().mean((0, 1)).sqrt()
        generated = dist.Normal(decoded_means(pair, test, sources, draws), scale).to_event(2)
        density = generated.log_prob(test["joints3d"]).logsumexp(0) - math.log(draws)
        return generated.mean.mean(0), generated.sample(), density


def line(name: str, found: Sequence[JointErrors]) -> str:
    """Return a row of a table: error with its standard error over seeds, shares within thresholds, area."""
    shares = torch.stack([errors.share_within(KEPT) for errors in found]).mean(0)
    area = statistics.mean(errors.area() for errors in found)
    cells = [
        mean_and_error([errors.mean for errors in found]),
        *(f"{float(share):.1%}" for share in shares),
        f"{area:.3f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def table(title: str, rows: Mapping[str, Sequence[JointErrors]]) -> str:
    """Return a table of errors."""
    within = " | ".join(f"worst within {limit:g} mm" for limit in KEPT)
    head = f"| {title} | mm per joint | {within} | area to 80 mm |\n| --- | --- | --- | --- | --- |"
    return "\n".join([head, *(line(name, found) for name, found in rows.items())])


def mean_and_error(values: Sequence[float], digits: int = 2) -> str:
    """Return a mean with its standard error over seeds, where there are several."""
    spread = f" ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def compare(
    data: Dataset, held_out: Split, pairs: Mapping[str, Sequence[ppl_vae.Pair]], options: argparse.Namespace
) -> None:
    """Print errors beside the baselines, coverage, and densities."""
    test, image = data.test, options.image
    true, unit = test["joints3d"], test["unit"]
    for sources in (("joints2d",), (image,), ("joints2d", image)):
        rows = {}
        for method in ("mean", "ridge", "mlp") if len(sources) == 1 else ():
            found = [
                regression(data, sources[0], "joints3d", method, seed=seed, steps=options.steps)
                for seed in (range(options.seeds) if method == "mlp" else [0])
            ]
            rows[method] = [joint_errors(predict(test[sources[0]]), true, unit=unit) for predict in found]
        spread, densities = {}, {}
        for kind, fitted in pairs.items():
            made = [generate(pair, held_out, test, sources, options.draws) for pair in fitted]
            rows[kind] = [joint_errors(mean, true, unit=unit) for mean, _, _ in made]
            spread[kind] = [interval_coverage(drawn, true, LEVEL).mean(0) for _, drawn, _ in made]
            densities[kind] = [float(density.mean()) for *_, density in made]
        print(f"\n{table(' with '.join(sources) + ' to joints3d', rows)}\n")
        for kind, shares in spread.items():
            along = ", ".join(
                f"{axis} {float(share):.1%}" for axis, share in zip("xyz", torch.stack(shares).mean(0), strict=True)
            )
            total = mean_and_error([100 * float(share.mean()) for share in shares], 1)
            print(
                f"- {kind}: {LEVEL:.0%} intervals hold {total} % ({along}); log density of the truth under what is "
                f"generated {mean_and_error(densities[kind])} nats per datum"
            )
        joint = {kind: torch.stack([errors.per_joint for errors in rows[kind]]).mean(0) for kind in ("mlp", "together")
                 if kind in rows}  # fmt: skip
        names = [name for n, name in enumerate(data.truth.joint_names) if n != data.truth.root]
        for kind, values in joint.items():
            by_joint = ", ".join(f"{name} {value:.1f}" for name, value in zip(names, values.tolist(), strict=True))
            print(f"- {kind}, mm by joint: {by_joint}")
    few = test.take(min(options.num_test, test.size), seed=0)
    print(f"\nlog p(joints3d given joints2d) of {few.size} test hands, by importance:\n")
    for kind, fitted in pairs.items():
        found = [
            conditional_log_likelihood(
                pair, few, "joints3d", "joints2d", num_particles=options.num_particles, progress=False
            )
            for pair in fitted
        ]
        total = mean_and_error([result.mean for result in found])
        print(f"- {kind}: {total} nats per datum over seeds; seed 0: {found[0]}")


def walk(pair: ppl_vae.Pair, data: Dataset, steps: int = 7) -> dict[str, Tensor]:
    """Return all modalities on the line between the latents of the first test hand's 2D joints and the least like's."""
    flat = data.test["joints2d"]
    rows = [0, int((flat - flat[0]).square().sum((1, 2)).argmax())]
    z = pair.posterior_mean({"joints2d": flat[rows]})["z"]
    return pair.decode({"z": torch.lerp(z[:1], z[1:], torch.linspace(0, 1, steps)[:, None])})


def draw(
    data: Dataset, held_out: Split, pairs: Mapping[str, Sequence[ppl_vae.Pair]], options: argparse.Namespace
) -> list[Path]:
    """Save the figures beside `options.out`, and return where they are."""
    hands, test, image = data.truth, data.test, options.image
    bones, y_up = hands.bones, hands.camera.y_up
    chosen = test.take(min(300, test.size), seed=1)
    sources = ("joints2d", "joints3d", image)
    panels = {}
    for kind in ("apart", "together"):
        means = [pairs[kind][0].posterior_mean({name: chosen[name]})["z"] for name in sources]
        panels[f"trained {kind}"] = plots.embed(torch.cat(means), method="tsne")
    labels = [name for name in sources for _ in range(chosen.size)]
    figures = {"": plots.embeddings(panels, labels, label_name="modality")}

    pair = pairs["together"][0]
    steps = walk(pair, data)
    count = len(steps["joints3d"])
    solid, flat = hands.whole(steps["joints3d"]), hands.whole(torch.nn.functional.pad(steps["joints2d"], (0, 1)))
    flat = flat * solid[..., :2].norm() / flat.norm()  # in panels of one size
    pictures = torch.zeros(3 * count, steps[image].shape[-1])
    pictures[2 * count :] = steps[image]
    titles = [name if n == 0 else "" for name in sources for n in range(count)]
    figures["-walk"] = plots.skeletons(
        torch.cat([flat, solid, torch.zeros_like(solid)]), bones, images=pictures, half_width=hands.half_width,
        titles=titles, columns=count, y_up=y_up,
    )  # fmt: skip

    some = test.take(min(5, test.size), seed=2)
    _, drawn, _ = generate(pair, held_out, some, ["joints2d"], 20)
    figures["-draws"] = plots.skeleton_hypotheses(
        hands.whole(some["joints2d"]), hands.whole(drawn).transpose(0, 1), bones, true=hands.whole(some["joints3d"]),
        y_up=y_up,
    )  # fmt: skip
    some = test.take(min(6, test.size), seed=3)
    found = {name: generate(pair, held_out, some, [name], options.draws)[0] for name in ("joints2d", image)}
    for name, mean in found.items():
        errors = joint_errors(mean, some["joints3d"], unit=some["unit"]).values.mean(1)
        figures[f"-from-{name}"] = plots.skeleton_predictions(
            hands.whole(some["joints3d"]), hands.whole(mean), bones, titles=[f"{e:.0f} mm" for e in errors], y_up=y_up
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, figure in figures.items():
        paths.append(options.out.with_stem(options.out.stem + suffix))
        figure.savefig(paths[-1], dpi=120)
    return paths


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train in two ways over several seeds, print tables, and save figures."""
    parser = argparse.ArgumentParser(
        parents=[RECORD], description="Hands as 2D joints, 3D joints and pictures, with one latent."
    )
    parser.add_argument("--data", default="hands-nyu", choices=["hands-nyu", "hands-icvl"])
    parser.add_argument("--image", default="depth", choices=["depth", "silhouette"])
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--hand-size", default="known", choices=["known", "unknown"])
    parser.add_argument("--copies", type=int, default=20, help="varied hands for each training hand")
    parser.add_argument("--degrees", type=float, default=20.0, help="how far they are turned, a standard deviation")
    parser.add_argument("--stretch", type=float, default=0.1, help="how much longer bones are, likewise")
    parser.add_argument("--latent-dim", type=int, default=32)
    parser.add_argument("--hidden", type=int, nargs="+", default=[200, 200])
    parser.add_argument("--image-weight", type=float, default=0.1)
    parser.add_argument("--kl-weight", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=3000, help="of each fit, the MLP's too")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=39, help="of what is generated, 19, 39, 59, …")
    parser.add_argument("--num-particles", type=int, default=1000, help="of log p")
    parser.add_argument("--num-test", type=int, default=200, help="test hands for log p, at most")
    parser.add_argument("--out", type=Path, default=Path("cross_modal.png"), help="where the first figure goes")
    parser.add_argument("--compile", default="graph", choices=["off", "graph", "inductor"], help="as `fit` has it")
    parser.add_argument("--runs", type=Path, help="folder to keep the fits in, and to go on from")
    parser.add_argument("--quick", action="store_true", help="a short fit, for a look or a test")
    options = parser.parse_args(argv)
    if options.quick:
        options.copies, options.seeds, options.steps, options.draws = 1, 2, 20, 19
        options.hidden, options.num_particles, options.num_test = [30], 20, 30

    read = ppl_vae.data.load(options.data, image_size=options.image_size, hand_size=options.hand_size)
    variation = {"degrees": options.degrees, "stretch": options.stretch}
    data = with_varied_hands(read, options.copies, **variation)
    assert read.validation is not None
    few = Dataset(read.validation, None, read.test, read.truth)
    held_out = with_varied_hands(few, 4, seed=1, **variation).train
    sizes = f"{data.train.size:,} hands to train on, {data.test.size:,} to test"
    print(f"{options.data}, hand size {options.hand_size}: {sizes}")
    pairs = {
        kind: [train(data, kind, seed, options) for seed in range(options.seeds)] for kind in ("together", "apart")
    }
    compare(data, held_out, pairs, options)
    figures = draw(data, held_out, pairs, options)
    print(f"\nfigures: {', '.join(map(str, figures))}")
    return {"seed": f"0 to {options.seeds - 1}", "device": "cpu"}


if __name__ == "__main__":
    main()
