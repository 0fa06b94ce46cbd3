"""The contract of a pair, checked once on a few rows: which sites there are, their shapes, and what they may hold.

Pyro warns where a guide misses a site; here it is an error that names the site. A program with requirements of its own
on values, labels in range, say, has a method ``check_values(**batch)`` that raises: it sees all rows, and a recorded
program never looks at one. What it only wants to say of data that it is trained on is in ``check_training(**batch)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, MaskedDistribution
from torch import Tensor, nn

from ppl_vae import observations, traces
from ppl_vae.context import evaluating, isolated
from ppl_vae.errors import InputError, PairError, PplVaeError
from ppl_vae.handlers import Frozen
from ppl_vae.modalities import mask_name
from ppl_vae.traces import Site, Sites
from ppl_vae.types import Batch, Program

if TYPE_CHECKING:
    from ppl_vae.pair import Pair

_Runner = Callable[..., tuple[Sites, Sites]]


@dataclass(frozen=True)
class Contract:
    """What a check found out about a pair.

    Attributes
    ----------
    latent_dim : int
        Largest number of coordinates of a latent of one datum.
    shares_latents : bool
        Whether some latents lie outside the plate ``data``, shared by all data.
    observed : tuple of str
        Sites that the batch observes.
    points : tuple of str
        Latents of a datum that the guide puts at a point, which has no density.
    without_prior : tuple of str
        Latents whose density the model leaves out by ``.mask(False)``, as an autoencoder does.
    """

    latent_dim: int
    shares_latents: bool
    observed: tuple[str, ...]
    points: tuple[str, ...] = ()
    without_prior: tuple[str, ...] = ()

    def expect_densities(self, *, of_guide: bool) -> None:
        """Raise `InputError` unless log p(x, z) exists and, with `of_guide`, log q(z | x) too."""
        if self.without_prior:
            raise InputError(
                "log p(x)",
                expected="a model with a prior for every latent",
                got=f"one that masks the prior of {_names(self.without_prior)}: an autoencoder has no log p(x)",
                hint="a VAE",
            )
        if of_guide and self.points:
            raise InputError(
                "log weights",
                expected="a guide with a density",
                got=f"one that puts {_names(self.points)} at a point",
                hint="method='prior'",
            )


def check(pair: Pair, batch: Batch, *, training: bool = False) -> Contract:
    """Check `pair` on the first rows of `batch`; see `Pair.check`."""
    arguments = pair.arguments(batch)
    check_values(pair, arguments, training=training)
    rows = _few(pair, arguments)
    few = {name: value[:rows] for name, value in arguments.items()}
    # Validation is off at first, so that our own messages, which name the site and a way out, come before Pyro's.
    with isolated(), evaluating(pair):
        stored: list[tuple[str, Any]] = []  # model and guide may both have a parameter of one name
        programs = _watched(pair.model, stored), _watched(pair.guide, stored)
        # Each by itself first: a latent of another shape would break the networks of a model that is replayed with it.
        _check_sites(*_run(_apart, programs, few), few)
        _check_parameters(pair, stored)
        model_sites, guide_sites = _run(traces.trace_pair, programs, few)
        _check_plates(model_sites, guide_sites, arguments)
        for name, site in model_sites.items():
            if site["is_observed"]:
                observations.check_name(name, site, few)
            if site["is_observed"] and name in arguments:
                mask = arguments.get(mask_name(name))  # what it hides may be anything
                shown = arguments[name] if mask is None else arguments[name][mask]
                observations.check_support(name, site["fn"], shown)
        _check_batch_shapes(model_sites, guide_sites, len(next(iter(few.values()))))
        local = {name: site for name, site in traces.latents(model_sites).items() if traces.in_data_plate(site)}
        shares = not all(traces.in_data_plate(site) for site in (model_sites | guide_sites).values())
        if not shares:
            _check_particles(pair, few)
    return Contract(
        latent_dim=max((site["fn"].event_shape.numel() for site in local.values()), default=0),
        shares_latents=shares,
        observed=tuple(name for name, site in model_sites.items() if site["is_observed"] and name in arguments),
        points=_points(guide_sites),
        without_prior=tuple(name for name, site in local.items() if _is_masked(site)),
    )


def check_values(pair: Pair, arguments: Mapping[str, Tensor], *, training: bool = False) -> None:
    """Raise for values that are not finite, of one length, or as the programs themselves require."""
    observations.check_values(arguments)
    for program in (pair.model, pair.guide):
        for name in ("check_values", "check_training")[: 1 + training]:
            if callable(look := getattr(program, name, None)):
                look(**arguments)


def _few(pair: Pair, arguments: dict[str, Tensor]) -> int:
    """Return a number of rows, 3 or a little more, that no other size in sight equals: no mistake fits by chance."""
    tensors = [*pair.state_dict().values(), *(value[0] for value in arguments.values())]
    taken = {size for tensor in tensors for size in tensor.shape}
    total = len(next(iter(arguments.values())))
    return next((rows for rows in range(3, total) if rows not in taken), total)


def _apart(model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Sites, Sites]:
    """Run model and guide without telling the one what the other draws."""
    model_trace, guide_trace = (poutine.trace(program).get_trace(*args, **kwargs) for program in (model, guide))
    return traces.sample_sites(model_trace), traces.sample_sites(guide_trace)


def _run(run: _Runner, programs: tuple[Any, Any], few: dict[str, Tensor]) -> tuple[Sites, Sites]:
    try:
        return run(*programs, (), few)
    except PplVaeError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        _raise_mismatch(error)
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in few.items())
        raise PairError(
            "pair", expected="programs that run on the batch", got=f"{_line(error)} (for {shapes})"
        ) from error


def _raise_mismatch(error: Exception) -> None:
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


def _check_sites(model_sites: Sites, guide_sites: Sites, batch: Batch) -> None:
    """Raise unless the guide samples exactly the model's latent sites, each with the model's event shape."""
    wanted, offered = traces.latents(model_sites), traces.latents(guide_sites)
    for name, site in wanted.items():
        if name not in offered and not traces.is_enumerated(site):
            raise PairError(
                f"site {name!r}",
                expected="the guide to sample every latent site of the model",
                got=f"a guide that samples {_names(offered)}",
                hint=f"obs={name} in the model" if name in batch else f"pyro.sample({name!r}, …) in the guide",
            )
    for name, site in offered.items():
        if name not in model_sites and not traces.is_auxiliary(site):
            raise PairError(
                f"site {name!r}",
                expected="only latent sites of the model in the guide",
                got=f"a site the model lacks (it has {_names(wanted)})",
                hint="the model's site names in the guide, or infer={'is_auxiliary': True}",
            )
        if name in model_sites and name not in wanted:
            raise PairError(
                f"site {name!r}",
                expected="a latent site",
                got="one that the model observes",
                hint="dropping it from the guide",
            )
    for name in wanted.keys() & offered.keys():
        model_shape, guide_shape = _event_shape(wanted[name]), _event_shape(offered[name])
        if model_shape != guide_shape:
            raise PairError(
                f"site {name!r}",
                expected=f"event shape {model_shape} as in the model",
                got=f"{guide_shape} in the guide",
                hint="the same latent_dim and the same .to_event(…) in both",
            )


def _check_plates(model_sites: Sites, guide_sites: Sites, arguments: dict[str, Tensor]) -> None:
    """Every batch dimension belongs to a plate, and what the batch observes to the plate ``data``."""
    for sites, program in ((model_sites, "model"), (guide_sites, "guide")):
        for name, site in sites.items():
            plates = {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized}
            shape = tuple(site["fn"].batch_shape)
            loose = [dim for dim in range(-len(shape), 0) if shape[dim] > 1 and dim not in plates]
            if loose or (name in arguments and site["is_observed"] and not traces.in_data_plate(site)):
                raise PairError(
                    f"site {name!r}",
                    expected="what belongs to a datum inside pyro.plate('data', B, dim=-1)",
                    got=f"batch shape {shape} outside it in the {program}",
                    hint="that plate around the site, or .to_event(…) on its distribution",
                )
            for frame in plates.values():
                if frame.name == "data" and frame.full_size not in (None, frame.size):
                    raise PairError(
                        f"site {name!r}",
                        expected="pyro.plate('data', B, dim=-1) with B the rows of the batch",
                        got=f"a plate of {frame.full_size} that takes {frame.size} of them",
                        hint="leaving mini-batches to fit",
                    )


def _check_batch_shapes(model_sites: Sites, guide_sites: Sites, size: int) -> None:
    """Every site of a datum has log probabilities of shape (B,)."""
    for sites, program in ((model_sites, "model"), (guide_sites, "guide")):
        for name, site in sites.items():
            log_prob, inside = traces.log_prob(site), observations.inside(site["fn"], site["value"])
            if isinstance(site["fn"], MaskedDistribution):  # what it masks may be anything
                inside = inside | ~torch.as_tensor(site["fn"]._mask)
            if not bool(inside.all()):
                raise PairError(
                    f"site {name!r}",
                    expected=f"values in the support of its distribution in the {program} "
                    f"({observations.support_name(site['fn'])})",
                    got=f"values in [{float(site['value'].min()):.4g}, {float(site['value'].max()):.4g}]",
                )
            if traces.in_data_plate(site) and log_prob.shape[-1:] != (size,):
                raise PairError(
                    f"site {name!r}",
                    expected=f"log probabilities of shape ({size},)",
                    got=f"{tuple(log_prob.shape)} in the {program}",
                    hint="a distribution whose batch shape is that of the plate 'data'",
                )


def _check_particles(pair: Pair, few: dict[str, Tensor]) -> None:
    """Particles are one more plate: networks must take leading batch dimensions."""
    size = len(next(iter(few.values())))
    try:
        shape = tuple(traces.log_weights(*traces.trace_pair(*pair.programs(), (), few, 2)).shape)
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, PplVaeError):
            raise
        _raise_mismatch(error)
        raise PairError(
            "pair",
            expected="networks that accept leading batch dimensions (particles are a plate at dim -2)",
            got=_line(error),
            hint="acting on the last dimensions only, as nn.Linear does",
        ) from error
    if shape != (2, size):
        raise PairError("pair", expected=f"log weights of shape (2, {size}) for 2 particles", got=str(shape))


def _watched(program: Program, stored: list[tuple[str, Any]]) -> Program:
    """Return `program` in a parameter-store scope of its own, noting in `stored` what it put there."""

    def run(*args: Any, **kwargs: Any) -> Any:
        state: Any = {"params": {}, "constraints": {}}
        with pyro.get_param_store().scope(state), Frozen():
            result = program(*args, **kwargs)
        stored.extend(state["params"].items())
        return result

    return run


def _check_parameters(pair: Pair, stored: list[tuple[str, Any]]) -> None:
    """Nothing the programs train may live in the parameter store only, or in a module outside the pair."""
    own = {id(parameter) for parameter in pair.parameters()}
    for name, value in stored:
        if id(value) not in own:
            raise PairError(
                f"parameter {name!r}",
                expected="parameters held by the model's or the guide's module",
                got="a pyro.param in the process-wide store, which is neither trained nor saved",
                hint="a PyroModule with `self.name = PyroParam(…)`, or the network as its attribute",
            )
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


def _points(guide_sites: Sites) -> tuple[str, ...]:
    """Return the latents of a datum that a guide puts at a point.

    AutoGuides carry the density of an auxiliary draw over to a point at the site that it is for.
    """
    if any(traces.is_auxiliary(site) for site in traces.latents(guide_sites).values()):
        return ()
    local = {name: site for name, site in traces.latents(guide_sites).items() if traces.in_data_plate(site)}
    return tuple(name for name, site in local.items() if _is_point(site["fn"]))


def _is_point(fn: Any) -> bool:
    """Tell whether a distribution is a `Delta`, whatever it is wrapped in."""
    return isinstance(fn, Delta) or (hasattr(fn, "base_dist") and _is_point(fn.base_dist))


def _is_masked(site: Site) -> bool:
    """Tell whether a site's density is left out."""
    return site["mask"] is False or (isinstance(site["fn"], MaskedDistribution) and site["fn"]._mask is False)


def _event_shape(site: Site) -> tuple[int, ...]:
    return tuple(site["fn"].event_shape)


def _names(sites: Iterable[str]) -> str:
    return ", ".join(sites) or "none"


def _line(error: Exception) -> str:
    return " ".join(str(error).partition("Trace Shapes:")[0].split())[:300]
