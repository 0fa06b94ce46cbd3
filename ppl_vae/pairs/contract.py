"""The contract of a pair, checked once on a few rows: which sites there are, their shapes, and what they may hold.

A local site is inside the plate of the data: the one at dim -1 whose size is that of the batch, whatever its name. A
global site is outside of it: a latent shared by all data, or a term such as a `pyro.factor`, which must not depend on
the batch. Sites that observe the batch must be local.

Where a guide lacks a site, Pyro warns; here that is an error that names the site. A program, or any module in it, that
restricts the values of its arguments (labels in range, say) has a method ``check_values(**batch)``, which raises. It is
called once with all rows, since a recorded program cannot look at values. Warnings about training data are given by
``check_training(**batch)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

from ppl_vae.core.errors import InputError, PairError, PplVaeError, one_line
from ppl_vae.core.process import default_dtype, evaluating, isolated
from ppl_vae.core.types import Batch
from ppl_vae.pairs import observations, site_checks
from ppl_vae.pairs import sites as traces
from ppl_vae.pairs.adoption import adopt
from ppl_vae.pairs.dependence import Dependence
from ppl_vae.pairs.folding import Folding
from ppl_vae.pairs.particles import how_folded, takes_particles
from ppl_vae.pairs.plates import DataPlate, DataPlates, data_plates, in_data_plate, is_sequential
from ppl_vae.pairs.programs import Programs
from ppl_vae.pairs.sites import Record
from ppl_vae.pairs.whole import with_plate, without_plate

_T = TypeVar("_T")
_Runner = Callable[..., Record]


@dataclass(frozen=True)
class Contract:
    """What a check found out about a pair.

    Attributes
    ----------
    latent_dim : int
        Largest number of coordinates of a local latent.
    shares_latents : bool
        Whether some latents, or other terms, are global: outside the plate of the data.
    observed : tuple of str
        Sites that observe the argument of their name.
    observed_arguments : tuple of str
        Arguments that the model observes, as they stand or in part, at whichever site.
    plates : DataPlates
        The plate of the data in the two programs.
    delta_latents : tuple of str
        Local latents with a delta distribution in the guide, which has no density.
    without_prior : tuple of str
        Latents whose density the model leaves out by ``.mask(False)``, as an autoencoder does.
    """

    latent_dim: int
    shares_latents: bool
    observed: tuple[str, ...]
    observed_arguments: tuple[str, ...] = ()
    plates: DataPlates = field(default_factory=DataPlates)
    delta_latents: tuple[str, ...] = ()
    without_prior: tuple[str, ...] = ()

    def expect_densities(self, *, of_guide: bool) -> None:
        """Raise `InputError` unless log p(x, z) exists and, with `of_guide`, log q(z | x) too."""
        if self.without_prior:
            raise InputError(
                "log p(x)",
                expected="a model with a prior for every latent",
                got=f"one that masks the prior of {', '.join(self.without_prior)}: an autoencoder has no log p(x)",
                hint="a VAE",
            )
        if of_guide and self.delta_latents:
            raise InputError(
                "log weights",
                expected="a guide with a density",
                got=f"a delta distribution of {', '.join(self.delta_latents)}",
                hint="method='prior'",
            )


def check(pair: Programs, batch: Batch, *, training: bool = False) -> Contract:
    """Check `pair` on the first rows of `batch`; see `Pair.check`."""
    arguments = pair.arguments(batch)
    check_values(pair, arguments, training=training)
    rows, total = _few(pair, arguments), len(next(iter(arguments.values())))
    few = {name: value[:rows] for name, value in arguments.items()}
    # Pyro's validation is off at first: our own messages, which name the site and suggest a fix, come before Pyro's.
    pair.folding = None
    with isolated(), evaluating(pair):
        # First without replay: a guide's latent of a wrong shape would raise inside the networks of the replayed model.
        apart, rows = _first_runs(pair, arguments, rows)
        few = {name: value[:rows] for name, value in arguments.items()}
        plates = data_plates(apart.model, apart.guide, rows)
        site_checks.check_match(apart, few)
        _check_methods(pair)
        programs, named = pair.scoped(), DataPlate(plates)
        if (plates.depth, plates.dim) != (1, -1):
            pair.folding = Folding(names=plates.names, depth=plates.depth, dim=plates.dim)
        renamed = named(programs[0]), named(programs[1])
        run = _run(traces.trace_pair, renamed, few)
        site_checks.check_plates(run, arguments)
        dependence = Dependence(renamed[0], arguments, rows, run.model)
        bare = on_batch(lambda: site_checks.check_shared(run.model, dependence), few)
        if bare and pair.whole is None:
            pair.whole = without_plate(total, bare)
        own = {name: site for name, site in run.model.local.items() if traces.observes(site)}
        seen = on_batch(lambda: site_checks.observed_arguments(own, arguments, dependence), few)
        for program, sites in run.programs.items():
            for name, site in sites.items():
                observations.check_parameters(name, site, program)
        observations.check_supports(own, arguments, renamed)
        site_checks.check_batch_shapes(run, rows)
        local = {name: site for name, site in run.model.latents.items() if name in run.model.local}
        real = [site for site in (run.model | run.guide).values() if not traces.is_deterministic(site)]
        shares = not all(in_data_plate(site) for site in real)
        if not (shares or plates.parts or any(map(is_sequential, run.model.values()))):
            pair.folding = how_folded(pair, named, few, run)
        elif pair.folding is None and not takes_particles(renamed, few):
            pair.folding = Folding(names=plates.names)
    return Contract(
        latent_dim=max((site["fn"].event_shape.numel() for site in local.values()), default=0),
        shares_latents=shares,
        observed=tuple(name for name in own if name in arguments),
        observed_arguments=seen,
        plates=plates,
        delta_latents=site_checks.delta_latents(run.guide),
        without_prior=tuple(name for name, site in local.items() if site_checks.is_masked(site)),
    )


def _first_runs(pair: Programs, arguments: dict[str, Tensor], rows: int) -> tuple[Record, int]:
    """Run the programs apart, on few rows or, where they fit no fewer, on all; a pair takes what they make.

    Returns their sites, and the number of rows.
    """
    total = len(next(iter(arguments.values())))
    few = {name: value[:rows] for name, value in arguments.items()}
    if pair.whole is not None:
        pair.whole.check(total)
        rows = total

    def run(count: int) -> Record:
        # The model's own draws, from a prior of torch's default type, may be of another type than its networks.
        with default_dtype(pair.dtype):
            return adopt(pair, arguments, count)

    def run_on_few() -> tuple[Record, int]:
        try:
            sites = run(rows)
            return sites, total if pair.whole is not None else rows
        except PplVaeError:
            raise
        except Exception:
            if rows == total:
                raise
            try:
                found = run(total)
            except Exception:  # they do not run at all: the first error says so
                found = None
            if found is None:
                raise
        plates = data_plates(found.model, found.guide, total)
        if plates.names and not plates.parts and pair.whole is None:
            pair.whole = with_plate(total, sorted(plates.names)[0])
        return found, total

    return on_batch(run_on_few, few)


def check_values(pair: Programs, arguments: Mapping[str, Tensor], *, training: bool = False) -> None:
    """Raise for values that are not finite, of one length, or as the programs themselves require."""
    observations.check_values(arguments)
    for program in (pair.model, pair.guide):
        for name in ("check_values", "check_training")[: 1 + bool(training)]:
            for look in hooks(program, name):
                look(**arguments)


def hooks(program: nn.Module, name: str) -> list[Callable[..., Any]]:
    """Return the methods of that name which a program and the modules in it have, its own first."""
    found = (getattr(module, name, None) for module in program.modules())
    return [method for method in found if callable(method) and not isinstance(method, nn.Module)]


def _few(pair: Programs, arguments: dict[str, Tensor]) -> int:
    """Return a number of rows, at least 3, that equals no other size: no wrong shape can fit by chance."""
    tensors = [*pair.state_dict().values(), *(value[0] for value in arguments.values())]
    taken = {size for tensor in tensors for size in tensor.shape}
    total = len(next(iter(arguments.values())))
    return next((rows for rows in range(3, total) if rows not in taken), total)


def _run(run: _Runner, programs: tuple[Any, Any], few: dict[str, Tensor]) -> Record:
    return on_batch(lambda: run(*programs, (), few), few)


def on_batch(run: Callable[[], _T], few: Mapping[str, Tensor]) -> _T:
    """Return ``run()``, which runs programs on a batch; raise `PairError` for whatever one of them raises."""
    try:
        return run()
    except PplVaeError:
        raise
    except Exception as error:  # a program may raise anything; it stays as the cause
        raise_mismatch(error)
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in few.items())
        raise PairError(
            "pair", expected="programs that run on the batch", got=f"{one_line(error)} (for {shapes})"
        ) from error


def raise_mismatch(error: Exception) -> None:
    """Raise our own error for what Pyro says of a distribution whose batch shape is not that of its plates."""
    pattern = r"Shape mismatch inside plate\('(.*?)'\) at site (\S+) dim (-\d+), (\d+) vs (\d+)"
    if found := re.match(pattern, str(error)):
        plate, site, dim, wanted, got = found.groups()
        raise PairError(
            f"site {site!r}",
            expected=f"batch shape with {wanted}, the size of the plate {plate!r}, at dim {dim}",
            got=got,
            hint=".to_event(1) on its distribution",
        ) from error


def _check_methods(pair: Programs) -> None:
    """Raise for a method that a module of the pair keeps of a module outside it."""
    own = {id(parameter) for parameter in pair.parameters()}
    for module in pair.modules():
        for name, value in vars(module).items():
            owner = getattr(value, "__self__", None)
            if isinstance(owner, nn.Module) and not own.issuperset(map(id, owner.parameters())):
                raise PairError(
                    f"{type(module).__name__}.{name}",
                    expected="a method of the pair's own model",
                    got=f"one of another {type(owner).__name__}, whose parameters are neither trained nor saved",
                    hint="Pair(model, guide) with the model that the guide was given",
                )
