"""Which sites of a model depend on the batch: found by running it on other rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.core.process import default_dtype, isolated
from ppl_vae.core.types import Program
from ppl_vae.pairs.sites import Site, Sites, log_prob, sample_sites


class Dependence:
    """Runs of a model on its batch, and on the same with some arguments of other rows.

    Global latents keep their values.

    Parameters
    ----------
    model : callable
        Its plate of the data is called ``data``.
    arguments : mapping of str to Tensor
        All rows.
    rows : int
        How many are run at once.
    sites : Sites
        The model's, of the first rows.
    """

    def __init__(self, model: Program, arguments: Mapping[str, Tensor], rows: int, sites: Sites) -> None:
        self.model = model
        self.arguments = arguments
        self.rows = rows
        self.shared = {name: site for name, site in sites.latents.items() if name not in sites.local}

    def on_batch(self, names: Iterable[str]) -> set[str]:
        """Return those of the observed sites `names` that depend on the batch, or on a local latent."""
        other = self._run(self.arguments, seed=1)
        return {name for name in names if not self._same(name, other, log_prob) or not self._same(name, other, _value)}

    def on_argument(self, argument: str, names: Iterable[str]) -> set[str]:
        """Return those of the observed sites `names` whose values are computed from an argument."""
        other = self._run((argument,), seed=0)
        return {name for name in names if not self._same(name, other, _value)}

    @cached_property
    def _first(self) -> Sites:
        return self._run((), seed=0)

    def _same(self, name: str, other: Sites, part: Callable[[Site], Tensor]) -> bool:
        return name in self._first and name in other and torch.equal(part(self._first[name]), part(other[name]))

    def _run(self, replaced: Iterable[str], seed: int) -> Sites:
        rows, others = slice(0, self.rows), slice(self.rows, 2 * self.rows)
        batch = {name: value[rows] for name, value in self.arguments.items()}
        for name in replaced:
            other = self.arguments[name][others]
            batch[name] = other if len(other) == self.rows else batch[name].roll(1, 0)
        fixed = poutine.Trace()
        for name, site in self.shared.items():
            fixed.add_node(name, **site)
        # A draw from a prior of torch's default floating type may be of another one than networks and shared latents.
        floating = (value.dtype for value in batch.values() if value.is_floating_point())
        with isolated(seed), default_dtype(next(floating, torch.get_default_dtype())):
            return sample_sites(poutine.trace(poutine.replay(self.model, trace=fixed)).get_trace(**batch))


def _value(site: Site) -> Tensor:
    return site["value"]
