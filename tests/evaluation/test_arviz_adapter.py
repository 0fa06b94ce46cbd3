"""Pareto k against ArviZ's own on all weights and against a known tail; inference data against ArviZ's functions."""

import math
import time

import arviz as az
import numpy as np
import pytest

from ppl_vae.core.errors import InputError
from ppl_vae.evaluation.arviz_adapter import inference_data, pareto_k, tail_length

LEGACY = hasattr(az, "psislw")  # ArviZ 0.23; 1.x is split in parts


def arviz_k(log_weights):
    """ArviZ's own k for one datum's log weights, all of them."""
    with np.errstate(all="ignore"):
        if LEGACY:
            return float(az.psislw(log_weights.copy())[1])
        log_likelihood = az.convert_to_dataset({"w": -log_weights[None]})["w"]
        try:
            return float(log_likelihood.azstats.psislw(dim=["chain", "draw"])[1])
        except ValueError:  # a constant tail, or one shorter than five: 0.23 says inf
            return math.inf


def largest(log_weights, extra=0):
    """The part of each row that `pareto_k` asks for, shuffled; `extra` more than it asks for."""
    needed = min(log_weights.shape[1], tail_length(log_weights.shape[1]) + 1 + extra)
    tails = np.sort(log_weights, axis=1)[:, -needed:]
    return np.random.default_rng(1).permuted(tails, axis=1)


def log_weights(kind, num_particles, rows=4):
    rng = np.random.default_rng(0)
    shape = (rows, num_particles)
    if kind == "normal":
        return -80 + 2 * rng.standard_normal(shape)
    if kind == "cauchy":
        return 100 * rng.standard_cauchy(shape)
    if kind == "pareto":
        return rng.pareto(0.8, shape)
    if kind == "ties":
        return np.round(3 * rng.standard_normal(shape))
    if kind == "impossible":
        return np.where(rng.uniform(size=shape) < 0.9, -np.inf, rng.standard_normal(shape))
    if kind == "far":  # all but a few underflow
        return -1000 * rng.exponential(size=shape)
    return np.full(shape, -80.25)


