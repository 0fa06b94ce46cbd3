"""Checks of a pair's sites: the same latents in both programs, plates, observations, shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro.distributions import Delta, MaskedDistribution
from torch import Tensor

from ppl_vae.core.errors import PairError, one_line
from ppl_vae.core.types import Batch
from ppl_vae.pairs import observations
from ppl_vae.pairs import sites as traces
from ppl_vae.pairs.dependence import Dependence
from ppl_vae.pairs.plates import DATA, in_data_plate, is_undeclared, other_plates
from ppl_vae.pairs.sites import Record, Site, Sites


def check_match(run: Record, batch: Batch) -> None:
    """Raise unless the guide samples exactly the model's latent sites, each with the model's event shape."""
    wanted, offered = run.model.latents, run.guide.latents
    for name in wanted:
        if name not in offered and name not in run.model.enumerated:
            raise PairError(
                f"site {name!r}",
                expected="the guide to sample every latent site of the model",
                got=f"a guide that samples {names_of(offered)}",
                hint=f"obs={name} in the model" if name in batch else f"pyro.sample({name!r}, …) in the guide",
            )
    for name in offered:
        if name not in run.model and name not in run.guide.auxiliary:
            raise PairError(
                f"site {name!r}",
                expected="only latent sites of the model in the guide",
                got=f"a site the model lacks (it has {names_of(wanted)})",
                hint="the model's site names in the guide, or infer={'is_auxiliary': True}",
            )
        if name in run.model and name not in wanted:
            raise PairError(
                f"site {name!r}",
                expected="a latent site",
                got="one that the model observes",
                hint="dropping it from the guide",
            )
    for name in wanted.keys() & offered.keys():
        model_shape, guide_shape = _event_shape(wanted[name]), _event_shape(offered[name])
        if model_shape != guide_shape:
            raise PairError(
                f"site {name!r}",
                expected=f"event shape {model_shape} as in the model",
                got=f"{guide_shape} in the guide",
                hint="the same latent_dim and the same .to_event(…) in both",
            )


def check_plates(run: Record, arguments: dict[str, Tensor]) -> None:
    """Raise unless every batch dimension belongs to a plate, and every observed site to the plate ``data``."""
    for program, sites in run.programs.items():
        for name, site in sites.items():
            if in_data_plate(site) and (inner := other_plates(site)):
                raise PairError(
                    f"site {name!r}",
                    expected="no plate beside that of the data at dim -1 (particles stand at dim -2)",
                    got=f"the plate {inner[0]!r} around it in the {program}",
                    hint=".to_event(…) on its distribution, in place of that plate",
                )
            outside = name in arguments and traces.observes(site) and not in_data_plate(site)
            if is_undeclared(site) or outside:
                raise PairError(
                    f"site {name!r}",
                    expected="a local site, inside pyro.plate('data', B, dim=-1)",
                    got=f"batch shape {tuple(site['fn'].batch_shape)} outside it in the {program}",
                    hint="that plate around the site, or .to_event(…) on its distribution",
                )


def _scored(name: str, site: Site, program: str) -> Tensor:
    """Return the log probability of a site; raise `PairError` where its distribution cannot evaluate it."""
    try:
        return traces.log_prob(site)
    except Exception as error:  # a flow without an inverse, say
        raise PairError(
            f"site {name!r}",
            expected=f"a distribution that scores its value in the {program}",
            got=f"{type(error).__name__} from {type(site['fn']).__name__}: {one_line(error)}",
            hint="one whose log_prob takes any value",
        ) from error


def check_shared(model: Sites, dependence: Dependence) -> str:
    """Raise if a global site depends on the batch, or if no local site observes it.

    A model may do without a plate of the data altogether: then the first site that observes the batch is returned.
    """
    outside = [name for name in model.shared if name in model.observed]
    if not model.local and (bare := [name for name in outside if traces.observes(model[name])]):
        return bare[0]
    for name in sorted(dependence.on_batch(outside), key=outside.index) if outside else []:
        raise PairError(
            f"site {name!r}",
            expected="what observes the batch, or depends on it, inside pyro.plate('data', B, dim=-1)",
            got="a site outside it",
            hint="that plate around the site, and no sum over the data",
        )
    if not any(traces.observes(site) for site in model.local.values()):
        raise PairError(
            "model",
            expected="a site that observes the batch inside pyro.plate('data', B, dim=-1)",
            got=f"none (it samples {names_of(model.latents)})",
            hint="obs=x in the model, and Pair(model, guide) in this order",
        )
    return ""


def observed_arguments(own: Iterable[str], arguments: Mapping[str, Tensor], dependence: Dependence) -> tuple[str, ...]:
    """Return the arguments that the model observes: at a site of that name, or as a part of a site's value."""
    elsewhere = [name for name in own if name not in arguments]
    return tuple(
        name
        for name, value in arguments.items()
        if name in own or (elsewhere and value.dtype is not torch.bool and dependence.on_argument(name, elsewhere))
    )


def check_batch_shapes(run: Record, rows: int) -> None:
    """Raise unless every local site has log probabilities of shape (B,), and a value in its distribution's support."""
    for program, sites in run.programs.items():
        for name, site in sites.items():
            log_prob, inside = _scored(name, site, program), observations.inside(site["fn"], site["value"])
            if isinstance(site["fn"], MaskedDistribution):  # masked values may be anything
                inside = inside | ~torch.as_tensor(site["fn"]._mask, device=inside.device)
            if not bool(inside.all()):
                raise PairError(
                    f"site {name!r}",
                    expected=f"values in the support of its distribution in the {program} "
                    f"({observations.support_name(site['fn'])})",
                    got=f"values in [{float(site['value'].min()):.4g}, {float(site['value'].max()):.4g}]",
                )
            sizes = [f.size for f in site["cond_indep_stack"] if f.name == DATA and f.vectorized]
            size = rows if sizes == [-1] else next(iter(sizes), None)
            if size is not None and log_prob.shape[-1:] != (size,):
                raise PairError(
                    f"site {name!r}",
                    expected=f"log probabilities of shape ({size},)",
                    got=f"{tuple(log_prob.shape)} in the {program}",
                    hint="a distribution whose batch shape is that of the plate 'data'",
                )


def delta_latents(guide: Sites) -> tuple[str, ...]:
    """Return the local latents whose distribution in the guide is a delta.

    A guide with auxiliary sites has none: AutoGuides make each latent a `Delta` of their auxiliary draw, with the
    density of that draw.
    """
    if guide.auxiliary:
        return ()
    return tuple(name for name, site in guide.latents.items() if name in guide.local and _is_delta(site["fn"]))


def _is_delta(fn: Any) -> bool:
    """Return whether a distribution is a `Delta`, whatever it is wrapped in."""
    return isinstance(fn, Delta) or (hasattr(fn, "base_dist") and _is_delta(fn.base_dist))


def is_masked(site: Site) -> bool:
    """Return whether a mask leaves out the site's whole log density."""
    masks = [site["mask"], site["fn"]._mask if isinstance(site["fn"], MaskedDistribution) else None]
    return any(mask is not None and not bool(mask.any() if isinstance(mask, Tensor) else mask) for mask in masks)


def _event_shape(site: Site) -> tuple[int, ...]:
    return tuple(site["fn"].event_shape)


def names_of(sites: Iterable[str]) -> str:
    """Return names with commas between them."""
    return ", ".join(sites) or "none"
