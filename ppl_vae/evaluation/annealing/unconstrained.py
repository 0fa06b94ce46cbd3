"""A pair's densities as functions of one vector of real numbers per particle and datum.

    z = T(u),   log p(x, u) = log p(x, T(u)) + log |det dT/du|,   and the same for q

T maps the coordinates of each latent site from R^n onto its support (`torch.distributions.biject_to`), at the place
in the program where the site is drawn, so that a support may depend on the sites before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.core.errors import InputError, PairError
from ppl_vae.core.process import evaluating, isolated
from ppl_vae.pairs import sites as traces
from ppl_vae.pairs.pair import Pair
from ppl_vae.pairs.plates import in_data_plate
from ppl_vae.pairs.sites import Record, Site, Sites

#: Where annealing starts: log f_0 is that of the prior, or of the guide.
STARTS = ("prior", "guide")


class _Slot(NamedTuple):
    """The position of a site in u, and its event shape there."""

    first: int
    shape: torch.Size

    def of(self, u: Tensor) -> Tensor:
        """Return this site's part of u, (K, B, *shape)."""
        return u[..., self.first : self.first + self.shape.numel()].reshape(*u.shape[:-1], *self.shape)


class Unconstrained:
    """Densities of the start f_0 and of the target p(x, z) of a pair over u (K, B, L).

    Parameters
    ----------
    pair : Pair
        All of its latents are continuous and local.
    batch : mapping of str to Tensor
        Arguments for both programs; its first row is used to find the sites.
    start : {"prior", "guide"}
        The distribution f_0.

    Raises
    ------
    InputError
        For a latent that is discrete, or shared by all data, or whose support has no known transform; for a model
        without latents; for auxiliary sites in a guide from which annealing starts.
    """

    def __init__(self, pair: Pair, batch: Mapping[str, Tensor], start: str) -> None:
        self.pair = pair
        self.start = start
        self._model, self._guide = pair.programs()
        self._layout: dict[str, _Slot] = {}
        few = {name: value[:1] for name, value in batch.items()}
        with isolated(device=pair.device), evaluating(pair):
            run = self._drawn(few, 1)
            _check(run, start)
            size = 0
            for name, site in run.model.latents.items():
                self._layout[name] = _Slot(size, _coordinates(name, site).shape[2:])
                size += self._layout[name].shape.numel()
        self.size = size

    def draw(self, batch: Mapping[str, Tensor], num_particles: int) -> Tensor:
        """Return u ~ f_0, (K, B, L)."""
        return self._flat(self._drawn(batch, num_particles).model)

    def flatten(self, batch: Mapping[str, Tensor], latents: Mapping[str, Tensor]) -> Tensor:
        """Return the u (1, B, L) of given `latents`, each (B, …)."""
        given = {name: value.unsqueeze(0) for name, value in latents.items()}
        model = poutine.condition(traces.particles(self._model, 1), data=given)
        return self._flat(traces.sample_sites(poutine.trace(model).get_trace(**batch)))

    def log_densities(self, u: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return log f_0(u) and log p(x, u) - log f_0(u), (K, B) each, in nats.

        The second is the log weight of u as a draw from f_0: log p(x | z) where f_0 is the prior.
        """
        transformed = _Transformed(self._layout, u)
        with transformed:
            trace = poutine.trace(traces.particles(self._model, len(u))).get_trace(**batch)
        sites = traces.sample_sites(trace)
        prior = traces.add(traces.log_prob(site, scaled=False) for site in sites.latents.values())
        observed = traces.add(traces.log_prob(site, scaled=False) for site in sites.observed.values())
        likelihood = observed.expand_as(prior)
        if self.start == "prior":
            return prior + transformed.log_det, likelihood
        guide = poutine.trace(poutine.replay(traces.particles(self._guide, len(u)), trace=trace)).get_trace(**batch)
        drawn = traces.sample_sites(guide).latents  # without a `pyro.factor`, which is no part of q
        log_q = traces.add(traces.log_prob(site, scaled=False) for site in drawn.values())
        return log_q + transformed.log_det, prior + likelihood - log_q

    def _drawn(self, batch: Mapping[str, Tensor], num_particles: int) -> Record:
        """Run the model, after the guide where annealing starts from it."""
        if self.start == "guide":
            return traces.trace_pair(self._model, self._guide, (), dict(batch), num_particles)
        trace = poutine.trace(traces.particles(self._model, num_particles)).get_trace(**batch)
        return Record(traces.sample_sites(trace), Sites())

    def _flat(self, sites: Sites) -> Tensor:
        parts = [_coordinates(name, sites[name]) for name in self._layout]
        return torch.cat([part.reshape(*part.shape[:2], -1) for part in parts], -1)


class _Transformed(Messenger):
    """Set every latent to T of its part of u, and add up log |det dT/du|, (K, B)."""

    def __init__(self, layout: Mapping[str, _Slot], u: Tensor) -> None:
        super().__init__()
        self.layout = layout
        self.u = u
        self.log_det: Tensor | float = 0.0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.layout:
            return
        transform = biject_to(msg["fn"].support)
        coordinates = self.layout[msg["name"]].of(self.u)
        msg["value"], msg["done"] = transform(coordinates), True
        log_det = transform.log_abs_det_jacobian(coordinates, msg["value"])
        self.log_det = self.log_det + log_det.flatten(2).sum(-1) if log_det.dim() > 2 else self.log_det + log_det


def _coordinates(name: str, site: Site) -> Tensor:
    """Return T^-1 of a site's value, (K, B, …)."""
    try:
        return biject_to(site["fn"].support).inv(site["value"])
    except NotImplementedError as error:
        raise InputError(
            f"site {name!r}",
            expected="a support that torch.distributions.biject_to maps R^n onto",
            got=str(site["fn"].support),
            hint="method='importance'",
        ) from error


def _check(run: Record, start: str) -> None:
    """Raise unless every latent can be moved by gradients, and the start's density is known."""
    if not run.model.latents:
        raise InputError(
            "pair", expected="a model with latents to anneal", got="one without", hint="method='importance'"
        )
    for name, site in run.model.latents.items():
        if not in_data_plate(site):
            raise PairError(
                f"site {name!r}",
                expected="local latents",
                got="one shared by all data",
                hint="the ELBO as a bound",
            )
        if site["fn"].support.is_discrete:
            raise InputError(
                f"site {name!r}",
                expected="continuous latents, which annealing moves by gradients (summing out is not supported here)",
                got=f"a discrete one in {site['fn'].support}",
                hint="method='importance'",
            )
    for name in run.guide.auxiliary:
        raise InputError(
            f"site {name!r}",
            expected="a guide whose density of the latents is known, to start from",
            got="an auxiliary site, on which that density depends",
            hint="start='prior'",
        )
