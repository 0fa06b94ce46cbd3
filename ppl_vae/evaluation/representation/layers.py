"""What each layer of latents is used for.

    KL_k = E_q[log q(z_k|.) - log p(z_k|.)]           rate of a layer, nats per datum; they add up to the rate
    U_k  = #{j : KL_kj > 0.01}                        units in use, KL_kj that of a unit (Sonderby et al. 2016)
    A_k  = #{j : Var_n(E_q[z_kj|x_n]) > 0.01}         active units (Burda et al. 2016, section 5.1)
    I_k  = E[log q(z_k|x_n) - log (1/N) sum_m q(z_k|x_m)]    information on which datum it is (Hoffman & Johnson 2016)

A unit whose distribution in the guide is the model's p(z_k|.) has a mean that varies with the latents above it, so that
it is active; but its KL is 0, and it is not in use. KL_kj add up to KL_k where model and guide draw the units of a
layer independently. For units of a full-covariance Normal they are those of the marginals; other joint distributions
have none. A categorical latent has no mean, and so no A_k.

I_k is at most log N. q(z_k|x) is a mixture over the latents drawn before z_k in the guide, estimated with S draws, with
or without the parents z_k was drawn with. With them I_k is too large: information on these parents counts as
information on x_n. Without them it is too small, by Jensen's inequality, but never below 0. For a layer that depends on
x only the two are equal. KLs are another upper bound of I_k: for latents z_A that come first in both programs, and that
depend only on each other in the model,

    I_k <= I(x; z_A) <= sum_{a in A} KL_a,     k in A
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Independent, MultivariateNormal, Normal
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.core.checks import integer_at_least, one_of
from ppl_vae.core.errors import InputError
from ppl_vae.core.process import evaluating, isolated
from ppl_vae.core.types import Batch
from ppl_vae.data import as_split
from ppl_vae.objectives import ELBO
from ppl_vae.objectives.kl import analytic_kl, why_drawn
from ppl_vae.pairs.pair import as_pair
from ppl_vae.pairs.sites import Record, Site, Sites, log_prob, particles, sample_sites, trace_pair

#: KL of a unit, in nats per datum, above which it is in use.
IN_USE = 0.01

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
    in_use : int or None
        U_k; None where no unit has a KL of its own.
    active : int or None
        A_k; None where the guide's distribution has no mean, as that of a class.
    information : tuple of float
        I_k in nats, from below and from above.
    information_error : float
        Standard error over the data, the larger of the two ends'.
    most_information : float
        log N, the largest possible value.
    """

    site: str
    size: int
    kl: float
    kl_error: float
    in_use: int | None
    active: int | None
    information: tuple[float, float]
    information_error: float
    most_information: float


def layer_use(pair: Any, data: Batch, *, num_draws: int = 10, seed: int = 0) -> list[LayerUse]:
    """Return the use of each latent of a pair, that nearest the data first.

    Parameters
    ----------
    pair : Pair
        Any pair whose latents are local and have densities.
    data : mapping of str to Tensor
        N data, such as ``data.test.take(1000, seed=0)``. Memory is ``num_draws * N * D`` numbers; the information
        takes ``num_draws * N ** 2`` densities.
    num_draws : int
        S, at least 2: the variance of a posterior mean is corrected for the noise of S draws of the layers before it.
    seed : int
        Seed of the draws; the process's own random state is left alone.

    Raises
    ------
    InputError
        For fewer than two draws or data, global latents, a guide with a delta distribution, a model that masks their
        prior.
    """
    with _drawn(pair, data, num_draws, seed) as run:
        ceilings = run.ceilings()
        return [_use(name, run, ceilings.get(name)) for name in reversed(run.rates)]


def units_in_use(pair: Any, data: Batch, *, num_draws: int = 10, seed: int = 0) -> dict[str, int]:
    """Return U_k of each latent whose units have a KL, by site: the count of `layer_use`, without its other figures.

    Parameters and errors are those of `layer_use`.
    """
    with _drawn(pair, data, num_draws, seed) as run:
        counts = {name: _units_in_use(name, run) for name in run.rates}
    return {name: count for name, count in counts.items() if count is not None}


def reconstruct_from(pair: Any, batch: Batch, sites: Iterable[str]) -> dict[str, Tensor]:
    """Return E[x | z] by observed site, each (B, …), for z of which the guide draws `sites` and the model the rest.

    With the upper layers only, this shows what they encode of a datum: z_L, ..., z_k ~ q(. | x), and below them
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
        one_of("latent", name, drawn)
    rest = {name: value for name, value in pair.arguments(batch).items() if name not in observed}
    means = pair.decode({name: drawn[name] for name in kept}, **rest)
    return {name: means[name] for name in observed}


def table(layers: Sequence[LayerUse]) -> str:
    """Return the layers as a table of text; what is not known is a dash."""
    width = max([6, *(len(use.site) for use in layers)])
    lines = [f"{'layer':{width}} {'units':>6} {'in use':>7} {'KL, nats':>16} {'information, nats':>23}"]
    for use in layers:
        kl, in_use = f"{use.kl:z.2f} ± {use.kl_error:.2f}", "–" if use.in_use is None else use.in_use
        lines.append(f"{use.site:{width}} {use.size:6d} {in_use:>7} {kl:>16} {_interval(use):>23}")
    return "\n".join(lines)


def _interval(use: LayerUse) -> str:
    """Return a layer's information as text: a value, an interval, its upper end only, or a dash."""
    low, high = (f"{end:.2f}" for end in use.information)
    error = f" ± {use.information_error:.2f}"
    if low == high:
        return low + error
    if low != "0.00":
        return f"{low} to {high}{error}"
    return "–" if high == f"{use.most_information:.2f}" else f"at most {high}{error}"


