"""The base class of objectives, called by `pyro.infer.SVI` and the training step, and their checks of sites."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import pyro.infer
import torch
from torch import Tensor, nn

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.errors import PairError
from ppl_vae.core.types import Program
from ppl_vae.objectives.enumeration import average, probability
from ppl_vae.pairs.plates import in_data_plate, is_sequential, other_plates, undeclared
from ppl_vae.pairs.sites import Record, Site, add, is_factor, log_prob, one_by_one


class Objective(pyro.infer.ELBO):
    """A bound whose loss, in nats and summed over the batch, is a tensor that nothing reads back from the device.

    A concrete class defines `differentiable_loss`: its value is minus the bound, its gradient the estimator's. Without
    gradients (under `torch.no_grad`) only the value counts.
    """

    def __init__(self, num_particles: int) -> None:
        num_particles = integer_at_least("num_particles", num_particles, 1)
        super().__init__(num_particles=num_particles, max_plate_nesting=1, vectorize_particles=True)

    @abstractmethod
    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound as a tensor to differentiate."""

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over the batch, in nats."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, and add the estimate of its gradient to every parameter's `grad`."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.detach()


def own_module(objective: Any) -> nn.Module:
    """Return an objective's attribute `module`, which is trained with the pair; an empty module where it has none."""
    module = getattr(objective, "module", None)
    return module if isinstance(module, nn.Module) else nn.Module()


def factors(run: Record, plates: int) -> Tensor:
    """Return the sum of the guide's `pyro.factor` terms over the batch, averaged over particles.

    As in Pyro, a factor of the guide is added to log q, and so subtracted from the bound: a term to be maximised, such
    as the log probability of a known label, has a minus sign in it. Bounds used for evaluation omit these terms. A
    factor that depends on an enumerated latent is averaged over it; a draw that it depends on must be reparameterised.

    Parameters
    ----------
    plates : int
        1 without a particle plate, 2 with one.
    """
    terms = [log_prob(site) for site in run.factors.values()]
    for (name, site), term in zip(run.factors.items(), terms, strict=True):
        if is_factor(site) and term.requires_grad and not site["fn"].has_rsample:
            raise PairError(
                f"factor {name!r} of the guide",
                expected="has_rsample=True, a term that is differentiated as it stands",
                got="has_rsample=False, which asks for a score function",
                hint="pyro.infer.Trace_ELBO()",
            )
    q = probability(run) if terms else None
    return add(average(term, q, plates).sum(-1).mean() for term in terms)


def with_value(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return a tensor with the value of `value` and the gradient of `value + surrogate`."""
    return value + surrogate - surrogate.detach()


def check_sites(run: Record) -> None:
    """Raise unless the guide draws exactly the model's latents, except those that are validly enumerated in the model.

    Raises
    ------
    PairError
        For a latent that the guide lacks, or that only the guide has; for an enumerated latent that is global or
        enumerated sequentially; for a batch dimension that no plate declares; for a baseline, which is not supported.
    """
    _check_declared(run)
    for name in run.model.drawn:
        if name not in run.guide:
            raise PairError(f"site {name!r}", expected="every latent sampled by the guide", got="a guide without it")
    for name, site in run.guide.latents.items():
        if name not in run.model and name not in run.guide.auxiliary:
            raise PairError(f"site {name!r}", expected="only latents of the model in the guide", got="one it lacks")
        if site["infer"].get("baseline"):
            raise PairError(
                f"site {name!r}",
                expected="no baseline in infer: that of K particles is the mean of the others",
                got="one",
                hint="num_particles=10, or pyro.infer.TraceGraph_ELBO()",
            )
    for name, site in (run.guide.latents | run.model.latents).items():
        if site["infer"].get("enumerate"):
            _check_enumerated(name, site)


def _check_declared(run: Record) -> None:
    """Raise for a batch dimension that belongs to no plate: its log probabilities would silently be summed."""
    for program, name in undeclared(run.programs):
        raise PairError(
            f"site {name!r}",
            expected="every batch dimension in a plate, such as pyro.plate('data', B, dim=-1)",
            got=f"batch shape {tuple(run.programs[program][name]['fn'].batch_shape)} in the {program}",
            hint=".to_event(1) on its distribution, or that plate around the site",
        )


def _check_enumerated(name: str, site: Site) -> None:
    how = site["infer"]["enumerate"]
    if how != "parallel" or site["infer"].get("num_samples"):
        got = repr(how) if how != "parallel" else "num_samples, which draws it"
        raise PairError(f"site {name!r}", expected="enumerate='parallel', all values at once", got=got)
    others = other_plates(site)
    if others:
        raise PairError(
            f"site {name!r}", expected="a latent to be enumerated in no plate but 'data'", got=f"one in {others[0]!r}"
        )
    if is_sequential(site):
        raise one_by_one(name)
    if not in_data_plate(site):
        raise PairError(
            f"site {name!r}",
            expected="a latent to be enumerated inside pyro.plate('data', B, dim=-1)",
            got="one shared by all data",
            hint="pyro.infer.TraceEnum_ELBO",
        )
