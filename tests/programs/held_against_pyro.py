"""Loss and gradient of a random program by the library and by Pyro, from the same random state, in float64."""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.messenger import Messenger
from random_programs import REJECTING, ROWS, Built, batch_of, build
from torch import Tensor

from ppl_vae import Pair
from ppl_vae.core.errors import PplVaeError
from ppl_vae.objectives import ELBO
from ppl_vae.training.step import TrainingStep

#: The data set of which the batch is a part, where its size matters.
DATA_SIZE = 4 * ROWS

#: Assignments of the discrete draws up to which an expectation over them is taken.
FEW = 64

Result = tuple[float, dict[str, Tensor]]


class Forced(Messenger):
    """Give latents the given values, without drawing."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


class Scaled(Messenger):
    """Scale the named sites: what a batch carries of the terms that all data share."""

    def __init__(self, names: set[str], scale: float) -> None:
        super().__init__()
        self.names, self.scale = names, scale

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            msg["scale"] = msg["scale"] * self.scale


def pyros(built: Built, particles: int) -> Any:
    """Return Pyro's own objective for a pair of programs."""
    kind = TraceEnum_ELBO if built.spec.enumerates else Trace_ELBO
    nesting = 2 if any(o.view == "pixels" for o in built.spec.observations) else 1
    return kind(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=nesting)


def once(objective: Any, built: Built, model: Any = None, guide: Any = None, seed: int = 0) -> Result:
    """Return the loss and the gradient of every parameter, zero where there is none."""
    pyro.clear_param_store()
    for parameter in built.parameters().values():
        parameter.grad = None
    torch.manual_seed(seed)
    with pyro.validation_enabled(False):
        loss = objective.loss_and_grads(model or built.model, guide or built.guide, **built.batch)
    return float(loss), gradients(built)


def gradients(built: Built, factor: float = 1.0) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else factor * p.grad.clone()
        for name, p in built.parameters().items()
    }


def assignments(built: Built) -> list[dict[str, Tensor]] | None:
    """Return all values of the latents drawn without a gradient, or None where they are too many."""
    choices: list[list[Tensor]] = []
    for z in built.spec.scored:
        if z.support == "count":
            return None
        rows = {"local": (ROWS,), "global": (), "components": (2,)}[z.place]
        shape = (*rows, *([z.width] if z.width else []))
        values, count = (2 if z.support == "binary" else 3), math.prod(shape)
        if values**count > FEW:
            return None
        kind = torch.float64 if z.support == "binary" else torch.long
        every = itertools.product(range(values), repeat=count)
        choices.append([torch.tensor(one, dtype=kind).reshape(shape) for one in every])
    if math.prod(map(len, choices)) > FEW or any(z.proposal in REJECTING for z in built.spec.latents):
        return None
    return [dict(zip([z.name for z in built.spec.scored], one, strict=True)) for one in itertools.product(*choices)]