@dataclass(frozen=True)
class _Run:
    """The record of S draws for each of N data, and the rate (N,) of each latent in the model's order."""

    record: Record
    rates: dict[str, Tensor]
    elsewhere: Callable[[], Sites]

    def ceilings(self) -> dict[str, Tensor]:
        """Return sum_{a in A} KL_a (N,) by latent, A the smallest set with it; none where p(z_A) depends on x."""
        moved = self.elsewhere()
        found: dict[str, Tensor] = {}
        model, latents = self.record.model, self.record.guide.latents
        for count, first in enumerate(itertools.accumulate(([name] for name in latents), operator.add), 1):
            if not all(name in self.rates and _same_density(model[name], moved[name]) for name in first):
                break
            if set(first) == set(list(self.rates)[:count]):
                ceiling = torch.stack([self.rates[name] for name in first]).sum(0)
                found = dict.fromkeys(first, ceiling) | found
        return found


@contextmanager
def _drawn(pair: Any, data: Batch, num_draws: int, seed: int) -> Iterator[_Run]:
    """Draw S times for each datum, in the context in which densities must be computed too."""
    pair, S = as_pair(pair), integer_at_least("num_draws", num_draws, 2)
    split = as_split(data).to(pair.device, pair.dtype)
    integer_at_least("number of data", split.size, 2)
    contract = pair.check(split)
    contract.expect_densities(of_guide=True)
    if contract.shares_latents:
        raise InputError("pair", expected="local latents", got="global ones")
    with isolated(seed, device=pair.device), evaluating(pair):
        arguments = pair.arguments(split)
        program, guide_program = pair.programs()
        record = trace_pair(program, guide_program, (), arguments, S)
        _, terms = ELBO(S).terms(record)
        rates = {name: terms[name].expand(S, split.size).mean(0) for name in record.model.latents if name in terms}

        def elsewhere() -> Sites:
            """Return the model's sites with the latents of each datum and the arguments of another."""
            given = poutine.condition(program, data={name: record.guide[name]["value"] for name in rates})
            rolled = {name: value.roll(1, 0) for name, value in arguments.items()}
            return sample_sites(poutine.trace(particles(given, S)).get_trace(**rolled))

        yield _Run(record, rates, elsewhere)


def _use(name: str, run: _Run, ceiling: Tensor | None) -> LayerUse:
    """Return the use of a latent, its information bounded by a `ceiling` (N,)."""
    site, kl = run.record.guide[name], run.rates[name]
    low, high = map(_mean_and_error, _information(site))
    if ceiling is not None:
        high = min(high, _mean_and_error(ceiling))
    ends = max(0.0, min(low[0], high[0])), max(0.0, high[0])
    return LayerUse(
        name,
        site["fn"].event_shape.numel(),
        *_mean_and_error(kl),
        _units_in_use(name, run),
        _active(site["fn"]),
        ends,
        max(low[1], high[1]) if ends[0] else high[1],  # at 0 the lower end is not an estimate
        math.log(len(kl)),
    )


def _units_in_use(name: str, run: _Run) -> int | None:
    """Return U_k, or None where no unit has a KL of its own."""
    units = _unit_kl(name, run.record)
    return None if units is None else int((units > IN_USE).sum())


def _unit_kl(name: str, record: Record) -> Tensor | None:
    """Return KL_kj of each unit, (units,), or None where they have none of their own."""
    q, p = record.guide[name], record.model[name]
    q_units, p_units = _units(q["fn"]), _units(p["fn"])
    if q_units.event_dim or p_units.event_dim:
        return None
    kl = None if why_drawn(name, record) else analytic_kl(q_units, p_units)
    if kl is None:
        kl = _weighed(q_units.log_prob(q["value"]), q) - _weighed(p_units.log_prob(q["value"]), p)
    else:
        kl = _weighed(kl, q)
    return kl.double().mean((0, 1)).flatten()


def _units(fn: Any) -> Any:
    """Return the distribution of single units, without event dimensions, where it is known; else `fn`."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return Normal(fn.mean, fn.variance.sqrt()) if isinstance(fn, MultivariateNormal) else fn


def _weighed(values: Tensor, site: Site) -> Tensor:
    """Return values of units times their site's scale, where its mask has them."""
    units = (..., *[None] * site["fn"].event_dim)
    scale, mask = (v[units] if isinstance(v, Tensor) and v.dim() else v for v in (site["scale"], site["mask"]))
    return scale_and_mask(values, scale, mask)


def _same_density(p: Site, moved: Site) -> bool:
    """Return whether a latent has the same density given the arguments of its own datum and of another."""
    return torch.allclose(log_prob(p), log_prob(moved), rtol=1e-4, atol=1e-4)


def _active(fn: Any) -> int | None:
    """Return A_k, or None where the latent has no mean: a class, or a transformed variable."""
    try:
        variances = _variance_of_mean(fn)
    except NotImplementedError:
        return None
    return None if variances.isnan().any() else int((variances > ACTIVE).sum())


def _variance_of_mean(fn: Any) -> Tensor:
    """Return Var_n(E_q[z|x_n]) of each unit, corrected for the noise of a mean over S draws."""
    means = fn.mean.double().reshape(*fn.batch_shape, -1)
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
        own = mixtures[:, torch.arange(len(index), device=z.device), index]
        found.append(own - (mixtures.logsumexp(2) - math.log(N)))
    return torch.cat(found, 1)


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    values = values.double()
    return float(values.mean()), float(values.std() / len(values) ** 0.5)
