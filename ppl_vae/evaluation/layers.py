"""What each layer of latents is used for.

    KL_k = E_q[log q(z_k|.) - log p(z_k|.)]           nats per datum that a layer costs; they add up to the rate
    A_k  = #{j : Var_n(E_q[z_kj|x_n]) > 0.01}         active units (Burda et al. 2016, section 5.1)
    I_k  = E[log q(z_k|x_n) - log (1/N) sum_m q(z_k|x_m)]    information on which datum it is (Hoffman & Johnson 2016)

I_k is at most log N. q(z_k|x) is a mixture over what the guide draws before z_k, here over S draws of that, z_k's own
parents among them or not. With them I_k is too large: what z_k shares with its own parents counts as shared with x_n.
Without them it is too small, by Jensen's inequality, down to 0, which it never is below. For a layer that is drawn from
x alone the two are one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_vae.context import evaluating, isolated
from ppl_vae.data import as_split
from ppl_vae.errors import InputError, unknown_name
from ppl_vae.objectives import ELBO
from ppl_vae.pair import as_pair
from ppl_vae.shapes import integer_at_least
from ppl_vae.traces import Site, latents, trace_pair
from ppl_vae.types import Batch

#: Variance over the data of a unit's posterior mean, above which the unit is active.
ACTIVE = 0.01

#: Log densities that are held at once.
_AT_ONCE = 2**22


@dataclass(frozen=True)
class LayerUse:
    """One layer's use over N data.

    Attributes
    ----------
    site : str
        The latent.
    size : int
        How many units it has.
    kl, kl_error : float
        KL_k in nats per datum, and its standard error over the data.
    active : int
        A_k.
    information : tuple of float
        I_k in nats, from below and from above.
    information_error : float
        Standard error of the latter, over the data.
    """

    site: str
    size: int
    kl: float
    kl_error: float
    active: int
    information: tuple[float, float]
    information_error: float


def layer_use(pair: Any, data: Batch, *, num_draws: int = 10, seed: int = 0) -> list[LayerUse]:
    """Return the use of each latent of a pair, that nearest the data first.

    Parameters
    ----------
    pair : Pair
        Any pair whose latents belong to single data and have densities.
    data : mapping of str to Tensor
        N data, such as ``data.test.take(1000, seed=0)``. Memory is ``num_draws * N * D`` numbers; the information
        takes ``num_draws * N ** 2`` densities.
    num_draws : int
        S, at least 2: the variance of a posterior mean over S draws of the layers drawn before it is freed of the
        noise of these draws.
    seed : int
        Seed of the draws; the process's own random state is left alone.

    Raises
    ------
    InputError
        For fewer than two draws or data, latents that all data share, a guide that puts them at a point, a model that
        masks their prior.
    """
    pair, S = as_pair(pair), integer_at_least("num_draws", num_draws, 2)
    split = as_split(data).to(pair.device, pair.dtype)
    integer_at_least("number of data", split.size, 2)
    contract = pair.check(split)
    contract.expect_densities(of_guide=True)
    if contract.shares_latents:
        raise InputError("pair", expected="latents that belong to single data", got="some that all data share")
    with isolated(seed, device=pair.device), evaluating(pair):
        model, guide = pair.programs()
        model_sites, guide_sites = trace_pair(model, guide, (), pair.arguments(split), S)
        _, rates = ELBO(S).terms(model_sites, guide_sites)
        return [
            _use(name, guide_sites[name], rates[name].expand(S, split.size).mean(0))
            for name in reversed(latents(model_sites))
        ]


def reconstruct_from(pair: Any, batch: Batch, sites: Iterable[str]) -> dict[str, Tensor]:
    """Return E[x | z] by observed site, each (B, …), for z of which the guide draws `sites` and the model the rest.

    With the upper layers alone this shows what they hold of a datum: z_L, ..., z_k ~ q(. | x), and below them
    z_{k-1}, ..., z_1 from p(. | z_k).

    Raises
    ------
    InputError
        For no site, or one that is no latent of the guide.
    """
    pair, kept = as_pair(pair), list(sites)
    if not kept:
        raise InputError("sites", expected="at least one latent", got="none", hint="pair.generate(size=64)")
    observed = pair.check(batch).observed
    drawn = {name: value[0] for name, value in pair.posterior(batch).items()}
    for name in kept:
        if name not in drawn:
            raise unknown_name("latent", name, drawn)
    rest = {name: value for name, value in pair.arguments(batch).items() if name not in observed}
    means = pair.decode({name: drawn[name] for name in kept}, **rest)
    return {name: means[name] for name in observed}


def table(layers: Sequence[LayerUse]) -> str:
    """Return the layers as a table of text."""
    width = max([6, *(len(use.site) for use in layers)])
    lines = [f"{'layer':{width}} {'units':>6} {'active':>7} {'KL, nats':>16} {'information, nats':>23}"]
    for use in layers:
        kl = f"{use.kl:.2f} ± {use.kl_error:.2f}"
        information = "{:.2f} to {:.2f}".format(*use.information) + f" ± {use.information_error:.2f}"
        lines.append(f"{use.site:{width}} {use.size:6d} {use.active:7d} {kl:>16} {information:>23}")
    return "\n".join(lines)


def _use(name: str, site: Site, kl: Tensor) -> LayerUse:
    """Return the use of a latent from the guide's site, of batch shape (S, N), and its KL (N,)."""
    low, high = map(_mean_and_error, _information(site))
    return LayerUse(
        name,
        site["fn"].event_shape.numel(),
        *_mean_and_error(kl),
        int((_variance_of_mean(site["fn"]) > ACTIVE).sum()),
        (max(0.0, low[0]), high[0]),
        high[1],
    )


def _variance_of_mean(fn: Any) -> Tensor:
    """Return Var_n(E_q[z|x_n]) of each unit, freed of the noise of a mean over S draws."""
    means = fn.mean.flatten(2).double()
    return means.mean(0).var(0) - means.var(0).mean(0) / len(means)


def _information(site: Site) -> Tensor:
    """Return log q(z|x_n) - log (1/N) sum_m q(z|x_m) for one z of each datum, from below and from above: (2, N)."""
    fn, z = site["fn"], site["value"][0]
    S, N = fn.batch_shape
    rows = max(1, _AT_ONCE // (S * N * fn.event_shape.numel()))
    found = []
    for index in torch.arange(N, device=z.device).split(rows):
        log_q = fn.log_prob(z[index, None, None]).double()  # (rows, S, N), of which draw 0 has z's own parents
        mixtures = torch.stack([log_q[:, 1:].logsumexp(1) - math.log(S - 1), log_q.logsumexp(1) - math.log(S)])
        own = mixtures[:, torch.arange(len(index)), index]
        found.append(own - (mixtures.logsumexp(2) - math.log(N)))
    return torch.cat(found, 1)


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    values = values.double()
    return float(values.mean()), float(values.std() / len(values) ** 0.5)
