"""Bounds across modalities (Spurr et al. 2018, eq. 4).

    sum_{i, t} w_it (E_q(z|x_i)[log p(x_t|z)] - KL(q(z|x_i) || p(z)))

A source i is one modality, or several joined by "+"; (i, i) alone trains each modality separately. A pair (i, t)
counts for the data that have both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor

from ppl_vae.core.checks import not_negative
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError, PairError
from ppl_vae.core.types import Program
from ppl_vae.nn.modalities import check_there, mask_name, only
from ppl_vae.objectives.base import factors
from ppl_vae.objectives.elbo import ELBO
from ppl_vae.pairs.sites import Record, add


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
    PairError
        When called, for a model with observed sites other than its targets.
    """

    recordable = True

    def __init__(
        self,
        weights: Mapping[str, Mapping[str, float]],
        num_particles: int = 1,
        kl: Literal["auto", "analytic", "sampled"] = "auto",
    ) -> None:
        super().__init__(num_particles, kl)
        sources = weights.values() if isinstance(weights, Mapping) else ()
        if not sources or not all(isinstance(targets, Mapping) and targets for targets in sources):
            got = repr(weights)[:60]
            raise InputError("weights", expected="a target for every source", got=got, hint='{"a": {"b": 1.0}}')
        self.weights = {
            source: {target: not_negative(f"weight of {source}, {target}", w) for target, w in targets.items()}
            for source, targets in weights.items()
        }

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative bound as a tensor to differentiate."""
        return add(self._loss(source, model, guide, kwargs) for source in self.weights)

    def distortion_and_rate(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return weighted distortion and rate, whose sum is the loss, summed over sources and the batch, in nats."""
        parts = [self._weighed(source, kwargs, self._run(source, model, guide, kwargs)) for source in self.weights]
        return {
            name: add(term.sum() for part in parts for term in part[number]) / self.num_particles
            for number, name in enumerate(("distortion", "rate"))
        }

    def _loss(self, source: str, model: Program, guide: Program, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the negative bound of one source; see `ELBO`."""
        run = self._run(source, model, guide, batch)
        distortion, rate = self._weighed(source, batch, run)
        self._check_gradient(run)
        terms = [*distortion, *rate]
        loss = add(term.sum() for term in terms) / self.num_particles + factors(run, self._plates)
        return loss + self._score_term(run, terms) if run.guide.unreparameterised else loss

    def _run(self, source: str, model: Program, guide: Program, batch: Mapping[str, Tensor]) -> Record:
        """Trace the guide of the source, and the model of its targets."""
        given, targets = source.split("+"), self.weights[source]
        check_there((*given, *targets), batch)
        return self._get_trace(_taking(model, targets), _taking(guide, given), (), dict(batch))

    def _weighed(self, source: str, batch: Mapping[str, Tensor], run: Record) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weighted terms of distortion and rate for the data that have both source and target."""
        distortion, rate = self.terms(run)
        for name in distortion:
            if name not in self.weights[source]:
                got = "another, or a latent that is summed out"
                raise PairError(f"site {name!r}", expected="no observed site but the targets", got=got)

        def seen(term: Tensor, target: str) -> Tensor:
            for mask in (batch.get(mask_name(name)) for name in (*source.split("+"), target)):
                term = term if mask is None else term.where(mask, 0)
            return term

        weights = self.weights[source].items()
        lost = [w * seen(distortion[target], target) for target, w in weights]
        return lost, [w * seen(term, target) for term in rate.values() for target, w in weights]


def _taking(program: Program, names: Any) -> Callable[..., Any]:
    """Return the program restricted to the modalities of these names and their masks."""
    return lambda **batch: program(**only(batch, names))
