"""Standardised data: what is done to which part, what is kept of it, and what log p(x) is then of."""

import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.preprocessing import StandardScaler

import ppl_vae
import ppl_vae.data as data
from ppl_vae.core.errors import InputError
from ppl_vae.data.tables import Table

SCALES, MEANS = np.array([2e4, 0.01, 3.0]), np.array([5e4, 0.0, -100.0])
X = MEANS + SCALES * np.random.default_rng(0).normal(size=(200, 3))
LARGE = (
    r"x: expected coordinates of order one, .*; got x\[0\] with mean 4.98e\+04 and standard deviation 1.99e\+04 "
    r"\(2 of 3 coordinates are large\); try standardise=True"
)


def test_large_scales_are_told_of():
    with pytest.warns(UserWarning, match=LARGE):
        data.from_tensors(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.from_tensors(X, standardise=True)
        data.from_tensors(X / SCALES - MEANS / SCALES)
    with pytest.warns(UserWarning, match="got income with mean"):
        data.from_tensors(Table(X, ("income", "b", "c")))


def test_all_parts_are_standardised_by_the_training_part():
    with pytest.warns(UserWarning, match=LARGE):
        plain = data.from_tensors(X, dtype=torch.float64, support="real")
    given = {role: split["x"] for role, split in plain.splits.items()}
    loaded = data.from_tensors(X, standardise=True)
    scaler = StandardScaler().fit(given["train"])
    np.testing.assert_allclose(loaded.spec.shift, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(loaded.spec.scale, scaler.scale_, rtol=1e-12)
    for role, split in loaded.splits.items():
        np.testing.assert_allclose(split["x"], scaler.transform(given[role]), rtol=1e-5, atol=1e-6)
        assert split["x"].dtype == torch.float32
        np.testing.assert_allclose(loaded.spec.restore(split["x"].double()), given[role], rtol=1e-6)
    assert loaded.spec.support == "real"
    assert loaded.name == "own standardised"


def test_digits_survive_a_mean_that_float32_cannot_hold():
    z = np.random.default_rng(1).normal(size=(100, 1))
    loaded = data.from_tensors(1e9 + z, standardise=True, shuffle=False)
    x = torch.cat([split["x"] for split in loaded.splits.values()]).double().numpy()
    expected = (z - z[:80].mean()) / z[:80].std()
    np.testing.assert_allclose(x, expected, atol=1e-5)


def test_log_scale_relates_the_two_densities():
    """N(x; m, s) of the data as given is N(x'; 0, 1) of the standardised data less the sum of log s."""
    spec = data.from_tensors(X, standardise=True).spec
    x = torch.from_numpy(X)
    ours = scipy.stats.norm().logpdf(spec.standardise(x).numpy()).sum(1) - spec.log_scale
    expected = scipy.stats.norm(spec.shift, spec.scale).logpdf(X).sum(1)
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    assert f"- {spec.log_scale:.3f} nats" in spec.units
    assert data.from_tensors(X / 1e6, standardise=True).spec.units.count(" + ") == 1
    assert data.Spec("a", (3,)).units == ""
    assert data.Spec("a", (3,)).log_scale == 0


def test_later_data_are_treated_alike_and_the_run_keeps_how(tmp_path):
    loaded = data.from_tensors(X, standardise=True)
    assert data.Spec.from_json(loaded.spec.to_json()) == loaded.spec
    ppl_vae.fit(ppl_vae.zoo.build("ppca", loaded.spec, latent_dim=1), loaded, epochs=1, run_dir=tmp_path / "run")
    again = data.Spec.from_json(ppl_vae.load(tmp_path / "run").config["data"]["spec"])
    assert again == loaded.spec
    later = X[:40] * 1.5 + 7
    other = data.from_tensors(later, standardise=again, shuffle=False, splits=(20, 0, 20))
    x = torch.cat([split["x"] for split in other.splits.values()])
    np.testing.assert_allclose(x, (later - loaded.spec.shift) / loaded.spec.scale, rtol=1e-5, atol=1e-6)
    assert other.spec.scale == loaded.spec.scale


def test_a_part_of_a_picture_keeps_the_units_of_its_pixels():
    x = np.arange(1, 7) * np.random.default_rng(0).normal(size=(100, 6))
    whole = data.from_tensors(x, standardise=True, image_shape=(1, 2, 3))
    part = data.given_quadrants(whole, 2)  # the right two of three columns are to be predicted
    hidden = data.hidden_pixels((1, 2, 3), 2).numpy()
    np.testing.assert_array_equal(part.spec.scale, np.array(whole.spec.scale)[hidden])
    np.testing.assert_allclose(part.spec.restore(part.train["x"]), whole.spec.restore(whole.train["x"])[:, hidden])


def test_a_constant_coordinate_keeps_its_unit():
    loaded = data.from_tensors(np.column_stack([X[:, 0], np.full(len(X), 0.1)]), standardise=True)
    assert loaded.spec.scale[1] == 1.0
    assert loaded.train["x"][:, 1].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"standardise": "yes"}, "standardise: expected True, False or the spec of standardised data; got 'yes'"),
        ({"standardise": True, "levels": 4}, "standardise: expected real data; got levels=4; try standardise=False"),
        ({"standardise": True, "support": "count"}, "standardise: expected real data; got support='count'"),
        ({"standardise": True, "binarization": "fixed"}, "standardise: expected real data; got binarization='fixed'"),
        (
            {"standardise": data.Spec("plain", (3,))},
            "standardise: expected a Spec of standardised data; got that of 'p",
        ),
        (
            {"standardise": data.Spec("other", (2,), shift=(0.0, 0.0), scale=(1.0, 1.0))},
            r"x: expected shape \(N, 2\), as standardised; got \(3,\)",
        ),
    ],
)
def test_what_cannot_be_standardised_gets_one_line(options, line):
    with pytest.raises(InputError, match=line):
        data.from_tensors(X, **options)
