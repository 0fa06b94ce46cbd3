"""Random Pyro programs: a specification drawn from a seed, and the model and the guide that it stands for.

A specification says which latents and observations there are, of which family, in which plate, on what they depend, and
what is masked, scaled or left unobserved. `Model` and `Guide` read it as Pyro programs; nothing of the library is used.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.functional import softplus

ROWS, COLUMNS, COMPONENTS = 3, 4, 2
F64 = torch.float64


# -- families ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A family of distributions: its support, how many numbers settle it for each coordinate, and how to make one."""

    support: str
    numbers: int
    make: Callable[..., Any]
    joint: bool = False  # over a whole vector, with an event dimension of its own
    drawn_with_gradient: bool = True


def _low_rank(loc: Tensor, scale: Tensor) -> Any:
    factor = torch.full_like(loc, 0.3).unsqueeze(-1)
    return dist.LowRankMultivariateNormal(loc, factor, softplus(scale) + 0.1)


def _multivariate(loc: Tensor, scale: Tensor) -> Any:
    lower = torch.diag_embed(softplus(scale) + 0.2) + 0.1 * torch.ones(loc.shape[-1], loc.shape[-1]).to(loc).tril(-1)
    return dist.MultivariateNormal(loc, scale_tril=lower)


def _squashed(loc: Tensor, scale: Tensor) -> Any:
    return dist.TransformedDistribution(dist.Normal(loc, softplus(scale) + 0.2), [dist.transforms.SigmoidTransform()])


FAMILIES = {
    "normal": Family("real", 2, lambda m, s: dist.Normal(m, softplus(s) + 0.2)),
    "laplace": Family("real", 2, lambda m, s: dist.Laplace(m, softplus(s) + 0.2)),
    "student": Family("real", 2, lambda m, s: dist.StudentT(4.0, m, softplus(s) + 0.2)),
    "multivariate": Family("real", 2, _multivariate, joint=True),
    "low-rank": Family("real", 2, _low_rank, joint=True),
    "gamma": Family("positive", 2, lambda a, b: dist.Gamma(softplus(a) + 0.7, softplus(b) + 0.5)),
    "log-normal": Family("positive", 2, lambda m, s: dist.LogNormal(m, softplus(s) + 0.2)),
    "beta": Family("unit", 2, lambda a, b: dist.Beta(softplus(a) + 0.7, softplus(b) + 0.7)),
    "squashed": Family("unit", 2, _squashed),
    "bernoulli": Family("binary", 1, lambda a: dist.Bernoulli(logits=a), drawn_with_gradient=False),
    "categorical": Family(
        "classes", 3, lambda *a: dist.Categorical(logits=torch.stack(a, -1)), drawn_with_gradient=False
    ),
    "poisson": Family("count", 1, lambda a: dist.Poisson(softplus(a) + 0.3), drawn_with_gradient=False),
}
#: Families that draw by rejection use up as many random numbers as it takes, which is no function of the values alone.
REJECTING = ("student", "gamma", "beta")
DISCRETE = ("binary", "classes", "count")


def of_support(support: str, width: int) -> list[str]:
    """Return the families over a support, for a scalar (width 0) or a vector."""
    return [name for name, family in FAMILIES.items() if family.support == support and (width or not family.joint)]


def distribution(name: str, width: int, numbers: Tensor) -> Any:
    """Return the distribution of that name for (…, numbers × width): over a scalar for width 0, else over a vector."""
    family = FAMILIES[name]
    parts = numbers.reshape(*numbers.shape[:-1], family.numbers, max(width, 1)).unbind(-2)
    if not width:
        return family.make(*(part.squeeze(-1) for part in parts))
    made = family.make(*parts)
    return made if family.joint else made.to_event(1)


# -- specifications ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Latent:
    """A latent site. `place`: "local" (of a datum), "global", "components" (of a plate of its own, shared by all data).

    `treatment`: "drawn", "enumerated" (by the guide), "summed" (by the model: the guide lacks it).
    """

    name: str
    place: str
    support: str
    width: int
    prior: str
    proposal: str
    treatment: str = "drawn"
    parents: tuple[str, ...] = ()  # in the model
    proposal_parents: tuple[str, ...] = ()  # in the guide
    model_mask: str = "none"  # "none", "rows" (a tensor of the batch), "off" (False), "on" (True)
    guide_mask: str = "none"
    scale: float = 1.0  # in the model
    guide_scale: float = 1.0


