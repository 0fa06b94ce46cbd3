"""Pictures of any fitted pair: samples, reconstructions, walks along the latents, the latent space.

Data other than images get the version that suits them. A part that the pair cannot do is left out, with the reason in
its place.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.core.errors import RunError
from ppl_vae.data import Split
from ppl_vae.evaluation.representation.layers import IN_USE, units_in_use
from ppl_vae.report.page import Report
from ppl_vae.training.run_folder.run import Run

#: Shares of the prior below the values that a walk along a latent steps through.
SHARES = (0.01, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99)
#: What a user's program may raise where it cannot do what is asked of it.
CANNOT = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Subject:
    """A run with the data to show it on.

    Attributes
    ----------
    run : Run
        What was fitted.
    name : str
        Tells runs in one report apart; may be empty.
    split : Split or None
        Rows to look at, mixed, on the pair's device.
    observed : tuple of str
        Sites that the pair observes.
    given : dict of str to Tensor
        The pair's other arguments, which the model conditions on.
    shares_latents : bool
        Whether some latents are shared by all data.
    has_prior : bool
        Whether every latent has a prior; those of an autoencoder have none.
    """

    run: Run
    name: str
    split: Split | None = None
    observed: tuple[str, ...] = ("x",)
    given: dict[str, Tensor] = field(default_factory=dict)
    shares_latents: bool = False
    has_prior: bool = True

    @classmethod
    def of(cls, run: Run, split: Split | None, name: str = "", *, most: int, seed: int) -> Subject:
        """Return the run with at most so many rows of `split`, chosen by `seed`.

        Without data, the pair is checked on what the model draws, where it draws anything without conditions.

        Raises
        ------
        InputError
            If the data do not suit the pair.
        """
        if split is None:
            with contextlib.suppress(*CANNOT):
                drawn = run.pair.generate(100)
                found = run.pair.check({key: value for key, value in drawn.items() if run.pair.takes(key)})
                return cls(run, name, None, found.observed, {}, found.shares_latents, not found.without_prior)
            return cls(run, name)
        here = split.take(min(most, split.size), seed).to(run.pair.device, run.pair.dtype)
        contract = run.pair.check(here)
        given = {
            key: value for key, value in run.pair.arguments(here).items() if key not in contract.observed_arguments
        }
        return cls(run, name, here, contract.observed, given, contract.shares_latents, not contract.without_prior)

    def head(self, title: str) -> str:
        """Return the head of a section."""
        return f"## {self.name}: {title}" if self.name else f"## {title}"

    def figure_name(self, *parts: str) -> str:
        """Return a figure's name: letters, digits and dashes."""
        plain = ("".join(c if c.isalnum() and c.isascii() else "-" for c in part) for part in (self.name, *parts))
        return "-".join(part for part in plain if part).strip("-")

    def rows(self, count: int) -> dict[str, Tensor]:
        """Return at most `count` rows of the data."""
        return {} if self.split is None else {key: value[:count] for key, value in self.split.items()}

    def conditions(self, count: int) -> tuple[int, dict[str, Tensor]]:
        """Return for how many data, at most `count`, the model can be run, and what it conditions on for them."""
        count = min([count, *map(len, self.given.values())])
        return count, {key: value[:count] for key, value in self.given.items()}

    def image_shape(self, values: Tensor) -> tuple[int, ...] | None:
        """Return how to lay out rows of `values` as images, or None where they are none."""
        shape = self._spec["image_shape"]
        fits = shape is not None and math.prod(shape) == values[0].numel() and shape[0] in (1, 3)
        return tuple(shape) if fits else None

    @property
    def limits(self) -> tuple[float, float] | None:
        """The values to draw black and white: 0 and 1 for data that lie between."""
        return (0.0, 1.0) if self._spec["support"] in ("binary", "unit") else None

    @property
    def _spec(self) -> dict[str, Any]:
        return self.run.config["data"]["spec"] if self.split is None else self.split.spec.to_json()