@pytest.mark.parametrize("kind", ["normal", "cauchy", "pareto", "ties", "impossible", "far", "constant"])
@pytest.mark.parametrize("num_particles", [5, 10, 20, 21, 24, 25, 26, 30, 99, 100, 224, 225, 226, 1000, 5000, 100_000])
def test_the_tail_alone_gives_arviz_own_k(kind, num_particles):
    weights = log_weights(kind, num_particles)
    expected = [arviz_k(row) for row in weights]
    np.testing.assert_allclose(pareto_k(largest(weights), num_particles), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(pareto_k(largest(weights, extra=50), num_particles), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [0.3, 0.7, 1.2])
def test_k_finds_the_shape_of_a_known_tail(shape):
    num_particles, rows = 20_000, 50
    uniform = np.random.default_rng(0).uniform(size=(rows, num_particles))
    k = pareto_k(largest(-shape * np.log(uniform)), num_particles)  # P(w > u) = u^(-1 / shape)
    tail = tail_length(num_particles)
    prior = 0.5 * 10 / (tail + 10)  # ArviZ pulls k towards 0.5 with the strength of ten weights
    error = (1 + shape) / math.sqrt(tail * rows)  # of the maximum likelihood estimate
    assert abs(k.mean() - (shape * tail / (tail + 10) + prior)) < 4 * error


def test_k_knows_no_constant_and_bounded_weights_are_safe():
    weights = np.log(np.random.default_rng(0).uniform(size=(20, 2000)))
    k = pareto_k(largest(weights), 2000)
    np.testing.assert_allclose(pareto_k(largest(weights) - 5000, 2000), k, atol=1e-8)
    assert (k < 0).all()  # a uniform weight has k = -1


@pytest.mark.parametrize("num_particles", [1, 2, 5, 20])
def test_k_is_not_finite_where_there_are_too_few_particles(num_particles):
    assert not np.isfinite(pareto_k(log_weights("normal", num_particles), num_particles)).any()
    assert np.isfinite(pareto_k(log_weights("normal", 30), 30)).all()


def test_k_shows_non_finite_weights_and_leaves_the_other_data_alone():
    weights = largest(log_weights("normal", 1000, rows=5))
    clean = pareto_k(weights, 1000)
    weights[1, 3], weights[2, 0], weights[3] = np.nan, np.inf, -np.inf
    k = pareto_k(weights, 1000)
    assert np.isnan(k[[1, 2]]).all()
    assert np.isposinf(k[3])
    np.testing.assert_array_equal(k[[0, 4]], clean[[0, 4]])


def test_k_of_no_data_is_empty():
    assert pareto_k(np.empty((0, 200)), 1000).shape == (0,)


@pytest.mark.slow
def test_k_of_ten_thousand_data_takes_seconds():
    weights = largest(log_weights("normal", 1000, rows=100))
    start = time.process_time()
    k = pareto_k(np.tile(weights, (100, 1)), 1000)
    assert time.process_time() - start < 30
    np.testing.assert_array_equal(k, np.tile(k[:100], 100))  # however the data were cut in parts


@pytest.mark.parametrize(
    ("tails", "num_particles", "message"),
    [
        (np.zeros((3, 95)), 1000, r"tails: expected shape \(N, T\) with T >= 96; got shape \(3, 95\)"),
        (np.zeros(200), 1000, r"tails: expected shape \(N, T\) with T >= 96; got shape \(200,\)"),
        (np.zeros((3, 2)), 0, r"num_particles: expected at least 1; got 0"),
    ],
)
def test_pareto_k_says_what_it_expected(tails, num_particles, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        pareto_k(tails, num_particles)


# --- inference data ---------------------------------------------------------------------------------------------------

DRAWS, DATA, PIXELS, LATENTS = 100, 6, 4, 2


@pytest.fixture
def groups():
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((1, DRAWS, DATA, LATENTS))
    pixels = rng.uniform(size=(1, DRAWS, DATA, PIXELS)).astype(np.float32)
    return {
        "posterior": {"z": latent},
        "posterior_predictive": {"x": pixels},
        "prior": {"z": latent[:, ::-1]},
        "prior_predictive": {"x": pixels[:, ::-1]},
        "log_likelihood": {"x": -3 + 0.1 * latent.sum(-1)},
        "observed_data": {"x": pixels[0, 0]},
    }


@pytest.fixture
def data(groups):
    return inference_data(
        groups,
        dims={"x": ["datum", "pixel"], "z": ["datum", "latent"]},
        coords={"latent": ["first", "second"]},
        attrs={"binarization": "fixed"},
    )


def test_inference_data_holds_the_groups_with_their_dimensions(data, groups):
    assert data["posterior"]["z"].dims == ("chain", "draw", "datum", "latent")
    assert data["prior"]["z"].dims == ("chain", "draw", "datum", "latent")
    assert data["posterior_predictive"]["x"].dims == ("chain", "draw", "datum", "pixel")
    assert data["prior_predictive"]["x"].dims == ("chain", "draw", "datum", "pixel")
    assert data["log_likelihood"]["x"].dims == ("chain", "draw", "datum")
    assert data["observed_data"]["x"].dims == ("datum", "pixel")
    assert list(data["posterior"]["latent"].values) == ["first", "second"]
    assert data.attrs["binarization"] == "fixed"
    for group, variables in groups.items():
        for name, values in variables.items():
            np.testing.assert_array_equal(data[group][name].values, values)


def test_summary_works_on_it(data, groups):
    table = az.summary(data, round_to=6) if LEGACY else az.summary(data, round_to="none")
    assert len(table) == DATA * LATENTS
    expected = groups["posterior"]["z"].mean((0, 1)).ravel()
    np.testing.assert_allclose(table["mean"].astype(float), expected, atol=1e-5)


def test_loo_works_on_it(data, groups):
    result = az.loo(data, pointwise=True)
    values = groups["log_likelihood"]["x"][0]
    assert result.n_data_points == DATA
    expected = [arviz_k(-values[:, datum]) for datum in range(DATA)]
    np.testing.assert_allclose(result.pareto_k.values, expected, atol=1e-10)


@pytest.mark.parametrize("plot", ["plot_forest", "plot_trace", "plot_ppc" if LEGACY else "plot_ppc_dist"])
def test_plots_work_on_it(data, plot):
    import matplotlib.pyplot as plt

    with plt.rc_context({"backend": "agg"}):
        assert getattr(az, plot)(data) is not None
        assert plt.get_fignums()
        plt.close("all")


def test_groups_and_labels_may_be_left_out(groups):
    data = inference_data({"posterior": groups["posterior"]})
    assert data["posterior"]["z"].shape == (1, DRAWS, DATA, LATENTS)


def test_inference_data_leaves_the_attributes_it_was_given_alone(groups):
    attrs = {"created_at": "noon"}
    inference_data({"posterior": groups["posterior"]}, attrs=attrs)
    assert attrs == {"created_at": "noon"}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"postreior": {}}, r"unknown inference data group: expected one of .*; got 'postreior'; try 'posterior'"),
        ({"posterior": {"z": np.zeros(3)}}, r"posterior 'z': expected dimensions \(chain, draw, …\); got shape \(3,\)"),
        (
            {"prior": {"x": np.zeros((1, 3, 5))}},
            r"prior 'x': expected dimensions \(chain, draw, datum, pixel\); got shape \(1, 3, 5\)",
        ),
        (
            {"observed_data": {"x": np.zeros((1, 3, 5))}},
            r"observed_data 'x': expected dimensions \(datum, pixel\); got shape \(1, 3, 5\)",
        ),
        (
            {"log_likelihood": {"x": np.zeros(3)}},
            r"log_likelihood 'x': expected dimensions \(chain, draw, datum, pixel\); got shape \(3,\)",
        ),
    ],
)
def test_inference_data_says_what_it_expected(groups, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        inference_data(groups, dims={"x": ["datum", "pixel"]})