@dataclass(frozen=True)
class Observation:
    """An observed site. `view`: what of the batch it observes, and in what shape.

    "whole" x; "reshaped" x as (B, 2, 2); "column-0" … x[:, 0]; "pixels" x transposed in a plate of its own at dim -2;
    "binary", "labels", "counts": arguments of those names; "partial" x with ``obs_mask=m``.
    """

    name: str
    view: str
    family: str
    parents: tuple[str, ...] = ()
    mask: str = "none"
    scale: float = 1.0


@dataclass(frozen=True)
class Spec:
    """A pair of programs: latents in the model's order, the guide's order, observations, and terms besides."""

    seed: int
    plate: str
    latents: tuple[Latent, ...]
    guide_order: tuple[str, ...]
    observations: tuple[Observation, ...]
    model_factor: str = "none"  # "none", "local", "global"
    guide_factor: str = "none"  # "none", "pathwise" (has_rsample=True), "scored" (has_rsample=False)
    deterministic: bool = False
    outer_scale: float = 1.0  # around both programs
    baseline: bool = False  # infer={"baseline": …} at what is drawn without a gradient
    sequential: bool = False  # infer={"enumerate": "sequential"} for "parallel"
    dim: int | None = -1  # where the plate over the data says that it stands; None: Pyro finds a place
    base: str = "PyroModule"  # or "Module"

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the tensors that a batch has."""
        views = {o.view for o in self.observations}
        masks = {o.mask for o in self.observations} | {m for z in self.latents for m in (z.model_mask, z.guide_mask)}
        named = [v for v in ("binary", "labels", "counts") if v in views]
        return ("x", *named, *(["m"] if "rows" in masks or "partial" in views else []))

    @property
    def enumerates(self) -> bool:
        """Whether some latent is summed out."""
        return any(z.treatment != "drawn" for z in self.latents)

    @property
    def scored(self) -> tuple[Latent, ...]:
        """Latents that are drawn without a gradient through the draw."""
        return tuple(z for z in self.latents if z.treatment == "drawn" and not FAMILIES[z.proposal].drawn_with_gradient)

    @property
    def shared(self) -> bool:
        """Whether something stands outside the plate over the data."""
        return any(z.place != "local" for z in self.latents) or self.model_factor == "global"


def _subset(rng: random.Random, names: list[str], share: float = 0.6) -> tuple[str, ...]:
    return tuple(name for name in names if rng.random() < share)


def _mask(rng: random.Random, share: float) -> str:
    return rng.choice(["rows", "rows", "off", "on"]) if rng.random() < share else "none"


def _latent(rng: random.Random, number: int, kind: str) -> Latent:
    """Return a latent without its parents."""
    treatment = "drawn"
    place = rng.choices(["local", "global", "components"], [0.74, 0.18, 0.08])[0]
    if kind == "enumerated" and (number == 0 or rng.random() < 0.3):
        treatment = rng.choices(["enumerated", "summed"], [0.65, 0.35])[0]
        place = rng.choices(["local", "global"], [0.93, 0.07])[0]
        support, width = rng.choice(["binary", "classes"]), 0
    elif kind == "scored" and (number == 0 or rng.random() < 0.4):
        support, width = rng.choice(DISCRETE), rng.choice([0, 0, 2])
        width = 0 if support == "classes" else width
    else:
        support, width = rng.choices(["real", "positive", "unit"], [0.6, 0.25, 0.15])[0], rng.choice([0, 2, 2, 3])
    prior, proposal = (rng.choice(of_support(support, width)) for _ in range(2))
    masked = rng.random() < 0.12
    return Latent(
        name=rng.choice(["z", "latent", "code", "theta", "s"]) + str(number),
        place=place,
        support=support,
        width=width,
        prior=prior,
        proposal=proposal,
        treatment=treatment,
        model_mask=_mask(rng, 0.7) if masked else "none",
        guide_mask=_mask(rng, 0.7) if masked else "none",
        scale=rng.choice([0.5, 3.0]) if rng.random() < 0.08 else 1.0,
        guide_scale=rng.choice([0.5, 3.0]) if rng.random() < 0.05 else 1.0,
    )


def _observations(rng: random.Random, latents: list[Latent]) -> list[Observation]:
    views = rng.choices(
        [["whole"], ["reshaped"], ["column-0"], ["column-1", "column-3"], ["pixels"], ["partial"], ["binary"]],
        [0.34, 0.14, 0.08, 0.1, 0.08, 0.08, 0.18],
    )[0]
    views = views + [v for v in ("labels", "counts") if rng.random() < 0.15]
    names = {"whole": "x", "pixels": "x", "partial": "x", "reshaped": "picture"}
    found = []
    for view in views:
        if view in ("whole", "partial"):
            family = rng.choice(of_support("real", COLUMNS)) if view == "whole" else "normal"
        else:
            family = {"binary": "bernoulli", "labels": "categorical", "counts": "poisson"}.get(view)
            family = family or rng.choice(["normal", "laplace"])
        found.append(
            Observation(
                name=names.get(view, view.replace("column-", "x")),
                view=view,
                family=family,
                parents=_subset(rng, [z.name for z in latents], 0.8),
                mask=_mask(rng, 0.2),
                scale=rng.choice([0.25, 2.0]) if rng.random() < 0.15 else 1.0,
            )
        )
    return found


def draw_spec(seed: int) -> Spec:
    """Return the specification of that seed."""
    rng = random.Random(seed)
    kind = rng.choices(["smooth", "scored", "enumerated"], [0.5, 0.22, 0.28])[0]
    latents = [_latent(rng, number, kind) for number in range(rng.choice([1, 1, 2, 2, 3]))]
    latents.sort(key=lambda z: z.place == "local")  # what all share comes first, as such programs are written
    order = [z.name for z in latents]
    if sum(z.treatment == "enumerated" for z in latents) < 2 and rng.random() < 0.5:  # Pyro wants two in one order
        rng.shuffle(order)
    places = {z.name: z.place for z in latents}
    summed = {z.name for z in latents if z.treatment == "summed"}
    related = []
    for index, z in enumerate(latents):
        before = [other.name for other in latents[:index]]
        offered = [n for n in order[: order.index(z.name)] if n not in summed]
        if z.place != "local":
            before, offered = ([n for n in names if places[n] == "global"] for names in (before, offered))
        if z.place != "local" and z.treatment == "drawn":  # what is shared depends on nothing that is summed out
            treated = {o.name: o.treatment for o in latents}
            before, offered = ([n for n in names if treated[n] == "drawn"] for names in (before, offered))
        masks = {} if z.place == "local" else {"model_mask": "none", "guide_mask": "none"}
        related.append(
            Latent(**vars(z) | masks | {"parents": _subset(rng, before), "proposal_parents": _subset(rng, offered)})
        )
    observed = _observations(rng, related)
    if kind == "enumerated":
        observed = [
            Observation(**vars(o) | {"view": "whole", "name": "x"}) if o.view == "pixels" else o for o in observed
        ]
    if summed and not any(name in o.parents for o in observed for name in summed):
        first = observed[0]
        observed[0] = Observation(**vars(first) | {"parents": (*first.parents, *summed)})
    if summed:  # Pyro asks for one scale around all that depends on what the model sums out
        related = [Latent(**vars(z) | {"scale": 1.0, "guide_scale": 1.0}) for z in related]
        observed = [Observation(**vars(o) | {"scale": 1.0}) for o in observed]
    factors = [
        0.86,
        0.09,
        0.0 if kind == "enumerated" else 0.05,
    ]  # Pyro orders what is shared before what is enumerated
    return Spec(
        seed=seed,
        plate=rng.choice(["data", "data", "rows", "batch", "N", "observations"]),
        latents=tuple(related),
        guide_order=tuple(name for name in order if name not in summed),
        observations=tuple(observed),
        model_factor=rng.choices(["none", "local", "global"], factors)[0],
        guide_factor=rng.choices(["none", "pathwise", "scored"], [0.88, 0.09, 0.03])[0],
        deterministic=rng.random() < 0.12,
        outer_scale=rng.choice([0.1, 2.0]) if rng.random() < 0.1 else 1.0,
        baseline=kind == "scored" and rng.random() < 0.08,
        sequential=kind == "enumerated" and rng.random() < 0.06,
        dim=rng.choices([-1, None], [0.8, 0.2])[0],
        base=rng.choice(["PyroModule", "PyroModule", "Module"]),
    )


# -- programs ---------------------------------------------------------------------------------------------------------


class Head(nn.Module):
    """Parameters of a distribution from the values that it depends on: a bias and a linear map of each."""

    def __init__(self, size: int, inputs: dict[str, int]) -> None:
        super().__init__()
        self.bias = nn.Parameter(0.5 * torch.randn(size, dtype=F64))
        self.maps = nn.ParameterDict(
            {name: nn.Parameter(0.5 * torch.randn(size, width, dtype=F64)) for name, width in inputs.items()}
        )

    def forward(self, values: dict[str, Tensor]) -> Tensor:
        total = self.bias
        for name, weights in self.maps.items():
            total = total + values[name] @ weights.T
        return total


def features(z: Latent, value: Tensor) -> Tensor:
    """Return a latent as numbers to depend on, (…, width): those of a plate of their own are averaged over it."""
    if z.support == "classes":
        number = torch.nn.functional.one_hot(value.long(), 3).to(F64)
    elif z.width == 0:
        number = value.to(F64).unsqueeze(-1)
    else:
        number = value
    if z.support in ("positive", "count"):
        number = torch.log1p(number)
    if z.place == "components":
        number = number.mean(-2, keepdim=True)
    return number.to(F64)


def _inputs(names: tuple[str, ...], latents: tuple[Latent, ...]) -> dict[str, int]:
    widths = {z.name: 3 if z.support == "classes" else max(z.width, 1) for z in latents}
    return {name: widths[name] for name in names}


def _shape(o: Observation) -> tuple[int, int]:
    """Return the width of an observation's distribution, and how many of them: 0 for a scalar."""
    if o.view in ("whole", "partial", "reshaped", "pixels"):
        return COLUMNS, 1
    return (2, 1) if o.view == "binary" else (0, 1)


