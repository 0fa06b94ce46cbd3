"""A program fitted and evaluated, eagerly and from a recording, and what must be true of the two."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from program_parts import ROWS, Program

import ppl_vae
from ppl_vae import Pair
from ppl_vae.core.errors import PplVaeError

BATCH, EPOCHS = 8, 2
PARTICLES = {"importance": 8, "ais": 2}
#: Bytes that make for some ten chunks, and for two or three of chains, each of which goes through all the transitions.
MEMORY = {"importance": 40_000, "ais": 40_000}
SHORT = {"num_distributions": 4, "rungs": 3, "leapfrog_steps": 1}


@dataclass
class Ran:
    """What came of a run: numbers by name, the paths taken, or the text of a refusal; and warnings."""

    numbers: dict[str, torch.Tensor] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)
    refused: str = ""
    warned: list[str] = field(default_factory=list)


def ran(run: Callable[[], tuple[dict[str, torch.Tensor], set[str]]]) -> Ran:
    """Run, with every random state at its start; what the library raises must be one clear line."""
    pyro.clear_param_store()  # which a program may have written to as it was made
    pyro.set_rng_seed(0)  # Python's, NumPy's and torch's
    found = Ran()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found.numbers, found.paths = run()
        except PplVaeError as error:
            found.refused = str(error)
            assert "expected" in found.refused, found.refused
            assert "\n" not in found.refused, found.refused
    found.warned = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return found


def fitted(program: Program, compile: str, epochs: int = EPOCHS, batch_size: int = BATCH) -> Ran:
    """Fit by a few steps of plain gradient descent: what is wrong in a gradient stands in the parameters."""

    def run() -> tuple[dict[str, torch.Tensor], set[str]]:
        pair = Pair(*made(program))
        result = ppl_vae.fit(
            pair, program.data(), epochs=epochs, batch_size=batch_size, lr=1e-3, optimizer="sgd", seed=3,
            dtype=program.dtype, compile=compile, progress=False,
        )  # fmt: skip
        numbers = {"bound": torch.tensor(result.history["train_bound"])} | pair.state_dict()
        return numbers, set(result.config["step"]["paths"].values())

    return ran(run)


def evaluated(program: Program, compile: str, method: str = "importance") -> Ran:
    """Estimate log p(x) in many small chunks."""
    options: dict[str, Any] = {"annealing": SHORT} if method == "ais" else {}

    def run() -> tuple[dict[str, torch.Tensor], set[str]]:
        pair = Pair(*made(program)).to(getattr(torch, program.dtype))
        found = ppl_vae.log_likelihood(
            pair, program.data(), method=method, num_particles=PARTICLES[method], memory=MEMORY[method], seed=3,
            compile=compile, progress=False, **options,
        )  # fmt: skip
        if method == "importance":
            of_data = int(re.findall(r"\d+", found.details["chunk"])[-1])
            assert of_data <= ROWS / 2, found.details
        return {"values": found.values, "variances": found.variances}, {found.details["path"]}

    return ran(run)


def made(program: Program) -> tuple[Any, Any]:
    torch.manual_seed(5)
    return program.make()


def compare(eager: Ran, recorded: Ran, program: Program, *, way: str = "fit", tolerance: float | None = None) -> str:
    """Return in a word what the recorded run did; raise unless it is the eager one's, or eager with a warning."""
    assert recorded.refused == eager.refused
    if eager.refused:
        return "refused"
    said = [text for text in recorded.warned if "eager" in text]
    went = "eager" if recorded.paths == {"eager"} else "recorded"
    assert (went == "eager") == bool(said), f"took {recorded.paths} and warned {said}"
    for text in said:  # which names what differed
        assert len(text.partition("eager")[2].strip(" ly:.")) > 10, text
    if program.outside and went == "eager":
        return went
    if program.recorded in (True, way):
        assert went == "recorded", said
    tolerance = tolerance or (1e-7 if program.dtype == "float64" else 1e-4)
    for name, value in eager.numbers.items():
        torch.testing.assert_close(
            recorded.numbers[name], value, rtol=tolerance, atol=tolerance, equal_nan=True,
            msg=lambda message, name=name: f"{name} by the {went} run ({said}): {message}",
        )  # fmt: skip
    return went
