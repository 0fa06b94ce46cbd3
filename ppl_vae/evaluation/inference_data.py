"""Draws of a pair in ArviZ's format, so that its plots and diagnostics work on any pair.

posterior  z ~ q(z | x)      posterior_predictive  x ~ p(x | z)      log_likelihood  log p(x | z)
prior      z ~ p(z)          prior_predictive      x ~ p(x | z)      observed_data   x
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.errors import InputError
from ppl_vae.core.process import evaluating, isolated
from ppl_vae.core.types import Batch
from ppl_vae.data import Split, as_split
from ppl_vae.evaluation.arviz_adapter import inference_data
from ppl_vae.pairs import sites as traces
from ppl_vae.pairs.pair import Pair, ancestral_sites, as_pair
from ppl_vae.pairs.plates import in_data_plate
from ppl_vae.pairs.sites import Site


def to_arviz(pair: Any, batch: Batch, *, num_samples: int = 1000, num_chains: int = 4, seed: int = 0) -> Any:
    """Return draws from a pair for a batch as ArviZ's inference data.

    Parameters
    ----------
    pair : Pair
        Model and guide.
    batch : mapping of str to Tensor
        B data; every group but the prior's is about them. Memory is ``num_samples * B * D`` numbers.
    num_samples : int
        Draws in all, K.
    num_chains : int
        Number of chains they are split into, for diagnostics that compare chains. The draws are independent.
    seed : int
        Seed of the draws; the process's own random state is left alone.

    Returns
    -------
    arviz.InferenceData (ArviZ 0.23) or xarray.DataTree (ArviZ 1.x)
        Local latents have dimensions (chain, draw, datum, <site>_dim_0, …), global ones lack ``datum``. The
        posterior is the guide's: `az.loo` and the like are as good as the guide is.

    Raises
    ------
    InputError
        If `num_samples` is not a multiple of `num_chains`, or either is below one.
    """
    pair = as_pair(pair)
    num_samples, num_chains = (
        integer_at_least(name, value, 0) for name, value in (("num_samples", num_samples), ("num_chains", num_chains))
    )
    if num_chains < 1 or num_samples < num_chains or num_samples % num_chains:
        raise InputError(
            "num_samples", expected=f"a multiple of num_chains = {num_chains}, at least as large", got=str(num_samples)
        )
    split = as_split(batch).to(pair.device, pair.dtype)
    with isolated(seed, device=pair.device), evaluating(pair):
        contract = pair.check(split)
        if contract.shares_latents:  # a program may not support a particle plate around them
            runs = [_run(pair, split, contract.observed, None) for _ in range(num_samples)]
            groups = {
                group: {name: torch.stack([run[0][group][name] for run in runs]) for name in values}
                for group, values in runs[0][0].items()
            }
            dims = runs[0][1]
        else:
            groups, dims = _run(pair, split, contract.observed, num_samples)
    shape = (num_chains, num_samples // num_chains)
    arrays = {
        group: {name: value.cpu().unflatten(0, shape).numpy() for name, value in values.items()}
        for group, values in groups.items()
    }
    arrays["observed_data"] = {name: split[name].cpu().numpy() for name in contract.observed}
    about = {"data": split.spec.name, "binarization": split.spec.binarization, "digest": split.digest}
    return inference_data(arrays, dims=dims, coords={"datum": np.arange(split.size)}, attrs=about)


def _run(
    pair: Pair, split: Split, observed: tuple[str, ...], num_particles: int | None
) -> tuple[dict[str, dict[str, Tensor]], dict[str, list[str]]]:
    """Return draws by group and site, (K, B, …) or without particles (B, …), and the names of their dimensions."""
    model, guide = pair.programs()
    arguments = pair.arguments(split)
    run = traces.trace_pair(model, guide, (), arguments, num_particles)
    posterior = {name: site for name, site in run.guide.latents.items() if name not in run.guide.auxiliary}
    given: dict[str, Any] = {name: value for name, value in arguments.items() if name not in observed}
    given |= {"size": split.size} if pair.takes("size") else {}
    ancestral = model if num_particles is None else traces.particles(model, num_particles)
    conditioned = poutine.condition(ancestral, data={name: site["value"] for name, site in posterior.items()})
    predictive, prior = ancestral_sites(conditioned, given), ancestral_sites(ancestral, given)
    groups = {
        "posterior": _values(posterior, posterior),
        "posterior_predictive": _values(predictive, observed),
        "log_likelihood": {
            name: log_prob if num_particles is None else log_prob.expand(num_particles, -1)
            for name in observed
            for log_prob in [traces.log_prob(run.model[name], scaled=False)]
        },
        "prior": _values(prior, [name for name in posterior if name in prior]),
        "prior_predictive": _values(prior, observed),
    }
    every = posterior | {name: run.model[name] for name in observed}
    return groups, {name: _dims(name, site) for name, site in every.items()}


def _values(sites: Mapping[str, Site], names: Iterable[str]) -> dict[str, Tensor]:
    return {name: sites[name]["value"] for name in names}


def _dims(name: str, site: Site) -> list[str]:
    """Return the names of a site's dimensions after the draw: the datum's or its other plates', then the event's."""
    event = [f"{name}_dim_{i}" for i in range(len(site["fn"].event_shape))]
    if in_data_plate(site):
        return ["datum", *event]
    return [*(f"{name}_plate_{i}" for i in range(len(site["fn"].batch_shape))), *event]
