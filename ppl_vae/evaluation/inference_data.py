"""A pair and a batch as ArviZ sees them, so that its plots and diagnostics work on any pair.

posterior  z ~ q(z | x)      posterior_predictive  x ~ p(x | z)      log_likelihood  log p(x | z)
prior      z ~ p(z)          prior_predictive      x ~ p(x | z)      observed_data   x
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pyro import poutine
from torch import Tensor

from ppl_vae import traces
from ppl_vae.arviz_adapter import inference_data
from ppl_vae.context import evaluating, isolated
from ppl_vae.data import as_split
from ppl_vae.errors import InputError
from ppl_vae.pair import ancestral_sites, as_pair
from ppl_vae.traces import Sites
from ppl_vae.types import Batch


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
        How many chains they are dealt out to, for diagnostics that compare chains. The draws are independent.
    seed : int
        Seed of the draws; the process's own random state is left alone.

    Returns
    -------
    arviz.InferenceData (ArviZ 0.23) or xarray.DataTree (ArviZ 1.x)
        Latents of a datum have dimensions (chain, draw, datum, <site>_dim_0, …), shared ones lack ``datum``. The
        posterior is the guide's: `az.loo` and the like are as good as the guide is.

    Raises
    ------
    InputError
        If `num_samples` is not a multiple of `num_chains`, or either is below one.
    """
    pair = as_pair(pair)
    if num_chains < 1 or num_samples < num_chains or num_samples % num_chains:
        raise InputError(
            "num_samples", expected=f"a multiple of num_chains = {num_chains}, at least as large", got=str(num_samples)
        )
    split = as_split(batch).to(pair.device, pair.dtype)
    model, guide = pair.programs()
    with isolated(seed, device=pair.device), evaluating(pair):
        observed = pair.check(split).observed
        arguments = pair.arguments(split)
        model_sites, guide_sites = traces.trace_pair(model, guide, (), arguments, num_samples)
        posterior = {name: site for name, site in traces.latents(guide_sites).items() if not traces.is_auxiliary(site)}
        conditions = {name: value for name, value in arguments.items() if name not in observed}
        size = {"size": split.size} if pair.takes("size") else {}
        ancestral = traces.particles(model, num_samples)
        replayed = poutine.condition(ancestral, data={name: site["value"] for name, site in posterior.items()})
        predictive = ancestral_sites(replayed, size | conditions)
        prior = ancestral_sites(ancestral, size | conditions)
    draws = _Draws(num_samples, num_chains)
    groups = {
        "posterior": draws.values(posterior),
        "posterior_predictive": draws.values({name: predictive[name] for name in observed}),
        "log_likelihood": {
            name: draws.dealt(traces.log_prob(model_sites[name], scaled=False).expand(num_samples, -1))
            for name in observed
        },
        "prior": draws.values({name: prior[name] for name in posterior if name in prior}),
        "prior_predictive": draws.values({name: prior[name] for name in observed}),
        "observed_data": {name: arguments[name].cpu().numpy() for name in observed},
    }
    every = posterior | {name: model_sites[name] for name in observed}
    dims = {name: _dims(name, site) for name, site in every.items()}
    about = {"data": split.spec.name, "binarization": split.spec.binarization, "digest": split.digest}
    return inference_data(groups, dims=dims, coords={"datum": np.arange(split.size)}, attrs=about)


class _Draws:
    """Deals K draws out to chains."""

    def __init__(self, num_samples: int, num_chains: int) -> None:
        self.shape = (num_chains, num_samples // num_chains)

    def values(self, sites: Sites) -> dict[str, np.ndarray]:
        """Return each site's values, (chain, draw, datum, …); a site shared by all data has no datum."""
        return {
            name: self.dealt(site["value"] if traces.in_data_plate(site) else site["value"].squeeze(1))
            for name, site in sites.items()
        }

    def dealt(self, value: Tensor) -> np.ndarray:
        """Return (K, …) as (chain, draw, …)."""
        return value.detach().cpu().unflatten(0, self.shape).numpy()


def _dims(name: str, site: Any) -> list[str]:
    event = [f"{name}_dim_{i}" for i in range(len(site["fn"].event_shape))]
    return ["datum", *event] if traces.in_data_plate(site) else event