@contextlib.contextmanager
def part(report: Report, what: str) -> Iterator[None]:
    """Leave one part out, saying why, where the pair cannot do what it takes: a user's program may raise anything."""
    try:
        yield
    except RunError:
        raise
    except CANNOT as error:
        report.text(f"**Left out: {what}.** {type(error).__name__}: {' '.join(str(error).split())[:300]}")


def samples(report: Report, s: Subject) -> None:
    """Add what the model generates, by means and draws, or, for data other than images, against the data."""
    report.text(s.head("Samples"))
    with part(report, "samples from the model"):
        size, conditions = s.conditions(500)
        drawn = s.run.pair.generate(size, **conditions)
        latents = {site: value for site, value in drawn.items() if site not in s.observed}
        means = s.run.pair.decode(latents, **conditions)
        for site in s.observed:
            shape = s.image_shape(drawn[site])
            if shape is not None:
                figure = plots.reconstructions(
                    means[site][:30], drawn[site][:30], shape, labels=("mean", "draw"), limits=s.limits
                )
                caption = (
                    f"New data from the model: latents from the prior, then the mean of {site} given them, and below "
                    f"it a draw of {site}. The means should look like data; a draw adds the likelihood's own noise."
                )
                report.figure(figure, caption, s.figure_name("samples", site))
            elif s.split is not None:
                _compare_features(report, s, site, _flat(s.split[site]), _flat(drawn[site]))


def _compare_features(report: Report, s: Subject, site: str, data: Tensor, samples: Tensor) -> None:
    caption = (
        f"The marginal of each coordinate of {site}, data against samples from the model: the outlines should agree."
    )
    report.figure(plots.marginals(data, samples), caption, s.figure_name("marginals", site))
    if data.shape[1] > 1:
        first, second = sorted(data.var(0).topk(2).indices.tolist())
        caption = (
            f"The two coordinates of {site} that vary most: the model's samples should cover the data and no more."
        )
        report.figure(
            plots.feature_scatter(data, samples, dims=(first, second)), caption, s.figure_name("scatter", site)
        )


def reconstructions(report: Report, s: Subject) -> None:
    """Add data beside what comes back from their latents."""
    if s.split is None:
        return
    report.text(s.head("Reconstructions"))
    with part(report, "reconstructions"):
        rows = s.rows(200)
        rebuilt = s.run.pair.reconstruct(rows)
        for site, x_hat in rebuilt.items():
            shape = s.image_shape(x_hat)
            if shape is not None:
                figure = plots.reconstructions(rows[site][:20], x_hat[:20], shape, limits=s.limits)
                caption = (
                    f"Data, and below each the mean of {site} given latents drawn once from the guide. What the "
                    "latents do not hold is blurred, or comes back as something else."
                )
            else:
                figure = plots.feature_reconstructions(_flat(rows[site]), _flat(x_hat))
                caption = (
                    f"The mean of {site} given latents drawn once from the guide, against the data: all coordinates of "
                    f"{len(x_hat)} data. The scatter about the dashed line is what the latents do not hold."
                )
            report.figure(figure, caption, s.figure_name("reconstructions", site))


