"""The record of one run of a pair: the sites of the guide, those of the model replayed against it, their log weights.

    log w[k, b] = log p(x_b, z_kb) - log q(z_kb | x_b),   z_kb ~ q(. | x_b)

Particles are one more plate, named ``particles``, at dim -2; data is the plate ``data`` at dim -1, whatever its name
in a program (`ppl_vae.pairs.plates`).
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ppl_vae.core.errors import PairError
from ppl_vae.pairs.plates import (
    PARTICLES,
    ParticlePlate,
    Site,
    data_plates,
    in_data_plate,
    is_sequential,
    rename,
    rows_of,
)


class Sites(dict[str, Site]):
    """The sample sites of one program by name, in program order, sorted once into latent, observed and enumerated.

    Attributes
    ----------
    latents, observed : dict of str to Site
        Sites without and with a value given, a `pyro.factor` and a `pyro.deterministic` among the latter.
    enumerated, drawn : dict of str to Site
        Latents marked for enumeration, and all others.
    auxiliary : dict of str to Site
        Latents of a guide that only help to draw others, as in Pyro's AutoGuides.
    """

    def __init__(self, sites: Mapping[str, Site] | Iterable[tuple[str, Site]] = ()) -> None:
        super().__init__(sites)
        self.latents: dict[str, Site] = {}
        self.observed: dict[str, Site] = {}
        self.enumerated: dict[str, Site] = {}
        self.drawn: dict[str, Site] = {}
        self.auxiliary: dict[str, Site] = {}
        for name, site in self.items():
            if site["is_observed"]:
                self.observed[name] = site
                continue
            self.latents[name] = site
            (self.enumerated if is_enumerated(site) else self.drawn)[name] = site
            if is_auxiliary(site):
                self.auxiliary[name] = site

    @cached_property
    def local(self) -> dict[str, Site]:
        """Local sites: those inside the plate of the data."""
        return {name: site for name, site in self.items() if in_data_plate(site)}

    @cached_property
    def shared(self) -> dict[str, Site]:
        """Global sites: those outside that plate, other than `pyro.deterministic`."""
        return {name: site for name, site in self.items() if name not in self.local and not is_deterministic(site)}

    @cached_property
    def unreparameterised(self) -> list[str]:
        """Names of the drawn latents whose distribution has no reparameterised sampler."""
        return [name for name, site in self.drawn.items() if not site["fn"].has_rsample]


class Record:
    """One run of a pair.

    Attributes
    ----------
    model, guide : Sites
        Their sample sites; the model's latents have the values drawn in the guide.
    programs : dict of str to Sites
        Both, by ``"model"`` and ``"guide"``.
    summed : dict of str to Site
        Latents enumerated in the model that the guide does not have.
    factors : dict of str to Site
        The guide's `pyro.factor` sites: terms of the training loss.
    """

    def __init__(self, model: Sites, guide: Sites) -> None:
        self.model, self.guide = model, guide
        self.programs = {"model": model, "guide": guide}
        self.summed = {name: site for name, site in model.enumerated.items() if name not in guide}
        self.factors = {name: site for name, site in guide.observed.items() if not is_deterministic(site)}

    def log_weights(self) -> Tensor:
        """Return log p(x, z) - log q(z | x) in nats, shape (K, B), or (B,) without a particle plate.

        Scales (from subsampling, or from a weight on the KL) are left out. A latent that the guide lacks, because
        training enumerates it, was drawn from its conditional in the model, which cancels out. A `pyro.factor` of the
        guide is a term of the training loss, and no part of q.

        Raises
        ------
        PairError
            If a site lies outside the plate ``data``: its log probability does not belong to one datum.
        """
        for name, site in (self.guide | self.model).items():
            if is_sequential(site):
                raise one_by_one(name)
            if name in (self.model if name in self.model else self.guide).shared:
                raise PairError(
                    f"site {name!r}",
                    expected="every site inside pyro.plate('data', B, dim=-1), so that a log weight belongs to one "
                    "datum",
                    got="a site outside it",
                    hint="the bound of the whole data set (an objective's loss) for pairs with global latents",
                )
        proposed = [site for name, site in self.model.items() if site["is_observed"] or name in self.guide]
        log_joint = add(log_prob(site, scaled=False) for site in proposed)
        return log_joint - add(log_prob(site, scaled=False) for site in self.guide.latents.values())


def one_by_one(name: str) -> PairError:
    """Return the error for a site in a sequential plate of the data, where a log weight of each datum is wanted."""
    return PairError(
        f"site {name!r}",
        expected="a plate that holds all data at once, so that log weights are those of each datum",
        got="one that takes them one by one",
        hint="`with pyro.plate(…):`, in place of `for … in pyro.plate(…):`",
    )


def particles(program: Callable[..., Any], num_particles: int) -> Callable[..., Any]:
    """Return `program` run for `num_particles` particles at once, as a plate at dim -2."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with ParticlePlate(num_particles):
            return program(*args, **kwargs)

    return run


