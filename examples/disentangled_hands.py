"""Known factors, each with a part of the latent to itself (Yang & Yao 2019): hands, or sprites.

    p(z) = N(0, I),   p(y1|z_y1) p(y2|z_y2) p(x|z_y1, z_y2, z_rest)
    first     ELBO_dis: q(z_y1|y1) q(z_y2|y2), and z_rest once from its prior, once from q(z_rest|x); decoders learned
    then      ELBO_emb: q(z|x) alone, the decoders held as they are

With the rest from its prior, what the factors say of x can only be learned from their latents; too much weight there,
and the decoder learns to do without the rest. How far each latent is used is printed.

Hands: x is 3D joints, y1 the pose in the palm's frame, y2 the viewpoint, a rotation; pose and viewpoint are all there
is to a hand, so there is no rest. Training hands are followed by turned and stretched copies. Test hands are another
person's. Sprites: x is a picture, y1 the position, y2 the scale; the rest has shape and orientation.

Walks go from one test datum to another in the latent of one factor alone. What each factor does on the way is measured
by geometry on what is decoded: a palm's axes and the joints in its frame, or the centre of the ink and the root of its
amount. A leak is the change of the other factor as a share of that of the moved one, both in units of what a walk in
all latents does to them. Ink is counted in whole pixels, so that sprites drawn at another place differ in it although
their scale is one: what that makes of the same walks in the true factors is printed first.

    python examples/disentangled_hands.py
    python examples/disentangled_hands.py --data sprites
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import ppl_vae
from ppl_vae import plots
from ppl_vae.data import Dataset, Role, Split, angle_between, draw_sprites, split_viewpoint, with_varied_hands
from ppl_vae.evaluation import factor_walks, joint_errors, layer_table, layer_use, regression
from ppl_vae.guides import FactorEncoders
from ppl_vae.models import Disentangled
from ppl_vae.objectives import CrossModalELBO
from ppl_vae.report import RECORD, recorded

Measure = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Task:
    """Data whose x and factors are named as the pair names them, and how factors are measured on what is decoded."""

    data: Dataset
    factors: tuple[str, str]
    latent_dims: dict[str, int]
    likelihood: str
    measure: Measure
    part: Role
    distances: dict[str, Callable[[Tensor, Tensor], Tensor]]

    @property
    def held_out(self) -> Split:
        """The part that is measured."""
        return self.data.splits[self.part]


def hands(options: argparse.Namespace) -> Task:
    """Return hands: x the 3D joints, pose and viewpoint its factors."""
    read = ppl_vae.data.load(options.data, image_size=8)
    data, truth = with_varied_hands(read, options.copies), read.truth

    def parts(joints: Tensor) -> dict[str, Tensor]:
        pose, view = split_viewpoint(truth.whole(joints), truth.palm)
        moving = [joint for joint in range(len(truth.joint_names)) if joint != truth.root]
        return {"pose": pose[:, moving], "viewpoint": view}

    def named(split: Split) -> Split:
        x = split["joints3d"]
        return Split({"x": x, "unit": split["unit"], **parts(x)}, data.spec, role=split.role)

    assert data.validation is not None
    return Task(
        Dataset(named(data.train), named(data.validation), named(data.test), truth),
        ("pose", "viewpoint"),
        {"pose": options.latent_dim, "viewpoint": 6},
        "normal-learned",
        lambda decoded: parts(decoded["x"]),
        options.part,
        {"pose": lambda first, second: (first - second).norm(dim=-1).mean(-1), "viewpoint": angle_between},
    )


def sprites(options: argparse.Namespace) -> Task:
    """Return sprites: x the picture, position and scale its factors, which ink tells by its centre and its amount."""
    size = options.size
    data = ppl_vae.data.load("sprites", seed=options.seed, size=size, num_rows=options.images)
    centre, spread = data.train["factors"].mean(0), data.train["factors"].std(0)

    def named(split: Split) -> Split:
        values = (split["factors"] - centre) / spread
        return Split({"x": split["x"], "position": values[:, 3:], "scale": values[:, 1:2]}, data.spec, role=split.role)

    def measure(decoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ink = decoded["x"].unflatten(1, (size, size))
        amount, line = ink.sum((1, 2)), torch.arange(float(size))
        across, down = (ink.sum(1) @ line) / amount, (ink.sum(2) @ line) / amount
        return {"position": torch.stack([across, down], 1), "scale": amount.sqrt()}

    def drawn(z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shape, turn = z["z_rest"].split(1, 1)
        return {"x": draw_sprites(torch.cat([shape.round(), z["z_scale"], turn, z["z_position"]], 1), size)}

    factors = data.splits[options.part]["factors"]
    true = {"z_position": factors[:, 3:], "z_scale": factors[:, 1:2], "z_rest": factors[:, [0, 2]]}
    print(f"walks in the true factors, the sprites drawn anew\n{factor_walks(drawn, true, measure)}\n")
    assert data.validation is not None
    return Task(
        Dataset(named(data.train), named(data.validation), named(data.test)),
        ("position", "scale"),
        {"position": 2, "scale": 1, "rest": options.latent_dim},
        "bernoulli",
        measure,
        options.part,
        {},
    )


def train(task: Task, options: argparse.Namespace) -> ppl_vae.Pair:
    """Return a pair fitted by ELBO_dis, then by ELBO_emb with its decoders held."""
    shapes = {name: task.data.train[name].shape[1:] for name in task.factors}
    x_shape, networks = task.data.train["x"].shape[1:], {"hidden": tuple(options.hidden), "activation": "relu"}
    torch.manual_seed(options.seed)
    pair = ppl_vae.Pair(
        Disentangled(x_shape, shapes, task.latent_dims, likelihood=task.likelihood, **networks),
        FactorEncoders(x_shape, shapes, task.latent_dims, **networks),
    )
    known, rest = "+".join(task.factors), "rest" in task.latent_dims
    factors_first = {known: options.rest_from_prior, f"x+{known}": 1.0} if rest else {known: 1.0}
    for sources, lambdas, beta in (
        (factors_first, options.lambdas, options.beta),
        ({"x": 1.0}, options.lambdas_embedding, options.beta_embedding),
    ):
        weights = dict(zip(("x", *task.factors), lambdas, strict=True))
        bound = CrossModalELBO({source: {t: w * u for t, w in weights.items()} for source, u in sources.items()})
        ppl_vae.fit(
            pair, task.data, objective=bound, epochs=options.epochs, lr=options.lr, schedule="cosine", clip_norm=50.0,
            kl_weight=beta / sum(lambdas), seed=options.seed, compile="graph", device="cpu",
        )  # fmt: skip
        pair.model.requires_grad_(False)
        warnings.filterwarnings("ignore", ".*requires_grad=False", UserWarning)  # Pyro's word on what is held
    return pair


def latents(pair: ppl_vae.Pair, task: Task, source: str) -> dict[str, Tensor]:
    """Return the means of the latents of held-out data, read off x, or off the factors (and the rest off x)."""
    names = ["x"] if source == "x" else [*(["x"] if "rest" in task.latent_dims else []), *task.factors]
    return pair.posterior_mean({name: task.held_out[name] for name in names})


def readings(pair: ppl_vae.Pair, task: Task) -> str:
    """Return how well factors are read off x by the pair, beside an MLP of x."""
    test, lines = task.held_out, []
    decoded = pair.decode(latents(pair, task, "x"))
    for name in task.factors:
        mlp = regression(task.data, "x", name, "mlp", steps=2000)(test["x"])
        mean = task.data.train[name].mean(0, keepdim=True).expand_as(test[name])
        shown = []
        for what, guess in (("mean", mean), ("MLP", mlp), ("pair", decoded[name])):
            if name == "pose":
                shown.append(f"{what} {joint_errors(guess, test[name], unit=test['unit']).mean:.2f} mm per joint")
            elif name == "viewpoint":
                shown.append(f"{what} {float(angle_between(nearest_rotation(guess), test[name]).mean()):.1f} degrees")
            else:
                error = (guess - test[name]).square().mean().sqrt()
                shown.append(f"{what} {float(error):.3f} standard deviations")
        lines.append(f"{name} given x, error on {task.part} data: {', '.join(shown)}")
    return "\n".join(lines)


def nearest_rotation(matrices: Tensor) -> Tensor:
    """Return the rotations (N, 3, 3) closest to `matrices`, by their singular vectors."""
    U, _, V = torch.linalg.svd(matrices)
    sign = torch.linalg.det(U @ V)
    return U @ torch.cat([V[:, :2], V[:, 2:] * sign[:, None, None]], 1)


def draw(pair: ppl_vae.Pair, task: Task, steps: int = 7) -> Figure:
    """Draw walks between two test data: in all latents, then in those of one factor alone."""
    z = latents(pair, task, "x")
    gaps = [(z[f"z_{name}"] - z[f"z_{name}"][0]).norm(dim=1) for name in task.factors]
    start, end = 0, int(torch.stack([gap / gap.max() for gap in gaps]).amin(0).argmax())  # far apart in every factor
    way = torch.linspace(0, 1, steps)[:, None]
    there = {site: torch.lerp(value[start], value[end], way) for site, value in z.items()}
    here = {site: value[start].expand(steps, -1) for site, value in z.items()}
    walks = {"all latents": there}
    walks |= {f"{name} alone": {**here, f"z_{name}": there[f"z_{name}"]} for name in task.factors}
    pictures = torch.cat([pair.decode(walk)["x"] for walk in walks.values()])
    titles = [name if n == 0 else "" for name in walks for n in range(steps)]
    truth = task.data.truth
    if truth is not None:
        return plots.skeletons(
            truth.whole(pictures), truth.bones, titles=titles, columns=steps, turns=(0.0, 90.0), y_up=truth.camera.y_up
        )
    figure = Figure((8, 3.8), layout="constrained")
    side = round(pictures.shape[1] ** 0.5)
    for ax, picture, title in zip(figure.subplots(len(walks), steps).flat, pictures, titles, strict=True):
        ax.imshow(picture.reshape(side, side).numpy(), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.set_title(title, fontsize=8)
    return figure


@recorded
def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Fit, print errors and leaks, and draw the walks."""
    parser = argparse.ArgumentParser(
        parents=[RECORD], description="Factors apart: pose and viewpoint of hands, or sprites."
    )
    parser.add_argument("--data", default="hands-nyu", choices=["hands-nyu", "hands-icvl", "sprites"])
    parser.add_argument("--copies", type=int, default=4, help="varied hands for each training hand")
    parser.add_argument("--images", type=int, default=10_000, help="of sprites, in all")
    parser.add_argument("--size", type=int, default=32, help="of sprites, in pixels a side")
    parser.add_argument("--latent-dim", type=int, default=12, help="of the pose, or of what no factor says of a sprite")
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 128])
    parser.add_argument("--lambdas", type=float, nargs=3, default=[1.0, 1.0, 1.0], help="of x and both factors")
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--rest-from-prior", type=float, default=1.0, help="weight of the bound whose rest is prior's")
    parser.add_argument("--lambdas-embedding", type=float, nargs=3, default=[1.0, 1.0, 1.0])
    parser.add_argument("--beta-embedding", type=float, default=1.0)
    parser.add_argument("--part", default="test", choices=["test", "validation"], help="what is measured")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("disentangled.png"), help="where the figure goes")
    parser.add_argument("--quick", action="store_true", help="a short fit, for a look or a test")
    options = parser.parse_args(argv)
    if options.quick:
        options.epochs, options.copies, options.images, options.hidden = 1, 1, 500, [20]

    task = sprites(options) if options.data == "sprites" else hands(options)
    pair = train(task, options)
    log_p = ppl_vae.log_likelihood(
        pair, {"x": task.held_out["x"][:200]}, num_particles=20 if options.quick else 1000, progress=False
    )
    print(f"{options.data}: {task.data.train.size:,} to train on\n{log_p}\n{readings(pair, task)}\n")
    print(layer_table(layer_use(pair, {"x": task.held_out["x"][:1000]})))
    for source, what in (("factors", "the factors"), ("x", "x")):
        found = factor_walks(pair.decode, latents(pair, task, source), task.measure, distances=task.distances)
        print(f"\nwalks between latents read off {what}; changes as shares of those of walks of all latents\n{found}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(pair, task).savefig(options.out, dpi=120)
    print(f"\nfigure: {options.out}")
    return {"seed": options.seed, "device": "cpu"}


if __name__ == "__main__":
    main()
