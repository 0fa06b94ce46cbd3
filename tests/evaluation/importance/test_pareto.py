"""Pareto k against ArviZ's own on all weights, and against a known tail."""

import math
import time

import numpy as np
import pytest
import torch
from arviz_reference import LEGACY, k_of
from tiers import fast_in

from ppl_vae.core.errors import InputError
from ppl_vae.evaluation.importance.pareto import pareto_k, tail_length

F64 = torch.float64


def largest(log_weights, extra=0):
    """The part of each row that `pareto_k` asks for, shuffled; `extra` more than it asks for."""
    needed = min(log_weights.shape[1], tail_length(log_weights.shape[1]) + 1 + extra)
    tails = np.sort(log_weights, axis=1)[:, -needed:]
    return torch.from_numpy(np.random.default_rng(1).permuted(tails, axis=1))


def log_weights(kind, num_particles, rows=4):
    rng = np.random.default_rng(0)
    shape = (rows, num_particles)
    match kind:
        case "normal":
            return -80 + 2 * rng.standard_normal(shape)
        case "nearly constant":
            return -80 + 1e-6 * rng.standard_normal(shape)
        case "bounded":
            return np.log(rng.uniform(size=shape))
        case "cauchy":
            return 100 * rng.standard_cauchy(shape)
        case "pareto":
            return rng.pareto(0.8, shape)
        case "heavy":  # k = 2
            return -2 * np.log(rng.uniform(size=shape))
        case "ties":
            return np.round(3 * rng.standard_normal(shape))
        case "ties at the cutoff":
            return np.maximum(rng.standard_normal(shape), 1.0)
        case "one far above":
            return np.where(np.arange(num_particles) == 0, 700.0, rng.standard_normal(shape))
        case "impossible":
            return np.where(rng.uniform(size=shape) < 0.9, -np.inf, rng.standard_normal(shape))
        case "far":  # all but a few underflow
            return -1000 * rng.exponential(size=shape)
        case "hidden by rounding":  # many that differ as log weights and are equal as weights
            return np.where(rng.uniform(size=shape) < 0.5, -1e-18 * rng.uniform(size=shape), rng.standard_normal(shape))
        case "no weight above zero":
            return np.full(shape, -np.inf)
        case "constant":
            return np.full(shape, -80.25)


KINDS = (
    "normal", "nearly constant", "bounded", "cauchy", "pareto", "heavy", "ties", "ties at the cutoff", "one far above",
    "impossible", "far", "hidden by rounding", "no weight above zero", "constant",
)  # fmt: skip
SIZES = (1, 4, 5, 10, 20, 21, 24, 25, 26, 30, 99, 100, 224, 225, 226, 1000, 5000, 100_000)


def expected_of(weights):
    """ArviZ's k for each row; NaN where it has none."""
    if weights.shape[1] == 1:  # ArviZ looks for a cutoff below the only one
        return np.full(len(weights), np.inf)
    return np.array([k_of(row) for row in weights])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_particles", fast_in({1, 5, 24, 25, 225, 1000}, SIZES))
def test_the_tail_alone_gives_arviz_own_k(kind, num_particles):
    weights = log_weights(kind, num_particles)
    expected = expected_of(weights)
    judged = ~np.isnan(expected)
    assert judged.all() or not LEGACY
    # Each logarithm of sum_i log (1 + theta y_i) / n is rounded, at most ten times its size in all.
    settings = {"rtol": 1e-10, "atol": 1e-10}
    for tails in (largest(weights), largest(weights, extra=50), torch.from_numpy(weights)):
        np.testing.assert_allclose(pareto_k(tails, num_particles)[judged], expected[judged], **settings)


