"""A pair as ArviZ sees it: groups, dimensions, values, and that its functions work on them."""

from __future__ import annotations

import arviz
import matplotlib as mpl
import numpy as np
import pytest
import torch
from own_pairs import D, L, Regression, Shared, SharedGuide, batch, pair, regression_data
from pairs import PAIRS
from pyro.infer.autoguide import AutoNormal

import ppl_vae
from ppl_vae import InputError, Pair

B, K, CHAINS = 6, 400, 4
GROUPS = {"posterior", "posterior_predictive", "log_likelihood", "prior", "prior_predictive", "observed_data"}


def group(data, name):
    return data[name].dataset if hasattr(data[name], "dataset") else data[name]


@pytest.fixture(scope="module")
def mine():
    return pair()


@pytest.fixture(scope="module")
def data(mine):
    return ppl_vae.to_arviz(mine, batch(B), num_samples=K, num_chains=CHAINS)


def test_groups_and_dimensions(data):
    names = set(data.groups()) if callable(data.groups) else {name.strip("/") for name in data.groups} - {""}
    assert names == GROUPS
    shape = {"chain": CHAINS, "draw": K // CHAINS, "datum": B}
    for name, site, event in (
        ("posterior", "z", {"z_dim_0": L}),
        ("prior", "z", {"z_dim_0": L}),
        ("posterior_predictive", "x", {"x_dim_0": D}),
        ("prior_predictive", "x", {"x_dim_0": D}),
        ("log_likelihood", "x", {}),
    ):
        assert dict(group(data, name)[site].sizes) == shape | event
    assert dict(group(data, "observed_data")["x"].sizes) == {"datum": B, "x_dim_0": D}
    np.testing.assert_array_equal(group(data, "observed_data")["x"], batch(B)["x"])


def test_values(mine, data):
    x = batch(B)["x"]
    sites = {
        "posterior": "z",
        "prior": "z",
        "posterior_predictive": "x",
        "prior_predictive": "x",
        "log_likelihood": "x",
    }
    values = {name: torch.from_numpy(np.array(group(data, name)[s])).flatten(0, 1) for name, s in sites.items()}
    normal = torch.distributions.Normal
    with torch.no_grad():
        mean, scale = mine.guide.net(x), mine.guide.scale
        off = (values["posterior"].mean(0) - mean).abs()
        assert (off < 4.5 * scale / K**0.5).all()
        assert (values["prior"].mean((0, 1)).abs() < 4.5 / (K * B) ** 0.5).all()
        # log p(x|z) at the very draws of the posterior.
        by_hand = normal(mine.model.net(values["posterior"]), mine.model.scale).log_prob(x).sum(-1)
        torch.testing.assert_close(values["log_likelihood"], by_hand, rtol=1e-4, atol=1e-4)
        # Predictive draws scatter by the likelihood's own scale about the means at those draws.
        scatter = (values["posterior_predictive"] - mine.model.net(values["posterior"])) / mine.model.scale
        assert abs(float(scatter.std()) - 1) < 4.5 / (2 * scatter.numel()) ** 0.5
        scatter = (values["prior_predictive"] - mine.model.net(values["prior"])) / mine.model.scale
        assert abs(float(scatter.std()) - 1) < 4.5 / (2 * scatter.numel()) ** 0.5


def test_arviz_functions_work_on_it(data):
    summary = arviz.summary(data, var_names=["z"])
    assert len(summary) == B * L
    r_hat = summary["r_hat"].astype(float)
    assert ((r_hat > 0.95) & (r_hat < 1.05)).all()  # independent draws
    loo = arviz.loo(data)
    elpd = float(loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd)
    in_sample = float(np.log(np.exp(group(data, "log_likelihood")["x"]).mean(("chain", "draw"))).sum())
    assert elpd < in_sample  # leaving a datum out costs something


def test_a_plot(data):
    before = mpl.get_backend()
    mpl.use("Agg")
    try:
        if hasattr(arviz, "plot_trace_dist"):
            arviz.plot_dist(data, var_names=["z"])
        else:
            axes = arviz.plot_trace(data, var_names=["z"])
            assert axes.size == 2
        import matplotlib.pyplot as plt

        assert plt.get_fignums()
        plt.close("all")
    finally:
        mpl.use(before)


def test_shared_latents_have_no_datum():
    model = Regression()
    mine = Pair(model, AutoNormal(model))
    data = ppl_vae.to_arviz(mine, regression_data(10), num_samples=8)
    assert dict(group(data, "posterior")["w"].sizes) == {"chain": 4, "draw": 2, "w_dim_0": 3}
    assert dict(group(data, "posterior")["s"].sizes) == {"chain": 4, "draw": 2}
    assert dict(group(data, "log_likelihood")["x"].sizes) == {"chain": 4, "draw": 2, "datum": 10}
    assert "u" not in group(data, "observed_data")
    both = ppl_vae.to_arviz(Pair(Shared(), SharedGuide()), batch(5), num_samples=4, num_chains=2)
    assert dict(group(both, "posterior")["b"].sizes) == {"chain": 2, "draw": 2, "b_dim_0": D}
    assert dict(group(both, "posterior")["z"].sizes) == {"chain": 2, "draw": 2, "datum": 5, "z_dim_0": L}


@pytest.mark.parametrize(
    "name", ["vae-bernoulli", "vae-bernoulli-2d", "vae-categorical", "vae-conv-bernoulli", "ppca-linear"]
)
def test_pairs_of_the_table(name):
    case = PAIRS[name]
    data = ppl_vae.to_arviz(Pair(*case.build()), case.batch(3), num_samples=4)
    assert np.array(group(data, "posterior_predictive")["x"]).shape == (4, 1, 3, *case.x_shape)
    assert data.attrs["binarization"] == "none"


def test_state_and_seed(mine):
    random, training = torch.get_rng_state(), mine.training
    mine.train()
    first = ppl_vae.to_arviz(mine, batch(B), num_samples=8)
    assert torch.equal(random, torch.get_rng_state())
    assert mine.training
    mine.train(training)
    torch.manual_seed(5)
    second = ppl_vae.to_arviz(mine, batch(B), num_samples=8)
    other = ppl_vae.to_arviz(mine, batch(B), num_samples=8, seed=1)
    np.testing.assert_array_equal(group(first, "posterior")["z"], group(second, "posterior")["z"])
    assert not np.array_equal(group(first, "posterior")["z"], group(other, "posterior")["z"])


def test_mistakes(mine):
    for samples, chains in ((10, 4), (0, 1), (2, 4), (8, 0)):
        with pytest.raises(
            InputError, match=rf"num_samples: expected a multiple of num_chains = {chains}, at least as large"
        ):
            ppl_vae.to_arviz(mine, batch(B), num_samples=samples, num_chains=chains)
    with pytest.raises(InputError, match=r"data: expected a split or a mapping of tensors; got int"):
        ppl_vae.to_arviz(mine, 3)
    with pytest.raises(InputError, match=r"x: expected finite values"):
        ppl_vae.to_arviz(mine, {"x": torch.full((3, D), torch.nan)})
