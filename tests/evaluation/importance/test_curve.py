"""The bound at every K from one pass, and the jackknife: against brute force, closed forms and many repetitions."""

from __future__ import annotations

import json
import math

import pytest
import torch
from estimates import SE
from imperfect_guides import imperfect
from numpy.testing import assert_allclose, assert_array_equal

from ppl_vae import InputError, plots
from ppl_vae.evaluation.importance.curve import CurveSum, Groups, grid
from ppl_vae.evaluation.importance.jackknife import jackknife
from ppl_vae.evaluation.marginal_likelihood import log_likelihood
from ppl_vae.exact import linear_gaussian

F64 = torch.float64


def weights(K, B, seed=0, spread=2.0):
    return spread * torch.randn(K, B, generator=torch.Generator().manual_seed(seed), dtype=F64)


# -- the curve --------------------------------------------------------------------------------------------------------


def test_grid():
    assert grid(1) == []
    assert grid(2) == [1]
    assert grid(9) == [1, 2]
    assert grid(10) == [1, 2, 5]
    assert grid(5000) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]


@pytest.mark.parametrize("pieces", [(137,), (1, 136), (3, 7, 1, 1, 50, 75), (13,) * 10 + (7,)])
@pytest.mark.parametrize("shift", [0.0, -5000.0])
def test_groups_equal_brute_force(pieces, shift):
    stored = weights(137, 3, spread=300.0) + shift  # so far apart that weights underflow, were they not logarithms
    groups = Groups(137)
    for piece in stored.split(pieces):
        groups.add(piece)
    assert list(groups.levels) == [1, 2, 5, 10, 20, 50]
    for k, level in groups.levels.items():
        n = 137 // k
        each = stored[: n * k].reshape(n, k, 3).logsumexp(1) - math.log(k)
        torch.testing.assert_close(level.mean, each.mean(0))
        torch.testing.assert_close(level.variance(), each.var(0) / n)


def test_curve_of_data_that_come_in_parts():
    stored = weights(20, 7)
    total = CurveSum(20)
    for part in stored.split(3, dim=1):
        groups = Groups(20)
        groups.add(part)
        total.add(groups, part.logsumexp(0) - math.log(20), torch.full((part.shape[1],), 0.01, dtype=F64))
    curve = total.curve()
    assert curve.num_particles == (1, 2, 5, 10, 20)
    assert curve.bounds[0] == pytest.approx(float(stored.mean()))
    assert curve.standard_errors[0] == pytest.approx(float((stored.var(0) / 20).sum().sqrt() / 7))
    assert curve.bounds[-1] == pytest.approx(float((stored.logsumexp(0) - math.log(20)).mean()))
    assert curve.standard_errors[-1] == pytest.approx(math.sqrt(0.07) / 7)


def test_weights_of_zero_stay_in_the_curve():
    stored = weights(10, 2)
    stored[3, 0] = -torch.inf
    groups = Groups(10)
    groups.add(stored)
    assert groups.levels[1].mean[0] == -torch.inf
    assert torch.isfinite(groups.levels[2].mean).all()
    assert torch.isfinite(groups.levels[5].variance()).all()