class _Model:
    """p(x, z) as the specification says."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        heads = {}
        for z in spec.latents:
            heads[z.name] = Head(FAMILIES[z.prior].numbers * max(z.width, 1), _inputs(z.parents, spec.latents))
        for o in spec.observations:
            size = FAMILIES[o.family].numbers * max(_shape(o)[0], 1)
            heads["to_" + o.name] = Head(size, _inputs(o.parents, spec.latents))
        self.model_heads = nn.ModuleDict(heads)

    def forward(self, x, binary=None, labels=None, counts=None, m=None):
        spec, values, numbers = self.spec, {}, {}
        rows = pyro.plate(spec.plate, len(x), dim=spec.dim)
        for z in spec.latents:
            infer = {"enumerate": _how(spec)} if z.treatment == "summed" else {}
            with _around(z, rows, z.model_mask, z.scale, m):
                prior = distribution(z.prior, z.width, self.model_heads[z.name](numbers))
                values[z.name] = pyro.sample(z.name, prior, infer=infer)
            numbers[z.name] = features(z, values[z.name])
        if spec.model_factor == "global":
            pyro.factor("penalty", -0.1 * self.model_heads[spec.latents[0].name].bias.square().sum())
        with rows:
            drawn = [z for z in spec.latents if z.place == "local" and z.treatment == "drawn"]
            if spec.deterministic and drawn:
                pyro.deterministic("twice", 2.0 * numbers[drawn[0].name], event_dim=1)
            if spec.model_factor == "local" and drawn:
                pyro.factor("nudge", -0.3 * numbers[drawn[0].name].square().sum(-1))
            for o in spec.observations:
                self.observe(o, numbers, {"x": x, "binary": binary, "labels": labels, "counts": counts, "m": m})

    def observe(self, o: Observation, numbers: dict[str, Tensor], batch: dict[str, Any]) -> None:
        x, m = batch["x"], batch["m"]
        out = self.model_heads["to_" + o.name](numbers)
        with ExitStack() as stack:
            _weigh(stack, o.mask, o.scale, m)
            if o.view == "pixels":
                stack.enter_context(pyro.plate("pixels", COLUMNS, dim=-2))
                family = FAMILIES[o.family]
                parts = out.reshape(*out.shape[:-1], family.numbers, COLUMNS).unbind(-2)
                parts = [part.expand(*part.shape[:-2], len(x), COLUMNS) if part.dim() > 1 else part for part in parts]
                parts = [part.mT if part.dim() > 1 else part.unsqueeze(-1) for part in parts]
                pyro.sample(o.name, family.make(*parts), obs=x.T)
            elif o.view == "reshaped":
                family = FAMILIES[o.family]
                parts = out.reshape(*out.shape[:-1], family.numbers, 2, 2).unbind(-3)
                pyro.sample(o.name, family.make(*parts).to_event(2), obs=x.reshape(len(x), 2, 2))
            elif o.view == "partial":
                pyro.sample(o.name, distribution(o.family, COLUMNS, out), obs=x, obs_mask=m)
            else:
                seen = x[:, int(o.view[-1])] if o.view.startswith("column") else batch.get(o.view, x)
                pyro.sample(o.name, distribution(o.family, _shape(o)[0], out), obs=seen)


class _Guide:
    """q(z | x) as the specification says."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        heads = {}
        for z in self.latents():
            inputs = _inputs(z.proposal_parents, spec.latents) | ({"x": COLUMNS} if z.place == "local" else {})
            heads[z.name] = Head(FAMILIES[z.proposal].numbers * max(z.width, 1), inputs)
        if any(o.view == "partial" for o in spec.observations):
            heads["x_unobserved"] = Head(2 * COLUMNS, {"x": COLUMNS})
        self.guide_heads = nn.ModuleDict(heads)

    def latents(self) -> list[Latent]:
        by_name = {z.name: z for z in self.spec.latents}
        return [by_name[name] for name in self.spec.guide_order]

    def forward(self, x, binary=None, labels=None, counts=None, m=None):
        spec, numbers = self.spec, {"x": x}
        rows = pyro.plate(spec.plate, len(x), dim=spec.dim)
        for z in self.latents():
            infer: dict[str, Any] = {"enumerate": _how(spec)} if z.treatment == "enumerated" else {}
            if spec.baseline and z in spec.scored:
                infer["baseline"] = {"use_decaying_avg_baseline": True}
            with _around(z, rows, z.guide_mask, z.guide_scale, m):
                proposal = distribution(z.proposal, z.width, self.guide_heads[z.name](numbers))
                numbers[z.name] = features(z, pyro.sample(z.name, proposal, infer=infer))
        with rows:
            drawn = [z for z in self.latents() if z.place == "local" and z.treatment == "drawn"]
            if spec.guide_factor != "none" and drawn:
                term = 0.2 * numbers[drawn[0].name].square().sum(-1) + 0.1 * x[:, 0]
                pyro.factor("own", term, has_rsample=spec.guide_factor == "pathwise")
            if "x_unobserved" in self.guide_heads:
                missing = distribution("normal", COLUMNS, self.guide_heads["x_unobserved"](numbers))
                with poutine.mask(mask=~m):
                    pyro.sample("x_unobserved", missing)


