"""Errors of joints in mm, and the predictors that a model is held against."""

import os
from pathlib import Path

import numpy as np
import pytest
import synthetic_hands
import torch

from ppl_vae import InputError, data
from ppl_vae.data import Camera, Dataset, Spec, Split
from ppl_vae.evaluation.hands.joints import joint_errors
from ppl_vae.evaluation.prediction.regression import METHODS, regression

# --- errors -----------------------------------------------------------------------------------------------------------


def test_errors_by_hand():
    true = torch.zeros(2, 2, 3)
    predicted = torch.tensor([[[3.0, 4, 0], [0, 0, 0]], [[0, 0, 1], [2, 2, 1]]])
    errors = joint_errors(predicted, true, unit=10.0)
    assert torch.equal(errors.values, torch.tensor([[50.0, 0], [10, 30]], dtype=torch.float64))
    assert errors.mean == 22.5
    assert errors.per_joint.tolist() == [30, 15]
    assert errors.worst.tolist() == [50, 30]
    assert errors.share_within([10, 30, 49, 50]).tolist() == [0, 0.5, 0.5, 1]
    assert errors.area(60) == pytest.approx((10 / 60 + 30 / 60) / 2)
    assert str(errors) == (
        f"22.50 mm per joint; worst joint within 40 mm in 50.0% of 2 hands, area to 80 mm {(30 / 80 + 50 / 80) / 2:.3f}"
    )
    each = joint_errors(predicted, true, unit=torch.tensor([10.0, 1.0]))
    assert torch.equal(each.values[1], torch.tensor([1.0, 3], dtype=torch.float64))


def test_the_area_is_that_below_the_curve():
    errors = joint_errors(torch.randn(200, 5, 3) * 15, torch.zeros(200, 5, 3))
    thresholds = torch.linspace(0, 50, 100_001)
    below = np.trapezoid(errors.share_within(thresholds), thresholds) / 50
    assert errors.area(50) == pytest.approx(below, abs=1e-5)


@pytest.mark.parametrize(
    ("predicted", "true", "unit", "message"),
    [
        (
            torch.zeros(2, 4, 3),
            torch.zeros(2, 5, 3),
            1,
            r"predicted joints: expected shape \(2, 5, 3\); got \(2, 4, 3\)",
        ),
        (torch.zeros(2, 4), torch.zeros(2, 4), 1, r"true joints: expected shape \(N, J, 3\)"),
        (torch.zeros(0, 4, 3), torch.zeros(0, 4, 3), 1, r"N >= 1; got \(0, 4, 3\)"),
        (torch.full((2, 4, 3), torch.nan), torch.zeros(2, 4, 3), 1, r"another in row 0 \(2 such rows\)"),
        (torch.zeros(2, 4, 3), torch.zeros(2, 4, 3), 0.0, "unit: expected a number above 0"),
        (torch.zeros(2, 4, 3), torch.zeros(2, 4, 3), torch.ones(3), "one for each of 2 rows"),
    ],
)
def test_bad_joints_are_refused(predicted, true, unit, message):
    with pytest.raises(InputError, match=message):
        joint_errors(predicted, true, unit=unit)


def test_an_area_has_a_limit_above_zero():
    with pytest.raises(InputError, match="limit: expected a finite number > 0; got 0"):
        joint_errors(torch.zeros(2, 4, 3), torch.zeros(2, 4, 3)).area(0)


@pytest.mark.parametrize(
    ("name", "predictor", "published"),
    [
        ("nyu", "pred_v2v_posenet", 8.419),
        ("nyu", "pred_pose_ren", 11.811),
        ("icvl", "pred_v2v_posenet", 6.284),
        ("icvl", "pred_pose_ren", 6.791),
    ],
)
def test_published_predictions_have_their_published_errors(name, predictor, published):
    path = Path(os.environ.get("PPL_VAE_DATA", "")) / "hands" / f"{name}_test.npz"
    if not path.is_file():
        pytest.skip(f"needs hands/{name}_test.npz in PPL_VAE_DATA")
    held = np.load(path)
    camera = Camera(*map(float, held["camera"]))
    true, predicted = (camera.unproject(torch.from_numpy(held[key]).double()) for key in ("uvd", predictor))
    assert round(joint_errors(predicted, true).mean, 3) == published


# --- predictors -------------------------------------------------------------------------------------------------------


def linear_data(noise=0.1, seed=0):
    """Rows y (N, 2, 3) linear in x (N, 4), but for noise."""
    random = torch.Generator().manual_seed(seed)
    W = torch.randn(4, 6, generator=random)
    spec = Spec("linear", (4,))

    def part(role, n):
        x = torch.randn(n, 4, generator=random) * torch.tensor([1.0, 3, 0.2, 1]) + 5
        y = x @ W + noise * torch.randn(n, 6, generator=random)
        return Split({"x": x, "y3d": y.unflatten(1, (2, 3))}, spec, role=role)

    return Dataset(part("train", 400), part("validation", 100), part("test", 500)), W


