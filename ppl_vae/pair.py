"""A pair: a model p(x, z) and a guide q(z | x) over the same latent sites.

Parameters live in the two modules. Each program runs inside a parameter-store scope of its own, so the process-wide
store stays empty, names in the model and in the guide cannot clash, and `state_dict` is all there is to save.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from torch import Tensor, nn

from ppl_vae import contract, observations, traces
from ppl_vae.checks import check_mapping, integer_at_least, raise_memory
from ppl_vae.context import alone, evaluating
from ppl_vae.errors import InputError, PairError, PplVaeError, shown, unknown_name
from ppl_vae.handlers import Frozen
from ppl_vae.plates import DATA, DataPlate
from ppl_vae.shapes import check_tensor
from ppl_vae.signature import Signature
from ppl_vae.traces import Sites
from ppl_vae.types import Batch, Program


class Pair(nn.Module):
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

    def __init__(self, model: Program, guide: Program) -> None:
        super().__init__()
        self.model = _as_module(model, "model")
        self.guide = _as_module(guide, "guide")
        self._signatures = Signature.of(self.model), Signature.of(self.guide)
        # Once checked: the rank of the arguments, and what the programs call the plate of the data.
        self._dims: dict[str, int] | None = None
        self._plates = frozenset({DATA})

    # -- programs and batches ---------------------------------------------------------------------------------------

    def programs(self) -> tuple[Program, Program]:
        """Return the model and the guide as callables that leave the process-wide parameter store alone.

        In what they record the plate of the data is called ``data``, whatever its name, once the pair has been checked.
        """
        programs = _scoped(self.model), _scoped(self.guide)
        if self._plates == {DATA}:
            return programs
        named = DataPlate(self._plates)
        return named(programs[0]), named(programs[1])

    def arguments(self, batch: Batch) -> dict[str, Tensor]:
        """Return the entries of `batch` that both programs take, by name; labels a VAE has no use for are left out.

        Raises
        ------
        InputError
            If nothing fits, an argument without a default is not in the batch, or what is left out was meant to be in.
        """
        model, guide = self._signatures
        if not isinstance(batch, Mapping) or not all(isinstance(value, Tensor) for value in batch.values()):
            got = type(batch).__name__ if not isinstance(batch, Mapping) else "values that are no tensors"
            raise InputError("batch", expected="a mapping of argument names to tensors", got=got, hint='{"x": x}')
        check_mapping("batch", batch, "names of arguments as keys")
        for name, value in batch.items():
            check_tensor(name, value)
        for name in batch:
            for one, other, role in ((model, guide, "guide"), (guide, model, "model")):
                if name in one.names and not other.takes(name):
                    raise PairError(
                        f"argument {name!r}",
                        expected="both programs to take it, since both get the same batch",
                        got=f"a {role} that does not",
                        hint=f"`def forward(self, …, {name}=None)` in the {role}, or a batch without it",
                    )
        chosen = {name: value for name, value in batch.items() if model.takes(name) and guide.takes(name)}
        taken = frozenset(chosen)
        observations.check_left_out(frozenset(batch) - taken, taken, (model.names | guide.names) - taken - {"size"})
        missing = sorted((model.required | guide.required) - chosen.keys())
        if missing or not chosen:
            wanted = missing or sorted(model.names - {"size"})
            raise InputError(
                "batch",
                expected=f"tensors named {', '.join(wanted) or 'as the arguments of the model'}",
                got=f"{', '.join(batch) or 'an empty mapping'}",
                hint="naming the tensors as the arguments of model and guide",
            )
        return chosen

    def _prepared(self, batch: Batch) -> dict[str, Tensor]:
        """Return the arguments in `batch` on the pair's device, of the rank they had when the pair was checked."""
        arguments = self._moved(self.arguments(batch))
        for name, dims in (self._dims or {}).items():
            if name in arguments and arguments[name].dim() != dims:
                raise InputError(
                    name,
                    expected=f"{dims} dimensions, the first one data",
                    got=f"shape {tuple(arguments[name].shape)}",
                    hint=f"{name}[None] for a single datum",
                )
        return arguments

    def _checked(self, batch: Batch) -> dict[str, Tensor]:
        """Return the same once its values are found fit, by a look at each: for what is never recorded."""
        arguments = self._prepared(batch)
        contract.check_values(self, arguments)
        return arguments

    def _trace(self, program: Program, batch: Batch) -> poutine.Trace:
        """Return the trace of a program on a batch whose values are found fit."""
        arguments = self._checked(batch)
        return contract.on_batch(lambda: poutine.trace(program).get_trace(**arguments), arguments)

    def _moved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `tensors` on the pair's device and in its floating type."""
        for name, value in tensors.items():
            check_tensor(name, value)
        device, dtype = self.device, self.dtype
        return {name: x.to(device, dtype if x.is_floating_point() else None) for name, x in tensors.items()}

    def takes(self, name: str) -> bool:
        """Tell whether the model takes an argument called `name`."""
        return self._signatures[0].takes(name)

    # -- what a pair can do -----------------------------------------------------------------------------------------

    def check(self, batch: Batch, *, training: bool = False) -> contract.Contract:
        """Check the pair's contract on a few rows of `batch`, and the support of every observed value on all of them.

        With `training`, a program may warn of what is amiss in data that it is to learn from.

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
        return found

    def log_weights(self, batch: Batch, num_particles: int = 1) -> Tensor:
        """Return log p(x, z) - log q(z | x) for fresh z ~ q(z | x): shape (K, B), in nats."""
        num_particles = integer_at_least("num_particles", num_particles, 1, hint="num_particles=100")
        model, guide = self.programs()
        return traces.log_weights(*traces.trace_pair(model, guide, (), self._prepared(batch), num_particles))

    def posterior(self, batch: Batch, num_samples: int = 1) -> dict[str, Tensor]:
        """Return draws from the guide by site, each of shape (K, B, …)."""
        num_samples = integer_at_least("num_samples", num_samples, 1)
        _, guide = self.programs()
        with evaluating(self):
            trace = self._trace(traces.particles(guide, num_samples), batch)
        sites = traces.latents(traces.sample_sites(trace))
        return {name: site["value"] for name, site in sites.items() if not traces.is_auxiliary(site)}

    def posterior_mean(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean of each latent under the guide, shape (B, …): exact for the first layer, one draw deep."""
        _, guide = self.programs()
        with evaluating(self):
            trace = self._trace(guide, batch)
        return _means(traces.latents(traces.sample_sites(trace)))

    def generate(self, size: int | None = None, **conditions: Tensor) -> dict[str, Tensor]:
        """Run the model with no observation: ancestral samples of every site, each of shape (n, …).

        Parameters
        ----------
        size : int, optional
            How many; may be left out where `conditions` tell.
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
            raise unknown_name("latent", name, traces.latents(sites))
        return _means({name: site for name, site in sites.items() if name not in latents})

    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """Return E[x | z] for one z ~ q(z | x) per datum, by observed site, given all others, each of shape (B, …)."""
        here = self._prepared(batch)
        found = self.check(here)
        observed = found.observed
        drawn = {name: value[0] for name, value in self.posterior(here).items()}
        rest = {name: value for name, value in here.items() if name not in found.observed_arguments}
        if not observed:  # parts of arguments, at sites of other names
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

    @property
    def device(self) -> torch.device:
        """The device the parameters are on."""
        return next((tensor.device for tensor in [*self.parameters(), *self.buffers()]), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the parameters."""
        floating = (t.dtype for t in [*self.parameters(), *self.buffers()] if t.is_floating_point())
        return next(floating, torch.get_default_dtype())


