"""How the learning rate changes over a fit."""

from __future__ import annotations

import math
from collections.abc import Callable

from ppl_vae.core.checks import not_negative, one_of

#: Factor on the learning rate as a function of the share of the fit that is done, in [0, 1).
LEARNING_RATE: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "exponential": lambda done: 0.01**done,
}


def learning_rate(schedule: str | Callable[[float], float]) -> Callable[[float], float]:
    """Return the schedule of that name, or the function itself: share done in [0, 1) -> factor on the learning rate."""
    if callable(schedule):
        return lambda done: not_negative("schedule", schedule(done), "a function whose values are numbers, 0 or more")
    one_of("learning-rate schedule", schedule, LEARNING_RATE)
    return LEARNING_RATE[schedule]