def _how(spec: Spec) -> str:
    return "sequential" if spec.sequential else "parallel"


def _around(z: Latent, rows: Any, mask: str, scale: float, m: Tensor | None) -> ExitStack:
    stack = ExitStack()
    if z.place == "local":
        stack.enter_context(rows)
    elif z.place == "components":
        stack.enter_context(pyro.plate(f"components of {z.name}", COMPONENTS, dim=-1))
    _weigh(stack, mask, scale, m)
    return stack


def _weigh(stack: ExitStack, mask: str, scale: float, m: Tensor | None) -> None:
    if mask != "none":
        stack.enter_context(poutine.mask(mask=m if mask == "rows" else mask == "on"))
    if scale != 1.0:
        stack.enter_context(poutine.scale(scale=scale))


class PyroModel(_Model, PyroModule):
    pass


class PyroGuide(_Guide, PyroModule):
    pass


class PlainModel(_Model, nn.Module):
    """The older style: a module of torch that names itself to Pyro as it runs."""

    def forward(self, *args, **kwargs):
        pyro.module("model", self)
        super().forward(*args, **kwargs)


class PlainGuide(_Guide, nn.Module):
    """The same of the guide."""

    def forward(self, *args, **kwargs):
        pyro.module("guide", self)
        super().forward(*args, **kwargs)