def trace_pair(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_particles: int | None = None,
    *,
    enumerated: bool = False,
    around_guide: AbstractContextManager[Any] | None = None,
) -> Record:
    """Run the guide, replay the model against it, and return the record of both.

    Without `num_particles` there is no particle plate: values have shape (B, …). With it they have (K, B, …). With
    `enumerated`, sites marked for enumeration hold all their values, each such site in a dimension of its own to the
    left of the plates', the guide's before the model's. A handler `around_guide` is applied outside the guide's trace.
    """
    if num_particles is not None:
        model, guide = particles(model, num_particles), particles(guide, num_particles)
    if enumerated:  # the model's dimensions lie to the left of the guide's
        model, guide = poutine.enum(model), poutine.enum(guide, -2 if num_particles is None else -3)
    try:
        with around_guide or nullcontext():
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    except ValueError as error:
        _raise_collision(error)
        raise
    model_sites, guide_sites = sample_sites(model_trace), sample_sites(guide_trace)
    if not any(
        in_data_plate(site) for site in model_sites.values()
    ):  # the programs of a checked pair call it so already
        names = data_plates(model_sites, guide_sites, rows_of(args, kwargs)).names
        rename(model_sites, names)
        rename(guide_sites, names)
    return Record(model_sites, guide_sites)


def _raise_collision(error: ValueError) -> None:
    """Raise our own error for what Pyro says of two plates at one dimension."""
    if found := re.search(r'at plates? "(.*?)" and "(.*?)", collide at dim=(-\d+)', " ".join(str(error).split())):
        plates = [plate for plate in found.groups()[:2] if plate != PARTICLES]
        raise PairError(
            f"plate {plates[0]!r}",
            expected="no plate beside that of the data at dim -1 and that of the particles at dim -2",
            got=f"one at dim {found[3]}",
            hint=".to_event(…) on the distributions in it, in its place",
        ) from error


def sample_sites(trace: Any) -> Sites:
    """Return the sample sites of a Pyro trace by name, without those that plates add for subsampling."""
    nodes: Any = prune_subsample_sites(trace).nodes
    return Sites((name, site) for name, site in nodes.items() if site["type"] == "sample")


def is_auxiliary(site: Site) -> bool:
    """Return whether a latent of a guide only helps to draw others (Pyro's AutoGuides have such sites)."""
    return bool(site["infer"].get("is_auxiliary"))


def is_enumerated(site: Site) -> bool:
    """Return whether a site is marked for enumeration."""
    return bool(site["infer"].get("enumerate"))


def is_deterministic(site: Site) -> bool:
    """Return whether a site is a `pyro.deterministic`, which has no density and observes nothing."""
    return bool(site["infer"].get("_deterministic"))


def is_factor(site: Site) -> bool:
    """Return whether a site is a `pyro.factor`, which adds a term and observes nothing."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, Unit)


def observes(site: Site) -> bool:
    """Return whether a site observes data: a `pyro.factor` or a `pyro.deterministic` does not."""
    return site["is_observed"] and not is_deterministic(site) and not is_factor(site)


def log_prob(site: Site, *, scaled: bool = True) -> Tensor:
    """Return the log probability of a site, shape (B,) or (K, B), masked; with `scaled` also times its scale."""
    return scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"] if scaled else 1.0, site["mask"])


def add(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of tensors that broadcast; zero where there are none (the guide of a model without latents)."""
    listed = list(terms)
    return functools.reduce(operator.add, listed) if listed else torch.zeros((), device="cpu")
