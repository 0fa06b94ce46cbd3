"""Rules for the weight of the KL: their formulas, and what they make of a fit."""

from __future__ import annotations

import math

import pytest
import torch

from ppl_vae import InputError
from ppl_vae.config import describe, rebuild
from ppl_vae.kl_weights import Capacity, Constant, Constrained, Cyclical, Normalised, WarmUp, as_rule

RULES = [
    Constant(4.0),
    WarmUp(2, 4.0),
    Cyclical(2, 0.25, 4.0),
    Normalised(0.1),
    Constrained(20.0, 0.1),
    Capacity(25.0, 10, 30.0),
]


def settings(rule, steps, steps_per_epoch=4):
    return [rule.at(step, steps_per_epoch) for step in range(steps)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Constant(0.0), [0.0] * 6),
        (Constant(3), [3.0] * 6),
        (WarmUp(1), [0.25, 0.5, 0.75, 1, 1, 1]),
        (WarmUp(0.5, 4.0), [2, 4, 4, 4, 4, 4]),
        (WarmUp(0), [1.0] * 6),
        (Cyclical(1), [0, 0.5, 1, 1, 0, 0.5]),
        (Cyclical(1, rising=1.0, beta=8.0), [0, 2, 4, 6, 0, 2]),
        (Capacity(to=8.0, epochs=1), [2, 4, 6, 8, 8, 8]),
        (Constrained(20.0), [None] * 6),
    ],
)
def test_what_a_rule_asks_for_step_by_step(rule, expected):
    assert settings(rule, 6) == expected


def test_normalised_is_per_coordinate():
    rule = Normalised(0.01).on(data_dim=4096, latent_dim=10)
    assert isinstance(rule, Constant)
    assert rule.beta == pytest.approx(4.096)
    assert Constant(2.0).on(4096, 10).beta == 2.0


def test_the_multiplier_ascends_where_the_kl_is_too_large():
    rule, one = Constrained(20.0, rate=0.1), torch.tensor(1.0)
    for kl, power in ((20.0, 0.0), (40.0, 0.1), (0.0, -0.1), (30.0, 0.05)):
        assert float(rule.after(one, torch.tensor(kl))) == pytest.approx(math.exp(power))
    assert float(rule.after(one, torch.tensor(1e9))) == 1e4
    assert float(rule.after(one * 1e-4, torch.tensor(0.0))) == pytest.approx(1e-4)


def test_capacity_measures_the_distance_to_c():
    rule = Capacity(to=5.0, epochs=1, gamma=10.0)
    for kl, distance in ((70.0, 20.0), (30.0, 20.0), (50.0, 0.0)):
        loss = rule.loss(torch.tensor(100.0 + kl), torch.tensor(kl), torch.tensor(5.0), 10)
        assert float(loss) == pytest.approx(100.0 + 10.0 * distance)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_rules_are_frozen_and_rebuilt_from_their_description(rule):
    again = rebuild(describe(rule))
    assert type(again) is type(rule)
    assert vars(again) == vars(rule)
    with pytest.raises(AttributeError, match="is frozen"):
        setattr(rule, next(iter(describe(rule)["arguments"])), 3.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Constant(-1.0), "beta: expected a number, 0 or more; got -1.0"),
        (lambda: Constant(float("nan")), "beta: expected a number, 0 or more; got nan"),
        (lambda: Constant(True), "beta: .* got True"),
        (lambda: WarmUp(-2), "epochs: expected a number, 0 or more; got -2"),
        (lambda: WarmUp(2, -1), "beta: expected a number, 0 or more; got -1"),
        (lambda: Cyclical(0), "period: expected a finite number > 0; got 0"),
        (lambda: Cyclical(1, rising=1.5), "rising: expected a share of the period, at most 1; got 1.5"),
        (lambda: Cyclical(1, rising=0), "rising: expected a finite number > 0; got 0"),
        (lambda: Normalised(-0.1), "beta_norm: expected a number, 0 or more; got -0.1"),
        (lambda: Normalised(1.0).on(10, 0), "beta_norm: expected a pair with a latent for each datum; got none"),
        (lambda: Constrained(0.0), "delta: expected a finite number > 0; got 0.0"),
        (lambda: Constrained(-3), "delta: expected a finite number > 0; got -3"),
        (lambda: Constrained(20, rate=0), "rate: expected a finite number > 0; got 0"),
        (lambda: Capacity(-1, 2), "to: expected a number, 0 or more; got -1"),
        (lambda: Capacity(1, 2, gamma=0), "gamma: expected a finite number > 0; got 0"),
        (lambda: as_rule(-4), "kl_weight: expected a number, 0 or more, or a rule of ppl_vae.kl_weights; got -4"),
        (lambda: as_rule("4"), r"kl_weight: .* got '4'"),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(InputError, match=message):
        build()
