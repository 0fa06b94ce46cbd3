"""Bounds across modalities (Spurr et al. 2018, eq. 4).

    sum_{i, t} w_it (E_q(z|x_i)[log p(x_t|z)] - KL(q(z|x_i) || p(z)))

A source i is one modality, or several joined by "+"; (i, i) alone trains each modality apart. A pair (i, t) counts for
the data that have both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ppl_vae.config import configurable
from ppl_vae.errors import InputError, unknown_name
from ppl_vae.modalities import mask_name
from ppl_vae.objectives.base import factors
from ppl_vae.objectives.elbo import ELBO
from ppl_vae.shapes import not_negative
from ppl_vae.traces import add
from ppl_vae.types import Program


@configurable
class CrossModalELBO(ELBO):
    """Bound of targets given sources, for programs whose arguments are modalities.

    Parameters
    ----------
    weights : mapping of str to mapping of str to float
        w_it by source and target: ``{"joints2d": {"joints3d": 1.0}, "joints2d+depth": {"joints3d": 0.5}}``.
    num_particles : int
        K, draws per datum and source.
    kl : {"auto", "analytic", "sampled"}
        As for `ELBO`.

    Raises
    ------
    InputError
        If there are no weights, or one is negative; when called, for a modality that the batch lacks.
    """

    recordable = True

    def __init__(
        self,
        weights: Mapping[str, Mapping[str, float]],
        num_particles: int = 1,
        kl: Literal["auto", "analytic", "sampled"] = "auto",
    ) -> None:
        super().__init__(num_particles, kl)
        if not isinstance(weights, Mapping) or not weights or not all(map(bool, weights.values())):
            got = repr(weights)[:60]
            raise InputError("weights", expected="a target for every source", got=got, hint='{"a": {"b": 1.0}}')
        self.weights = {
            source: {target: not_negative(f"weight of {source}, {target}", w) for target, w in targets.items()}
            for source, targets in weights.items()
        }

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative bound as a tensor to differentiate."""
        parts = [self._of_source(source, model, guide, kwargs) for source in self.weights]
        return add(part for parts_of_one in parts for part in parts_of_one)

    def halves(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return distortion and rate, each with its weights and summed over sources and the batch, in nats."""
        with torch.no_grad():
            parts = [self._of_source(source, model, guide, kwargs) for source in self.weights]
        return {"distortion": add(part[0] for part in parts), "rate": add(part[1] for part in parts)}

    def _of_source(
        self, source: str, model: Program, guide: Program, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weighted distortion and rate of one source, and the guide's own terms."""
        given, targets = source.split("+"), self.weights[source]
        for name in (*given, *targets):
            if name not in batch:
                raise unknown_name("modality", name, [n for n in batch if not n.endswith(mask_name(""))])
        sites = self._get_trace(_taking(model, targets), _taking(guide, given), (), dict(batch))
        distortion, rate = self.terms(*sites)
        present = {name: batch.get(mask_name(name)) for name in (*given, *targets)}
        counts = add(w * _all(present[t] for t in (*given, t)) for t, w in targets.items())
        seen = _all(present[name] for name in given)
        lost = add((targets[t] * seen * term).sum() for t, term in distortion.items())
        spent = add((counts * term).sum() for term in rate.values())
        K = self.num_particles
        return lost / K, spent / K, factors(sites[1])


def _taking(program: Program, names: Any) -> Callable[..., Any]:
    """Return the program with the modalities of these names alone, and their masks."""
    wanted = {*names, *map(mask_name, names)}
    return lambda **batch: program(**{name: value for name, value in batch.items() if name in wanted})


def _all(masks: Any) -> Tensor:
    """Return one for the data that all of the masks have, else zero; None is a mask of all."""
    product = torch.ones(())
    for mask in masks:
        product = product if mask is None else product * mask
    return product
