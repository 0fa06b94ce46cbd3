"""Inference data against ArviZ's functions."""

import arviz as az
import numpy as np
import pytest
from arviz_reference import LEGACY, k_of

from ppl_vae.core.errors import InputError
from ppl_vae.evaluation.arviz_adapter import inference_data

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
    expected = [k_of(-values[:, datum]) for datum in range(DATA)]
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