def expected(objective: Any, built: Built, every: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean gradient over the discrete draws, the noise of the others being what it is."""
    total = {name: torch.zeros_like(p) for name, p in built.parameters().items()}
    for values in every:
        guide = Forced(values)(built.guide)
        torch.manual_seed(0)
        with pyro.validation_enabled(False), torch.no_grad():
            sites = pyro.poutine.trace(guide).get_trace(**built.batch).nodes
            log_q = sum(sites[name]["fn"].log_prob(value).sum() for name, value in values.items())
        _, found = once(objective, built, guide=guide)
        for name, gradient in found.items():
            total[name] += log_q.exp() * gradient
    return total


def agree(got: Result, wanted: Result, what: str) -> None:
    """Raise unless loss and gradients are equal to 1e-6."""
    assert math.isclose(got[0], wanted[0], rel_tol=1e-6, abs_tol=1e-9), f"{what}: loss {got[0]}, Pyro's {wanted[0]}"
    gradients_agree(got[1], wanted[1], what)


def gradients_agree(got: dict[str, Tensor], wanted: dict[str, Tensor], what: str) -> None:
    for name, value in wanted.items():
        difference = float((got[name] - value).abs().max())
        bound = 1e-6 * max(float(value.abs().max()), 1e-3)
        assert difference <= bound, f"{what}: gradient of {name} {got[name].flatten()}, Pyro's {value.flatten()}"


def or_refused(call: Callable[[], Any]) -> tuple[Any, str]:
    """Return what a call gives and "", or None and the reason of a refusal that is one clear line."""
    try:
        return call(), ""
    except PplVaeError as error:
        text = str(error)
        assert "expected" in text, text
        assert "\n" not in text, text
        return None, reason(text)


def reason(text: str) -> str:
    """Return the text of a refusal without what is the case's own: names and numbers."""
    said = text.partition("expected")[2].partition("; try")[0]
    return "expected" + re.sub(r"[-\d][\d.e-]*", "#", re.sub(r"'[^']*'|\"[^\"]*\"", "…", said))


def by_objective(built: Built, particles: int) -> tuple[str, str]:
    """Hold the bound of a plain call against Pyro's: what was compared, and why if it was refused."""
    spec = built.spec
    got, refused = or_refused(lambda: once(ELBO(particles, kl="sampled"), built))
    if got is None:
        return "refused", refused
    assert not (spec.baseline and spec.scored), f"seed {spec.seed}: a baseline was dropped in silence"
    if particles > 1 and any(o.view == "pixels" for o in spec.observations):
        return "no witness", "Pyro has no room for the particles"
    wanted = once(pyros(built, particles), built)
    what = f"seed {spec.seed}, K = {particles}"
    if not spec.scored or (particles == 1 and not spec.shared):
        agree(got, wanted, what)
        return "loss and gradient", ""
    agree((got[0], {}), (wanted[0], {}), what)
    every = assignments(built) if particles == 1 else None
    if every is None:
        return "loss", "scores of several particles, or too many values to sum over"
    means = [expected(objective, built, every) for objective in (ELBO(kl="sampled"), pyros(built, 1))]
    gradients_agree(*means, what + ", mean over the discrete draws")
    return "loss and mean gradient", ""


def by_pair(built: Built) -> tuple[str, str]:
    """Check the pair; hold the training step of a batch that is a part of its data against Pyro's."""
    spec = built.spec
    pair = Pair(built.model, built.guide)
    accepted, refused = or_refused(lambda: pair.check(built.batch))
    if accepted is None:
        return "refused", refused
    optimizer = torch.optim.SGD(pair.parameters(), 1e-3)
    step = TrainingStep(pair, ELBO(kl="sampled"), optimizer, data_size=DATA_SIZE, compile="off")
    torch.manual_seed(0)
    with pyro.validation_enabled(False):
        loss, refused = or_refused(lambda: float(step.loss(built.batch)))
    if loss is None:
        return "refused", refused
    got = loss, gradients(built, factor=ROWS)
    shared = {z.name for z in spec.latents if z.place != "local"} | {"penalty"}
    part = Scaled(shared, ROWS / DATA_SIZE)
    wanted = once(pyros(built, 1), built, part(built.model), part(built.guide))
    what = f"seed {spec.seed}, a batch of {ROWS} of {DATA_SIZE}"
    if spec.scored and spec.shared:
        agree((got[0], {}), (wanted[0], {}), what)
        return "loss", ""
    agree(got, wanted, what)
    return "loss and gradient", ""


def by_recording(built: Built) -> tuple[str, str]:
    """Hold three recorded steps on different batches against the same steps taken eagerly."""
    results = []
    for compile in ("off", "graph"):
        again = build(built.spec)
        pair = Pair(again.model, again.guide)
        accepted, refused = or_refused(lambda pair=pair, batch=again.batch: pair.check(batch))
        if accepted is None:
            return "refused", refused
        optimizer = torch.optim.SGD(pair.parameters(), 1e-3)
        step = TrainingStep(pair, ELBO(kl="sampled"), optimizer, data_size=DATA_SIZE, compile=compile)
        batches = [batch_of(built.spec, number) for number in range(3)]
        torch.manual_seed(0)
        with pyro.validation_enabled(False), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses, refused = or_refused(lambda step=step, batches=batches: [float(step(one)) for one in batches])
        results.append((losses, refused, {name: p.detach().clone() for name, p in again.parameters().items()}))
    (eager, why, wanted), (recorded, same, got) = results
    assert same == why
    if eager is None:
        return "refused", why
    what = f"seed {built.spec.seed}, recorded"
    assert step.paths == {ROWS: "graph"} or any("eager" in str(w.message) for w in caught), f"{what}: eager in silence"
    for loss, expected_loss in zip(recorded, eager, strict=True):
        assert math.isclose(loss, expected_loss, rel_tol=1e-8), f"{what}: losses {recorded}, eagerly {eager}"
    gradients_agree(got, wanted, what + ", parameters")
    return "losses and parameters", step.paths[ROWS]
