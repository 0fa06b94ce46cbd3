"""log p of some modalities given others: how two estimates are put together, and what cannot be asked."""

from __future__ import annotations

import re

import pytest
import torch
from linear_modalities import draws, exact_pair, layers, only

import ppl_vae
from ppl_vae import InputError
from ppl_vae.data import Dataset, as_split
from ppl_vae.evaluation.prediction.conditional import conditional_log_likelihood
from ppl_vae.exact import modalities as exact

N = 12


@pytest.fixture
def pair():
    return exact_pair(trust=0.6)


def test_is_the_difference_of_two_independent_estimates(pair):
    data = draws(pair, N)
    found = conditional_log_likelihood(pair, data, "a", ("b", "c"), num_particles=50, seed=3)
    joint = ppl_vae.log_likelihood(pair, data, num_particles=50, seed=3)
    alone = ppl_vae.log_likelihood(pair, only(data, "bc"), num_particles=50, seed=4)
    assert torch.equal(found.values, joint.values - alone.values)
    assert torch.equal(found.variances, joint.variances + alone.variances)
    assert found.standard_error == pytest.approx((joint.standard_error**2 + alone.standard_error**2) ** 0.5)
    for name, worse in (("effective_sample_size", torch.minimum), ("pareto_k", torch.maximum)):
        assert torch.equal(getattr(found, name), worse(getattr(joint, name), getattr(alone, name)))
    assert found.quantity == "log p(a | b, c)"
    assert "log p(a | b, c)" in str(found)


@pytest.mark.slow
def test_variance_is_that_of_repeats(pair):
    data = draws(pair, N)
    ten = {name: x.repeat(10, 1) for name, x in data.items()}  # each datum of a call has draws of its own
    runs = [conditional_log_likelihood(pair, ten, "a", "b", num_particles=300, seed=2 * seed) for seed in range(10)]
    spread = torch.cat([run.values.view(10, N) for run in runs]).var(0)
    estimated = torch.cat([run.variances.view(10, N) for run in runs]).mean(0)
    # A variance of 100 repeats is known to a standard error of a seventh.
    assert ((spread / estimated).log().abs() < 4.5 * (2 / 99) ** 0.5).all()


def test_exact_experts_leave_no_error(pair):
    pair, data = exact_pair(), draws(pair, N)
    found = conditional_log_likelihood(pair, data, ["a", "c"], "b", num_particles=2)
    truth = exact.log_marginal(data, layers(pair)) - exact.log_marginal(only(data, "b"), layers(pair))
    torch.testing.assert_close(found.values, truth)
    assert found.standard_error < 1e-6


def test_a_data_set_stands_for_its_test_split(pair):
    data = draws(pair, 2 * N)
    parts = [as_split({name: x[rows] for name, x in data.items()}) for rows in (slice(0, N), slice(N, 2 * N))]
    found = conditional_log_likelihood(pair, Dataset(parts[0], None, parts[1]), "a", "b", num_particles=5)
    assert torch.equal(found.values, conditional_log_likelihood(pair, parts[1], "a", "b", num_particles=5).values)


def test_masks_that_hide_nothing_change_nothing(pair):
    data = draws(pair, N)
    masks = {f"{name}_present": torch.ones(N, dtype=torch.bool) for name in data}
    plain, masked = (conditional_log_likelihood(pair, d, "a", "b", num_particles=5) for d in (data, data | masks))
    torch.testing.assert_close(masked.values, plain.values)


BAD = {
    "unknown target": (
        "dept",
        "joints",
        {},
        "unknown modality: expected one of depth, joints; got 'dept'; try 'depth'",
    ),
    "unknown given": (
        "depth",
        ["joins"],
        {},
        "unknown modality: expected one of depth, joints; got 'joins'; try 'joints'",
    ),
    "both": ("depth", ("joints", "depth"), {}, "given: expected modalities that are not the target; got depth"),
    "no target": ((), "depth", {}, "target: expected a modality, or several; got ()"),
    "none given": ("depth", "", {}, "given: expected a modality, or several; got ''"),
    "some without": (
        "depth",
        "joints",
        {"depth_present": torch.arange(N) > 2},
        "depth: expected data that all have it; got 3 of 12 without; try the rows that have both sides",
    ),
    "particles": ("depth", "joints", {"num_particles": 0}, "num_particles: expected an integer >= 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_reported_in_one_line(pair, case):
    target, given, other, message = BAD[case]
    data = {"depth": torch.zeros(N, 4), "joints": torch.zeros(N, 3)}
    masks = {name: mask for name, mask in other.items() if name.endswith("_present")}
    options = {name: value for name, value in other.items() if name not in masks}
    with pytest.raises(InputError) as caught:
        conditional_log_likelihood(pair, data | masks, target, given, **options)
    assert re.search(re.escape(message), str(caught.value))
    assert "\n" not in str(caught.value)