@dataclass
class Built:
    """The programs of a specification, ready to run, and a batch for them."""

    spec: Spec
    model: Any
    guide: Any
    batch: dict[str, Tensor] = field(default_factory=dict)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter by program and name."""
        both = (("model", self.model), ("guide", self.guide))
        return {f"{role}.{name}": p for role, program in both for name, p in program.named_parameters()}


def build(spec: Spec) -> Built:
    """Return the programs and the batch of a specification; the same ones each time."""
    torch.manual_seed(spec.seed)
    plain = spec.base == "Module"
    built = Built(spec, *((PlainModel, PlainGuide) if plain else (PyroModel, PyroGuide)))
    built.model, built.guide = built.model(spec), built.guide(spec)
    if spec.outer_scale != 1.0:
        for program in (built.model, built.guide):
            program.forward = poutine.scale(program.forward, scale=spec.outer_scale)
    built.batch = batch_of(spec)
    return built


def batch_of(spec: Spec, number: int = 0) -> dict[str, Tensor]:
    """Return a batch for the programs of a specification, another one for each number."""
    generator = torch.Generator().manual_seed(1000 * number + spec.seed)
    whole = {
        "x": torch.randn(ROWS, COLUMNS, dtype=F64, generator=generator),
        "binary": torch.randint(2, (ROWS, 2), generator=generator).to(F64),
        "labels": torch.randint(3, (ROWS,), generator=generator),
        "counts": torch.randint(6, (ROWS,), generator=generator).to(F64),
        "m": torch.tensor([True, False, True]).roll(number),
    }
    return {name: whole[name] for name in spec.arguments}
