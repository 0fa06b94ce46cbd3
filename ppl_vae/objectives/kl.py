"""KL(q || p) in closed form, and where a bound may use it.

For latents z_1 … z_L,  E_q[log q(z_i | .) - log p(z_i | .)] = E_q[KL(q(z_i | .) || p(z_i | .))]  holds only if every latent
that p(z_i | .) conditions on was drawn before z_i in the guide. Otherwise the inner expectation is over the wrong law.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Independent, MultivariateNormal, Normal
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.traces import Sites, is_auxiliary, is_enumerated, latents


def analytic_kl(q: Any, p: Any) -> Tensor | None:
    """Return KL(q || p) in nats, of the batch shape of both, or None where no closed form is known."""
    if isinstance(q, MultivariateNormal):
        p = _as_multivariate(p)
    elif isinstance(p, MultivariateNormal):
        q = _as_multivariate(q)
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def conditions_match(name: str, model_sites: Sites, guide_sites: Sites) -> bool:
    """Tell whether every latent the model may draw `name` from was drawn before `name` in the guide.

    The test is by order of the programs, and so errs on the safe side: a latent that precedes `name` in the model counts as
    a parent of it. A site that is auxiliary in the guide draws others behind the trace's back, so it rules the form out.
    """
    if any(is_auxiliary(site) for site in guide_sites.values()):
        return False
    if is_enumerated(model_sites[name]) or is_enumerated(guide_sites[name]):
        return False
    return _before(name, latents(model_sites)) <= _before(name, latents(guide_sites))


def _before(name: str, sites: Sites) -> set[str]:
    names = list(sites)
    return set(names[: names.index(name)])


def _as_multivariate(fn: Any) -> Any:
    """Return a diagonal Normal over vectors as a MultivariateNormal; anything else as it is."""
    if isinstance(fn, Independent) and isinstance(fn.base_dist, Normal) and fn.reinterpreted_batch_ndims == 1:
        return MultivariateNormal(fn.base_dist.loc, scale_tril=torch.diag_embed(fn.base_dist.scale))
    return fn