def walks(report: Report, s: Subject) -> None:
    """Add images along each coordinate of each latent; latents that the model samples later are drawn afresh."""
    count, conditions = s.conditions(1000)
    with part(report, "walks along the latents"):
        prior = s.run.pair.generate(count, **conditions)
        drawn = (
            {key: value[0] for key, value in s.run.pair.posterior(s.rows(1)).items()} if s.split is not None else prior
        )
        start = {key: drawn[key][:1] for key in prior if key in drawn and key not in s.observed}  # in the model's order
        images = next((site for site in s.observed if s.image_shape(prior[site]) is not None), None)
        walkable = [site for site in start if _is_continuous(prior[site])]
        if images is None or not walkable:
            return
        report.text(s.head("Walks along the latents"))
        for site in walkable:
            chosen, values = _steps(s, site, prior[site])
            shown = len(chosen) * len(SHARES)
            before = list(start)[: 1 + list(start).index(site)]
            latents = {key: start[key].expand(shown, *start[key].shape[1:]).clone() for key in before}
            for row, coordinate in enumerate(chosen):
                latents[site][row * len(SHARES) : (row + 1) * len(SHARES), coordinate] = values[:, coordinate]
            given = {key: value[:1].expand(shown, *value.shape[1:]) for key, value in conditions.items()}
            means = s.run.pair.decode(latents, **given)[images]
            figure = plots.latent_walk(
                means.reshape(len(chosen), len(SHARES), -1),
                s.image_shape(means) or (),
                values=[f"{share:.0%}" for share in SHARES],
                value_name="share of the prior below the coordinate's value",
                row_labels=[f"{site}[{coordinate}]" for coordinate in chosen],
                limits=s.limits,
            )
            origin = "drawn for one datum" if s.split is not None else "drawn from the prior"
            caption = (
                f"From latents {origin}, one coordinate of {site} at a time moves through its prior. A row that does "
                "not change is a coordinate that the model does not use."
            )
            if len(before) < len(start):
                caption += f" Latents below {site} are drawn afresh in each image."
            report.figure(figure, caption, s.figure_name("walk", site))


def _steps(s: Subject, site: str, prior: Tensor) -> tuple[list[int], Tensor]:
    """Return the coordinates to walk along (at most 10, those that vary most) and the values to step through."""
    spread = prior if s.split is None else s.run.pair.posterior_mean(s.rows(500))[site]
    chosen = spread.var(0).topk(min(10, prior.shape[1])).indices.sort().values.tolist()
    shares = torch.tensor(SHARES, dtype=prior.dtype, device=prior.device)
    return chosen, prior.quantile(shares, dim=0)


def embeddings(report: Report, s: Subject, method: str) -> None:
    """Add the guide's means over the data, brought to the plane by `method`."""
    if s.split is None:
        return
    report.text(s.head("Latent space"))
    with part(report, "the latent space"):
        means = s.run.pair.posterior_mean(s.split)
        count, conditions = s.conditions(s.split.size)
        prior = s.run.pair.generate(count, **conditions)
        in_use: dict[str, int] = {}
        if s.has_prior:
            with part(report, "how many coordinates are in use"):
                in_use = units_in_use(s.run.pair, s.split, num_draws=2)
        for site, z in means.items():
            z, drawn = _flat(z), _flat(prior[site])
            L = z.shape[1]
            if L == 1 and not s.has_prior:
                report.text(f"Left out: {site} is one number, and has no prior to be held against.")
                continue
            if L == 1:
                figure = plots.marginals(z, drawn, names=[site], labels=(f"guide's mean of {site}", "prior"))
                caption = (
                    f"The guide's means of {site} over the data, and the prior. A spike at 0 would be an unused latent."
                )
                report.figure(figure, caption, s.figure_name("latent", site))
                continue
            labels = s.split.get("y")
            labels = labels if labels is not None and labels.dim() == 1 else None
            axes = {"pca": "principal axis", "tsne": "t-SNE (no unit)"}
            names = (f"{site}[0]", f"{site}[1]") if L == 2 else (f"{axes[method]} 1", f"{axes[method]} 2")
            how = "" if L == 2 else f", brought to the plane by {'PCA' if method == 'pca' else 't-SNE'}"
            figure = plots.embedding(plots.embed(z, method=method), labels, axis_names=names)
            caption = f"The guide's mean of {site} for each of {len(z):,} data{how}."
            if site in in_use:
                caption += f" {in_use[site]} of {L} coordinates are in use: their KL is above {IN_USE} nats per datum."
            if labels is not None and "y" not in s.given and "y" not in s.observed:
                caption += " The pair never saw the labels: classes that lie apart were separated without them."
            report.figure(figure, caption, s.figure_name("latent", site))


def _is_continuous(values: Tensor) -> bool:
    """Return whether a site is a vector per datum of numbers that take many values."""
    return values.dim() == 2 and values.is_floating_point() and len(values.unique()) > min(10, len(values))


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).to(torch.float64)