@pytest.mark.parametrize("kind", ["normal", "heavy", "ties", "impossible", "constant"])
@pytest.mark.parametrize("num_particles", [20, 21, 100, 1000, 5000])
def test_float32_counts_as_it_is(kind, num_particles):
    weights = log_weights(kind, num_particles).astype(np.float32)
    expected = expected_of(weights.astype(np.float64))
    judged = ~np.isnan(expected)
    k = pareto_k(largest(weights), num_particles)
    assert k.dtype == F64
    np.testing.assert_allclose(k[judged], expected[judged], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_particles", [21, 100, 5000])
def test_data_of_all_kinds_are_fitted_beside_one_another(num_particles):
    weights = np.concatenate([log_weights(kind, num_particles) for kind in KINDS])
    alone = torch.cat([pareto_k(largest(row[None]), num_particles) for row in weights])
    torch.testing.assert_close(pareto_k(largest(weights), num_particles), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [0.3, 0.7, 1.2])
def test_k_finds_the_shape_of_a_known_tail(shape):
    num_particles, rows = 20_000, 50
    uniform = np.random.default_rng(0).uniform(size=(rows, num_particles))
    k = pareto_k(largest(-shape * np.log(uniform)), num_particles)  # P(w > u) = u^(-1 / shape)
    tail = tail_length(num_particles)
    prior = 0.5 * 10 / (tail + 10)  # k is pulled towards 0.5 with the strength of ten weights
    error = (1 + shape) / math.sqrt(tail * rows)  # of the maximum likelihood estimate
    assert abs(k.mean() - (shape * tail / (tail + 10) + prior)) < 4 * error


def test_k_knows_no_constant_and_bounded_weights_are_safe():
    weights = np.log(np.random.default_rng(0).uniform(size=(20, 2000)))
    k = pareto_k(largest(weights), 2000)
    np.testing.assert_allclose(pareto_k(largest(weights) - 5000, 2000), k, atol=1e-8)
    assert (k < 0).all()  # a uniform weight has k = -1


@pytest.mark.parametrize("num_particles", [1, 2, 5, 20])
def test_k_is_not_finite_where_there_are_too_few_particles(num_particles):
    assert not torch.isfinite(pareto_k(largest(log_weights("normal", num_particles)), num_particles)).any()
    assert torch.isfinite(pareto_k(largest(log_weights("normal", 30)), 30)).all()


def test_k_shows_non_finite_weights_and_leaves_the_other_data_alone():
    weights = largest(log_weights("normal", 1000, rows=5))
    clean = pareto_k(weights, 1000)
    weights[1, 3], weights[2, 0], weights[3] = torch.nan, torch.inf, -torch.inf
    k = pareto_k(weights, 1000)
    assert torch.isnan(k[[1, 2]]).all()
    assert torch.isposinf(k[3])
    assert torch.equal(k[[0, 4]], clean[[0, 4]])


@pytest.mark.parametrize("num_particles", [1, 20])
def test_non_finite_weights_show_where_no_tail_is_fitted_too(num_particles):
    weights = torch.zeros(3, num_particles, dtype=F64)
    weights[1, 0], weights[2, 0] = torch.nan, torch.inf
    assert pareto_k(weights, num_particles).isnan().tolist() == [False, True, True]


def test_k_of_no_data_is_empty():
    assert pareto_k(torch.empty(0, 200), 1000).shape == (0,)


@pytest.mark.slow
def test_k_of_ten_thousand_data_takes_seconds():
    weights = largest(log_weights("normal", 1000, rows=100))
    start = time.process_time()
    k = pareto_k(weights.repeat(100, 1), 1000)
    assert time.process_time() - start < 30
    assert torch.equal(k, k[:100].repeat(100))  # however the data were cut in parts


@pytest.mark.parametrize(
    ("tails", "num_particles", "message"),
    [
        (torch.zeros(3, 95), 1000, r"tails: expected shape \(N, T\) with T >= 96; got shape \(3, 95\)"),
        (torch.zeros(200), 1000, r"tails: expected shape \(N, T\) with T >= 96; got shape \(200,\)"),
        (torch.zeros(3, 2), 0, r"num_particles: expected at least 1; got 0"),
    ],
)
def test_pareto_k_says_what_it_expected(tails, num_particles, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        pareto_k(tails, num_particles)
