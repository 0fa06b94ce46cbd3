"""300 random programs: the bound and its gradient are Pyro's, or there is one clear refusal."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from held_against_pyro import by_objective, by_pair, by_recording
from random_programs import build, draw_spec
from tiers import fast_in

SEEDS = range(300)
#: What each program came to, by way and seed; filled as the tests run.
OUTCOMES: dict[tuple[str, int], tuple[str, str]] = {}

WAYS = {
    "one particle": lambda built: by_objective(built, 1),
    "three particles": lambda built: by_objective(built, 3),
    "pair": by_pair,
}
#: A recording takes longer than the rest together.
RECORDED = SEEDS[::5]


@pytest.fixture(autouse=True)
def double():
    """Pyro adds up in the default type, and the comparison is in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def outcome(way: str, seed: int) -> tuple[str, str]:
    if (way, seed) not in OUTCOMES:
        OUTCOMES[way, seed] = ("wrong", "")
        OUTCOMES[way, seed] = WAYS[way](build(draw_spec(seed)))
    return OUTCOMES[way, seed]


@pytest.mark.parametrize("seed", fast_in(SEEDS[:12], SEEDS))
@pytest.mark.parametrize("way", WAYS)
def test_bound_and_gradient_are_pyros_or_it_is_refused(way, seed):
    outcome(way, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", fast_in(RECORDED[:3], RECORDED))
def test_recorded_steps_are_the_eager_ones(seed):
    OUTCOMES["recorded", seed] = by_recording(build(draw_spec(seed)))


@pytest.mark.slow
@pytest.mark.parametrize(("way", "least"), [("one particle", 200), ("three particles", 150), ("pair", 150)])
def test_most_are_compared_by_value(way, least):
    counts = Counter(outcome(way, seed) for seed in SEEDS)
    for (what, why), count in counts.most_common():
        print(f"{way}: {count:3d} {what}{': ' * bool(why)}{why}")
    compared = sum(count for (what, _), count in counts.items() if what.startswith("loss"))
    assert compared >= least