def test_the_mean_is_that_of_the_training_part():
    found, _ = linear_data()
    predicted = regression(found, "x", "y3d", "mean")(found.test["x"])
    assert torch.allclose(predicted, found.train["y3d"].mean(0).expand(500, 2, 3), atol=1e-5)


def test_ridge_finds_a_linear_map():
    found, W = linear_data()
    predict = regression(found, "x", "y3d", "ridge")
    step = predict(torch.eye(4) + 5) - predict(torch.full((1, 4), 5.0))
    x = found.train["x"] - found.train["x"].mean(0)
    error = 0.1 / x.square().sum(0).sqrt()  # standard error of each row of W, its columns being independent
    assert ((step.flatten(1) - W).abs() < 4.5 * error[:, None]).all()
    rest = (predict(found.test["x"]) - found.test["y3d"]).square().mean().sqrt()
    assert float(rest) == pytest.approx(0.1, rel=0.05)  # 3,000 numbers: 4 standard errors


def test_ridge_is_scikit_learns_at_the_penalty_of_least_validation_error():
    from sklearn.linear_model import Ridge

    found, _ = linear_data(noise=20.0)
    predicted = regression(found, "x", "y3d", "ridge")(found.test["x"])
    x, y = (found.train[name].flatten(1).double().numpy() for name in ("x", "y3d"))
    scale = x.std(0)
    scale = np.sqrt((scale**2).mean())
    errors = {}
    for penalty in 10.0 ** np.arange(-3, 6):
        fit = Ridge(alpha=penalty).fit((x - x.mean(0)) / scale, y)
        guess = fit.predict((found.validation["x"].double().numpy() - x.mean(0)) / scale)
        held_out = ((guess - found.validation["y3d"].flatten(1).numpy()) ** 2).mean()
        errors[held_out] = fit.predict((found.test["x"].double().numpy() - x.mean(0)) / scale)
    np.testing.assert_allclose(predicted.flatten(1), errors[min(errors)], atol=1e-3)


@pytest.mark.slow
def test_the_mlp_learns_what_no_line_does():
    x = torch.linspace(-2, 2, 600)[:, None]
    y = torch.stack([x.sin(), x.square(), x], -1)
    spec = Spec("curves", (1,))
    parts = [
        Split({"x": x[r::3], "y": y[r::3]}, spec, role=role) for r, role in enumerate(("train", "validation", "test"))
    ]
    found = Dataset(*parts)
    errors = {m: (regression(found, "x", "y", m, hidden=(64,), steps=800)(x) - y).square().mean() for m in METHODS}
    assert errors["mlp"] < 0.1 * errors["ridge"]
    assert errors["ridge"] < errors["mean"]


def test_the_mlp_is_seeded_and_leaves_the_random_state():
    found, _ = linear_data()
    before = torch.get_rng_state()
    one, two, other = (
        regression(found, "x", "y3d", "mlp", steps=20, hidden=(8,), seed=seed)(found.test["x"]) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_the_test_part_is_never_learned_from():
    found, _ = linear_data()
    other = Dataset(found.train, found.validation, Split({"x": -found.test["x"], "y3d": found.test["y3d"]}, found.spec))
    for method in METHODS:
        one, two = (regression(part, "x", "y3d", method, steps=20)(found.test["x"]) for part in (found, other))
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "y3d", "rigde"), "unknown method: .* try 'ridge'"),
        (("x", "y2d", "ridge"), "unknown tensor of the data: expected one of x, y3d; got 'y2d'; try 'y3d'"),
    ],
)
def test_unknown_names_are_told(arguments, message):
    with pytest.raises(InputError, match=message):
        regression(linear_data()[0], *arguments)


def test_a_validation_part_is_needed():
    found, _ = linear_data()
    with pytest.raises(InputError, match="data: expected a validation part; got none in 'linear'"):
        regression(Dataset(found.train, None, found.test), "x", "y3d")


@pytest.mark.slow
def test_hands_are_told_from_2d_joints_and_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    synthetic_hands.write(tmp_path, "icvl", frames=(300, 900))
    found = data.load("hands-icvl", image_size=16)
    test = found.test
    error = {
        (source, method): joint_errors(
            regression(found, source, "joints3d", method, hidden=(64,), steps=600)(test[source]),
            test["joints3d"],
            unit=test["unit"],
        ).mean
        for source in ("joints2d", "depth")
        for method in METHODS
    }
    assert error["joints2d", "mean"] == error["depth", "mean"]
    assert error["joints2d", "mlp"] < 0.5 * error["joints2d", "mean"]
    assert error["joints2d", "ridge"] < error["joints2d", "mean"]
    assert error["depth", "mlp"] < 0.8 * error["depth", "mean"]
