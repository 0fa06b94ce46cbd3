"""A pair: a model p(x, z) and a guide q(z | x) over the same latent sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Unit
from torch import Tensor

from ppl_vae.core.checks import check_mapping, integer_at_least
from ppl_vae.core.errors import InputError, PairError, PplVaeError, unknown_name
from ppl_vae.core.process import evaluating
from ppl_vae.core.types import Batch, Program
from ppl_vae.pairs import contract
from ppl_vae.pairs import sites as traces
from ppl_vae.pairs.programs import Programs
from ppl_vae.pairs.sites import Site, Sites


class Pair(Programs):
    """A model and a guide over the same latent sites.

    Parameters
    ----------
    model : Module or callable
        Pyro program for p(x, z). It samples inside ``pyro.plate("data", B, dim=-1)``, observes the tensors of the batch
        it is given, and generates when called with ``size=n`` instead.
    guide : Module or callable
        Pyro program for q(z | x), sampling exactly the sites the model has and the batch does not observe. Pyro's
        AutoGuides are guides too.

    Raises
    ------
    PairError
        From `check`, which `fit` and `log_likelihood` call: a missing or extra site, a shape that differs, a parameter
        outside the modules.

    Examples
    --------
    >>> pair = Pair(VAE(64, 8), AmortizedNormal(64, 8))            # doctest: +SKIP
    >>> pair.log_weights(batch, num_particles=100).shape           # doctest: +SKIP
    torch.Size([100, 32])
    """

    def _checked(self, batch: Batch) -> dict[str, Tensor]:
        """Return the arguments of a batch once its values are checked; only for code that is never recorded."""
        arguments = self._prepared(batch)
        if self._dims is None:  # never checked: how its programs are run is not known
            self.check(arguments)
        else:
            contract.check_values(self, arguments)
        return arguments

    def _trace(self, program: Program, arguments: dict[str, Tensor]) -> poutine.Trace:
        """Return the trace of a program on arguments whose values are checked."""
        return contract.on_batch(lambda: poutine.trace(program).get_trace(**arguments), arguments)

    def check(self, batch: Batch, *, training: bool = False) -> contract.Contract:
        """Check the pair's contract on a few rows of `batch`, and the support of every observed value on all of them.

        With `training`, a program may also warn about the data that it is to be trained on.

        Returns
        -------
        Contract
            What was found: observed sites, the number of latents, whether some are shared by all data.

        Raises
        ------
        InputError
            For values that are not finite or lie outside the likelihood's support.
        PairError
            For a site that is missing, extra, of another shape, or of a wrong batch shape, and for parameters kept in
            the process-wide store.
        """
        found = contract.check(self, batch, training=training)
        self._dims = {name: value.dim() for name, value in self.arguments(batch).items()}
        self._plates = found.plates
        self._one_by_one = found.shares_latents and self.folding is not None
        return found

    def log_weights(self, batch: Batch, num_particles: int = 1) -> Tensor:
        """Return log p(x, z) - log q(z | x) for fresh z ~ q(z | x): shape (K, B), in nats."""
        num_particles = integer_at_least("num_particles", num_particles, 1, hint="num_particles=100")
        if self._dims is None:
            with suppress(PairError):  # which also finds out how particles are run; weights may exist all the same
                self.check(batch)
        model, guide = self.programs()
        return traces.trace_pair(model, guide, (), self._prepared(batch), num_particles).log_weights()

    def posterior(self, batch: Batch, num_samples: int = 1) -> dict[str, Tensor]:
        """Return draws from the guide by site, each of shape (K, B, …)."""
        num_samples = integer_at_least("num_samples", num_samples, 1)
        with evaluating(self):
            arguments = self._checked(batch)
            if self._one_by_one:
                draws = [self._drawn(arguments, 1) for _ in range(num_samples)]
                return {name: torch.cat([draw[name] for draw in draws]) for name in draws[0]}
            return self._drawn(arguments, num_samples)

    def _drawn(self, arguments: dict[str, Tensor], num_samples: int) -> dict[str, Tensor]:
        """Return draws from the guide, inside one particle plate."""
        trace = self._trace(traces.particles(self.programs()[1], num_samples), arguments)
        sites = traces.sample_sites(trace)
        return {name: site["value"] for name, site in sites.latents.items() if name not in sites.auxiliary}

    def posterior_mean(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean of each latent under the guide, (B, …): given one draw of its parents where it has any."""
        with evaluating(self):
            arguments = self._checked(batch)
            trace = self._trace(self.programs()[1], arguments)
        return _means(traces.sample_sites(trace).latents)

    def generate(self, size: int | None = None, **conditions: Tensor) -> dict[str, Tensor]:
        """Run the model with no observation: ancestral samples of every site, each of shape (n, …).

        Parameters
        ----------
        size : int, optional
            How many; may be left out where `conditions` give it.
        **conditions : Tensor
            What the model conditions on (``c=labels``).
        """
        if size is None and not conditions:
            raise InputError("size", expected="how many to generate", got="none", hint="size=64")
        if size is not None:
            size = integer_at_least("size", size, 1)
        given = self._moved(conditions)
        for name, value in given.items():
            if not self.takes(name):
                raise unknown_name("condition", name, self._signatures[0].names - {"size"})
            if size is not None and value.dim() and len(value) != size:
                raise InputError(name, expected=f"{size} rows, as size says", got=str(len(value)))
        sites = self._run_model(size, given)
        return {name: site["value"] for name, site in sites.items()}

    def decode(self, latents: Mapping[str, Tensor], **conditions: Tensor) -> dict[str, Tensor]:
        """Return the mean of every site the model draws given `latents`, each of shape (n, …): E[x | z]."""
        given = self._moved(check_mapping("latents", latents, "a mapping of sites to tensors", '{"z": z}'))
        size = max((len(value) for value in given.values() if value.dim()), default=1)  # shared latents have one row
        model = poutine.condition(self.programs()[0], data=given)
        sites = self._run_model(size, self._moved(conditions), model)
        for name in latents.keys() - sites.keys():
            raise unknown_name("latent", name, sites.latents)
        return _means({name: site for name, site in sites.items() if name not in latents})

    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """Return E[x | z] for one z ~ q(z | x) per datum, by observed site, given all others, each of shape (B, …)."""
        here = self._prepared(batch)
        found = self.check(here)
        observed = found.observed
        drawn = {name: value[0] for name, value in self.posterior(here).items()}
        rest = {name: value for name, value in here.items() if name not in found.observed_arguments}
        if not observed:  # sites of other names, which observe parts of arguments
            return self.decode(drawn, **rest)
        seen = {name: {other: here[other] for other in observed if other != name} for name in observed}
        return {name: self.decode(drawn | seen[name], **rest)[name] for name in observed}

    def _run_model(self, size: int | None, conditions: Mapping[str, Tensor], model: Program | None = None) -> Sites:
        """Trace the model with no observation."""
        arguments: dict[str, Any] = dict(conditions)
        if size is not None and self.takes("size"):
            arguments["size"] = size
        others = sorted(self._signatures[0].names - arguments.keys() - {"size"})
        with evaluating(self):
            return ancestral_sites(model or self.programs()[0], arguments, others)