@pytest.mark.slow
def test_curve_rises_from_the_elbo_to_the_exact_value():
    mine, x = imperfect(3)
    data = {"x": x.repeat(300, 1)}
    curve = log_likelihood(mine, data, num_particles=1000).curve
    assert curve.num_particles == (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    model, q = mine.model, mine.guide.posterior(x)
    elbo = linear_gaussian.elbo(x, model.weight, model.bias, model.log_scale.exp(), q.mean, q.covariance_matrix)
    elbo = float(elbo.mean())
    assert abs(curve.bounds[0] - elbo) < SE * curve.standard_errors[0]
    assert (curve.bounds.diff() > 0).all()
    exact = log_likelihood(mine, {"x": x}, method="exact").mean
    assert curve.bounds[-2] < exact + SE * curve.standard_errors[-2]
    assert curve.bounds[3] < exact - 20 * curve.standard_errors[3]
    # The bound at ten, from runs of ten particles: other draws, another path through the code.
    ten = log_likelihood(mine, data, num_particles=10, seed=1)
    assert abs(curve.bounds[3] - ten.mean) < SE * math.hypot(curve.standard_errors[3], ten.standard_error)
    assert ten.curve.bounds[-1] == pytest.approx(ten.mean)


def test_curve_is_the_same_whatever_the_chunks():
    mine, x = imperfect(1)
    small, large = (log_likelihood(mine, {"x": x}, num_particles=300, memory=memory) for memory in (2**16, 2**26))
    assert small.details["chunk"] != large.details["chunk"]
    error = (small.curve.standard_errors**2 + large.curve.standard_errors**2).sqrt()
    assert ((small.curve.bounds - large.curve.bounds).abs() < SE * error).all()
    reported = json.loads(json.dumps(small.to_json()))["curve"]
    assert reported["num_particles"] == [1, 2, 5, 10, 20, 50, 100, 300]
    assert reported["bounds"] == small.curve.bounds.tolist()


def test_one_particle_has_a_curve_of_one_point():
    mine, x = imperfect(1)
    result = log_likelihood(mine, {"x": x}, num_particles=1)
    assert result.curve.num_particles == (1,)
    assert result.curve.bounds[0] == pytest.approx(result.mean)
    assert log_likelihood(mine, {"x": x}, method="exact").curve is None


# -- drawn ------------------------------------------------------------------------------------------------------------


def test_plot_of_a_curve():
    mine, x = imperfect(1)
    curve = log_likelihood(mine, {"x": x}, num_particles=100).curve
    figure = plots.k_curve(curve.num_particles, curve.bounds, curve.standard_errors, reference=-9.0)
    (ax,) = figure.axes
    assert ax.get_xscale() == "log"
    (drawn,) = [container for container in ax.containers if container.get_label() == "bound"]
    line, _, (bars,) = drawn
    assert_array_equal(line.get_xdata(), curve.num_particles)
    assert_array_equal(line.get_ydata(), curve.bounds)
    half = [(segment[1, 1] - segment[0, 1]) / 2 for segment in bars.get_segments()]
    assert_allclose(half, 2 * curve.standard_errors)
    assert [set(line.get_ydata()) for line in ax.get_lines() if line.get_label() == "exact log p(x)"] == [{-9.0}]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("particles K", "nats per datum")


def test_plot_of_two_curves_one_of_which_is_not_finite():
    figure = plots.k_curve([1, 10], {"ours": [-3.0, -2.0], "theirs": [-math.inf, -2.5]})
    (ax,) = figure.axes
    assert [container.get_label() for container in ax.containers] == ["ours", "theirs"]
    assert "1 of 2 values of theirs not finite" in ax.get_title(loc="left")


def test_bad_plot():
    with pytest.raises(InputError, match=r"bound: expected shape \(2,\); got \(3,\)"):
        plots.k_curve([1, 10], [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match=r"num_particles: expected numbers of particles, 1 or more; got 0"):
        plots.k_curve([0, 10], [1.0, 2.0])


# -- the jackknife ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [2, 3, 40])
@pytest.mark.parametrize("shift", [0.0, -3000.0])
def test_jackknife_equals_brute_force(K, shift):
    stored = weights(K, 5) + shift
    stored[0, 1] += 30.0  # one weight is all but the whole sum
    every = stored.logsumexp(0) - math.log(K)
    rows = torch.arange(K)
    left_out = torch.stack([stored[rows != i].logsumexp(0) - math.log(K - 1) for i in range(K)])
    value, variance = jackknife(stored)
    torch.testing.assert_close(value, K * every - (K - 1) * left_out.mean(0))
    torch.testing.assert_close(variance, (K - 1) / K * ((left_out - left_out.mean(0)) ** 2).sum(0))


def test_jackknife_of_weights_that_are_zero_or_equal():
    stored = weights(6, 3)
    stored[:, 0] = -torch.inf
    stored[2:, 1] = -torch.inf
    stored[:, 2] = -700.0
    value, variance = jackknife(stored)
    assert value[0] == -torch.inf
    assert torch.isfinite(value[1])
    assert value[2] == pytest.approx(-700.0)
    assert variance[2] == pytest.approx(0.0, abs=1e-20)


@pytest.mark.slow
def test_jackknife_takes_the_bias_out_and_the_delta_method_states_it():
    mine, x = imperfect(3)
    exact = log_likelihood(mine, {"x": x[:1]}, method="exact").mean
    many = {"x": x[:1].repeat(40_000, 1)}
    results = {
        correction: log_likelihood(mine, many, num_particles=8, correction=correction)
        for correction in ("none", "jackknife")
    }
    bias = {name: result.mean - exact for name, result in results.items()}
    error = {name: float(result.values.std()) / 200 for name, result in results.items()}  # sqrt(40,000)
    assert bias["none"] < -20 * error["none"]
    assert abs(bias["jackknife"]) < 0.3 * abs(bias["none"]) + SE * error["jackknife"]
    # Delta method: the next order in 1 / K = 1/8 is left out.
    assert results["none"].mean_bias == pytest.approx(bias["none"], rel=0.25)
    assert results["jackknife"].mean_bias == 0.0
    # The jackknife's own variance against what repetitions show.
    reported = float(results["jackknife"].variances.mean())
    assert reported == pytest.approx(float(results["jackknife"].values.var()), rel=0.25)


def test_jackknife_from_the_same_draws():
    mine, x = imperfect(2)
    plain = log_likelihood(mine, {"x": x}, num_particles=100)
    corrected = log_likelihood(mine, {"x": x}, num_particles=100, correction="jackknife")
    assert torch.equal(plain.effective_sample_size, corrected.effective_sample_size)
    assert (corrected.values > plain.values).all()  # the bias is downwards
    assert (corrected.variances != plain.variances).all()  # the jackknife's own, which differ by a share of 1 / K
    torch.testing.assert_close(corrected.variances, plain.variances, rtol=0.1, atol=0)
    torch.testing.assert_close(corrected.values - plain.values, -plain.bias, rtol=0.1, atol=1e-4)


def test_bad_jackknife():
    mine, x = imperfect(0)
    line = r"correction 'jackknife': expected at least 2 particles; got 1; try num_particles=1000"
    with pytest.raises(InputError, match=line):
        log_likelihood(mine, {"x": x}, num_particles=1, correction="jackknife")
    line = (
        r"correction 'jackknife': expected at most 7,812 particles, as all of a datum's are needed at once; "
        r"got 20,000; try memory=2560000"
    )
    with pytest.raises(InputError, match=line):
        log_likelihood(mine, {"x": x}, num_particles=20_000, correction="jackknife", memory=1_000_000)
    fits = log_likelihood(mine, {"x": x}, num_particles=20_000, correction="jackknife", memory=2_560_000)
    assert torch.isfinite(fits.values).all()