def ancestral_sites(model: Program, arguments: dict[str, Any], others: Sequence[str] = ()) -> Sites:
    """Run `model` with no observation and return its sample sites, a `pyro.factor` excepted, which draws nothing.

    Raises
    ------
    PairError
        If it cannot run without one.
    """
    try:
        sites = traces.sample_sites(poutine.trace(model).get_trace(**arguments))
        return {name: site for name, site in sites.items() if not isinstance(site["fn"], Unit)}
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


class _Function(nn.Module):
    """A Pyro program that is a plain function, as a module without parameters."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = function  # type: ignore[method-assign]


def _as_module(program: Program, role: str) -> nn.Module:
    if isinstance(program, nn.Module):
        return program
    owner = getattr(program, "__self__", None)
    if isinstance(owner, nn.Module):
        raise PairError(
            role,
            expected="a PyroModule",
            got=f"a method of {type(owner).__name__}, which hides its parameters",
            hint="a PyroModule for the model and one for the guide, each with its forward",
        )
    if callable(program) and not isinstance(program, type):
        return _Function(program)
    raise PairError(
        role,
        expected="a PyroModule or a function",
        got=shown(program, 60),
        hint="an instance, as in Pair(Model(), Guide())",
    )


def _scoped(program: nn.Module) -> Program:
    def run(*args: Any, **kwargs: Any) -> Any:
        with alone(), pyro.get_param_store().scope(), Frozen():
            try:
                return program(*args, **kwargs)
            except (MemoryError, RuntimeError) as error:
                raise_memory(type(program).__name__, error)
                raise

    return run


def _means(sites: Sites) -> dict[str, Tensor]:
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