def ancestral_sites(model: Program, arguments: dict[str, Any], others: Sequence[str] = ()) -> Sites:
    """Run `model` with no observation and return its sample sites, without any `pyro.factor`, which draws nothing.

    Raises
    ------
    PairError
        If it cannot run without one.
    """
    try:
        sites = traces.sample_sites(poutine.trace(model).get_trace(**arguments))
        return Sites((name, site) for name, site in sites.items() if not isinstance(site["fn"], Unit))
    except (TypeError, AttributeError, RuntimeError, ValueError) as error:  # what a program does with x = None
        if isinstance(error, PplVaeError):
            raise
        raise PairError(
            "model",
            expected="a program that generates when called with size=n and no observation",
            got=" ".join(str(error).split())[:200],
            hint="`def forward(self, x=None, size=None)` and `obs=x`"
            + (f", or, if it conditions on one of {', '.join(others)}, giving it" if others else ""),
        ) from error


def as_pair(pair: Any) -> Pair:
    """Return `pair` as a `Pair`: itself, or anything with a ``model`` and a ``guide``, or a tuple of the two.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if isinstance(pair, Pair):
        return pair
    if isinstance(pair, tuple) and len(pair) == 2:
        return Pair(*pair)
    if callable(getattr(pair, "model", None)) and callable(getattr(pair, "guide", None)):
        return Pair(pair.model, pair.guide)
    raise InputError(
        "pair", expected="a Pair, or a model and a guide", got=type(pair).__name__, hint="ppl_vae.Pair(model, guide)"
    )


def _means(sites: Mapping[str, Site]) -> dict[str, Tensor]:
    """Return each site's mean; its value where its distribution has none (or none that is a number)."""
    means = {}
    for name, site in sites.items():
        if traces.is_auxiliary(site):
            continue
        try:
            mean = site["fn"].mean
            means[name] = mean if torch.isfinite(mean).all() else site["value"]
        except (NotImplementedError, AttributeError):
            means[name] = site["value"]
    return means
