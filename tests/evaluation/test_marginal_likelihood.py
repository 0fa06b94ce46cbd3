"""log p(x): estimates and both of their error bars against closed forms, and what is said of an estimate."""

from __future__ import annotations

import math

import arviz_reference
import pyro
import pyro.distributions as dist
import pytest
import torch
from estimates import SE, result_with
from imperfect_guides import imperfect, linear_gaussian
from own_pairs import D, Guide, L, Mixture, Model, Shared, SharedGuide, batch, no_latents, pair
from pairs import PAIRS

import ppl_vae
from ppl_vae import InputError, Pair
from ppl_vae.data import Dataset, Spec, Split
from ppl_vae.evaluation.importance import diagnostics
from ppl_vae.evaluation.importance.diagnostics import TailShapes, WeightStream
from ppl_vae.evaluation.marginal_likelihood import log_likelihood

F64 = torch.float64


def spread(values):
    values = torch.tensor(values, dtype=F64)
    return float(values.mean()), float(values.std())


# -- against closed forms ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "K", "correction"),
    [("importance", 500, "none"), ("importance", 500, "jackknife"), ("prior", 4000, "none")],
)
def test_z_scores_over_two_hundred_random_models(method, K, correction):
    z = []
    for seed in range(200):
        if method == "importance":
            mine, x = imperfect(seed)
        else:
            mine, x, *_ = linear_gaussian(seed, x_dim=3, latent_dim=2, num_rows=4)
        estimate = log_likelihood(mine, {"x": x}, method=method, num_particles=K, seed=seed, correction=correction)
        exact = log_likelihood(mine, {"x": x}, method="exact")
        z.append((estimate.mean - exact.mean) / estimate.standard_error)
    mean, deviation = spread(z)
    assert abs(mean) < 0.2
    assert 0.8 < deviation < 1.2


def test_exact_posterior_as_a_guide_needs_one_particle():
    mine, x, posterior, _ = linear_gaussian(0, 6, 3, 10)
    mine.guide.set_posterior(*posterior)
    exact = log_likelihood(mine, {"x": x}, method="exact")
    for K in (1, 30):
        estimate = log_likelihood(mine, {"x": x}, num_particles=K)
        torch.testing.assert_close(estimate.values, exact.values, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(estimate.effective_sample_size, torch.full((10,), float(K), dtype=F64))
    assert estimate.standard_error < 1e-7
    assert exact.standard_error == 0.0
    assert torch.isnan(exact.effective_sample_size).all()
    assert exact.num_particles == 0


def test_exact_is_the_models_own():
    case = PAIRS["factor-analysis-linear"]
    mine, data = Pair(*case.build()), case.batch()
    result = log_likelihood(mine, data, method="exact")
    torch.testing.assert_close(result.values, mine.model.log_marginal(**data).detach().double())
    assert result.values.dtype is F64


def test_one_particle_is_the_bound():
    mine, data = pair(), batch(3000)
    one = log_likelihood(mine, data, num_particles=1)
    assert math.isnan(one.standard_error)
    assert torch.isnan(one.variances).all()
    assert "K = 1 gives no error bar" in one.caution()
    weights = torch.stack([mine.log_weights(data)[0] for _ in range(20)]).detach().double()
    error = (one.values.var() / 3000 + weights.mean(1).var() / 20).sqrt()
    assert abs(one.mean - weights.mean()) < SE * error


@pytest.mark.slow
def test_more_particles_raise_the_estimate_to_the_exact_value():
    mine, x = imperfect(3)
    exact = log_likelihood(mine, {"x": x}, method="exact").mean
    data = {"x": x.repeat(400, 1)}
    few = [log_likelihood(mine, data, num_particles=K) for K in (1, 2, 10, 200)]
    means = [result.mean for result in few]
    assert means == sorted(means)
    assert means[0] < exact - 0.05
    assert abs(means[-1] - exact) < SE * few[-1].standard_error + 0.01


# -- error bars -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_monte_carlo_error_over_seeds():
    mine, x = imperfect(5)
    results = [log_likelihood(mine, {"x": x}, num_particles=200, seed=seed) for seed in range(150)]
    _, deviation = spread([result.mean for result in results])
    reported, _ = spread([result.standard_error**2 for result in results])
    # The standard deviation of 150 draws has relative error 1 / sqrt(300) = 0.06.
    assert abs(math.log(deviation / reported**0.5)) < SE * 0.06
    per_datum = torch.stack([result.values for result in results]).var(0)
    reported = torch.stack([result.variances for result in results]).mean(0)
    assert ((per_datum / reported).log().abs() < SE * 0.12).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "importance"])
def test_data_error_over_data_sets(method):
    """The spread of means over data sets of 30, and Monte Carlo noise taken out where there is some."""
    mine, x, (gain, offset, covariance), _ = linear_gaussian(1, 4, 2, 30 * 150)
    mine.guide.set_posterior(gain, offset, 2 * covariance)
    results = [
        log_likelihood(mine, {"x": part}, method=method, num_particles=4, seed=i) for i, part in enumerate(x.split(30))
    ]
    exact = mine.model.log_marginal(x).detach().reshape(150, 30).mean(1)
    reported, _ = spread([result.data_standard_error**2 for result in results])
    assert abs(math.log(float(exact.std()) / reported**0.5)) < SE * 0.06
    if method == "importance":
        noisy = torch.stack([result.values for result in results]).var(1).mean() / 30
        assert noisy > reported * 1.05  # what is taken out is not nothing


def test_one_datum_has_no_data_error():
    result = log_likelihood(pair(), batch(1), num_particles=50)
    assert math.isnan(result.data_standard_error)
    assert result.standard_error > 0


# -- streams of weights -----------------------------------------------------------------------------------------------


def shapes(stream):
    tails = TailShapes(stream.num_particles, len(stream.tail))
    tails.add(stream.tail, stream.estimate(), stream.variance())
    return tails.shapes()


def streamed(weights, chunk):
    stream = WeightStream(len(weights))
    for part in weights.split(chunk):
        stream.add(part)
    return stream


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
@pytest.mark.parametrize("shift", [0.0, -2000.0, 3000.0])
def test_stream_equals_one_shot(chunk, shift):
    K, B = 700, 5
    weights = 1.5 * torch.randn(K, B, dtype=F64).sort(0).values + shift  # ascending: every chunk has a new peak
    weights[:, 1] = weights[torch.randperm(K), 1]
    weights[:, 2] = weights[:, 2].flip(0)
    stream = streamed(weights, chunk)
    w = (weights - weights.amax(0)).exp()
    torch.testing.assert_close(stream.estimate(), torch.logsumexp(weights, 0) - math.log(K))
    torch.testing.assert_close(stream.effective_sample_size(), w.sum(0) ** 2 / (w**2).sum(0))
    torch.testing.assert_close(stream.variance(), w.var(0) / w.mean(0) ** 2 / K)
    torch.testing.assert_close(shapes(stream), arviz_reference.pareto_k(weights), rtol=1e-6, atol=1e-6)
    assert stream.non_finite == 0


def test_stream_keeps_no_more_than_the_tail():
    stream = streamed(torch.randn(20_000, 2), 1000)
    assert len(stream._tail) == math.ceil(3 * 20_000**0.5) + 1


def test_tails_that_come_in_pieces_are_fitted_alike(monkeypatch):
    stream = streamed(torch.randn(400, 9, dtype=F64), 400)
    whole, values, variances = shapes(stream), stream.estimate(), stream.variance()
    monkeypatch.setattr(diagnostics, "NUMBERS_AT_ONCE", 200)
    for rows in (1, 2, 4, 9):  # a piece may fall across two fits, or need several
        tails = TailShapes(400, 9)
        for piece in zip(stream.tail.split(rows), values.split(rows), variances.split(rows), strict=True):
            tails.add(*piece)
        torch.testing.assert_close(tails.shapes(), whole)


def test_values_that_are_not_finite_are_counted_and_left_in():
    weights = torch.randn(200, 5, dtype=F64)
    weights[3:13, 0] = -torch.inf  # weights of zero, which an estimate takes as they are
    weights[:, 1] = -torch.inf
    weights[7, 2] = torch.nan
    weights[9, 3] = torch.inf
    for chunk in (1, 64, 200):
        stream = streamed(weights, chunk)
        assert stream.non_finite == 10 + 200 + 1 + 1
        estimate = stream.estimate()
        torch.testing.assert_close(estimate[[0, 4]], torch.logsumexp(weights[:, [0, 4]], 0) - math.log(200))
        assert estimate[1] == -torch.inf
        assert estimate[2].isnan()
        assert not torch.isfinite(estimate[3])
        assert torch.isnan(shapes(stream)[2])


def test_zero_weights_are_told_of():
    result = result_with(
        [math.inf, 0.2, 0.2],
        size=[math.nan, 40.0, 40.0],
        values=torch.tensor([-torch.inf, -2.0, -3.0]),
        variances=torch.tensor([torch.nan, 0.1, 0.1]),
        non_finite=60,
    )
    assert result.mean == -math.inf
    assert math.isnan(result.standard_error)
    assert "60 log weights are NaN or infinite" in result.caution()
    assert str(result).startswith("CAUTION: 60 log weights")


@pytest.mark.slow
def test_chunks_are_cut_to_the_memory():
    mine, x = imperfect(1)
    largest = []
    decode = mine.model.decode
    mine.model.decode = lambda z: (largest.append(z.shape[:-1].numel()), decode(z))[1]
    exact = log_likelihood(mine, {"x": x}, method="exact").mean
    results = {}
    for memory in (1, 50_000, 2**28):
        largest.clear()
        results[memory] = log_likelihood(mine, {"x": x}, num_particles=300, memory=memory)
        results[memory, "rows"] = max(largest)
    assert results[1, "rows"] <= 8  # two particles of the four data in the check
    assert 8 < results[50_000, "rows"] < 300
    assert results[2**28, "rows"] == 300 * 4
    for memory in (1, 50_000, 2**28):
        assert abs(results[memory].mean - exact) < SE * results[memory].standard_error
        assert results[memory].num_particles == 300


# -- what is said -----------------------------------------------------------------------------------------------------


def test_data_of_the_result():
    case = PAIRS["vae-bernoulli"]
    grey = torch.rand(6, *case.x_shape)
    spec = Spec("dots", case.x_shape, "binary", "dynamic")
    test = Split({"x": torch.bernoulli(grey)}, spec, role="test", intensities=grey)
    train = Split({"x": torch.bernoulli(grey)}, spec, intensities=grey)
    result = log_likelihood(Pair(*case.build()), Dataset(train, None, test), num_particles=30)
    expected = {"name": "dots", "role": "test", "size": 6, "binarization": "dynamic", "digest": test.digest}
    assert result.data == expected
    assert "dots test (N = 6, binarization dynamic)" in str(result)
    assert result.to_json()["data"] == expected
    other = log_likelihood(Pair(*case.build()), train, num_particles=30)
    assert other.data["role"] == "train"
    assert other.data["digest"] != test.digest


def test_text_of_a_result():
    # Standard errors by hand: 0.15 / sqrt(3), and sqrt((1.5^2 - 0.15^2) / 3).
    assert str(result_with([0.1, 0.2, 0.3], num_particles=5000)) == (
        "log p(x) = -81.500 nats per datum (importance, K = 5,000), ± 0.087 Monte Carlo, ± 0.862 data sampling; "
        "digits test (N = 3, binarization fixed)"
    )
    assert repr(result_with([0.1, 0.2, 0.3])) == str(result_with([0.1, 0.2, 0.3]))
    exact = result_with([math.nan] * 3, variances=torch.zeros(3), method="exact", num_particles=0)
    assert str(exact).startswith(
        "log p(x) = -81.500 nats per datum (exact), ± 0.000 Monte Carlo, ± 0.866 data sampling;"
    )
    assert exact.caution() == ""


def test_a_bias_that_counts_is_stated():
    """The same variances over more data: the error of the mean falls, the bias of the logarithm does not."""
    result = result_with([0.1, 0.2, 0.3])
    torch.testing.assert_close(result.bias, torch.full((3,), -0.01125, dtype=F64))
    assert result.mean_bias == pytest.approx(-0.01125)
    assert "bias" not in str(result)
    many = {"values": -81.0 * torch.ones(100), "variances": 0.0225 * torch.ones(100)}
    many |= {"effective_sample_size": torch.full((100,), 50.0)}
    stated = result_with([0.1], **many)
    assert "± 0.015 Monte Carlo, ± 0.000 data sampling, bias of the logarithm about -0.011; digits" in str(stated)
    corrected = result_with([0.1], **many, correction="jackknife")
    assert corrected.mean_bias == 0.0
    assert "bias" not in str(corrected)
    assert "(importance, K = 100, jackknife)" in str(corrected)


def test_caution():
    assert result_with([0.1, 0.2, 0.69]).caution() == ""
    bad = result_with([0.1, 0.9, 1.4])
    assert bad.untrusted == 2
    assert bad.caution() == (
        "not to be trusted for 2 of 3 data (Pareto k above 0.7, or an effective sample size below 5); "
        "try more particles or a better guide"
    )
    assert str(bad).startswith(f"CAUTION: {bad.caution()}. log p(x) = -81.500 nats")
    # No tail to fit: harmless where weights are all alike, and a bad sign where one of them is all there is.
    assert result_with([math.inf] * 3, size=[99.0, 98.0, 97.0]).caution() == ""
    assert result_with([math.inf] * 3, size=[99.0, 98.0, 1.0]).untrusted == 1
    assert result_with([math.nan] * 3, size=[99.0, 98.0, 1.0]).untrusted == 1
    # Few weights count, whatever their tail; of four in all, three are as good as it gets.
    assert result_with([0.3, 0.3, 0.3], size=[4.9, 5.0, 80.0]).untrusted == 1
    assert result_with([math.inf] * 3, size=[3.0, 3.9, 4.0], num_particles=4).untrusted == 0


class Conditional(Model):
    """p(x | c) = N(net(z) + c, scale^2)."""

    def forward(self, x=None, c=None, size=None):
        with pyro.plate("data", len(c), dim=-1):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.net(z) + c, self.scale).to_event(1), obs=x)


class ConditionalGuide(Guide):
    def forward(self, x=None, c=None, size=None):
        return super().forward(x - c)


def test_a_conditional_model_is_named_by_what_it_conditions_on():
    data = batch() | {"c": torch.full((24, D), 0.5)}
    result = log_likelihood(Pair(Conditional(), ConditionalGuide()), data, num_particles=30)
    assert "log p(x | c) = " in str(result)
    assert result.to_json()["quantity"] == "log p(x | c)"
    assert "log p(x) = " in str(log_likelihood(pair(), data, num_particles=30))  # the other pair takes no c


def test_a_poor_guide_is_told_of_and_a_good_one_is_not():
    mine, x, (gain, offset, covariance), _ = linear_gaussian(2, 6, 3, 20, scale=0.3)
    mine.guide.set_posterior(gain, offset, 1.3 * covariance)
    assert log_likelihood(mine, {"x": x}, num_particles=1000).caution() == ""
    mine.guide.set_posterior(gain, offset + 1, 0.05 * covariance)
    assert log_likelihood(mine, {"x": x}, num_particles=1000).untrusted > 15
    assert str(log_likelihood(mine, {"x": x}, num_particles=1000)).startswith("CAUTION: not to be trusted for ")


def test_json_of_a_result():
    reported = result_with([0.1, 0.9, 0.3]).to_json()
    assert reported["mean"] == -81.5
    assert reported["pareto_k"] == {"max": 0.9}
    assert reported["untrusted"] == 1
    assert math.isnan(reported["bias"])  # of the second no first order is known
    assert reported["interval"] == {"level": 0.95, "ends": [pytest.approx(-81.5 - 1.959964 * 0.15 / 3**0.5), math.inf]}
    known = result_with([0.1, 0.2, 0.3]).to_json()
    assert known["bias"] == pytest.approx(-0.01125)
    assert known["interval"]["ends"][1] == pytest.approx(-81.5 + 1.959964 * 0.15 / 3**0.5 + 0.01125)
    assert "curve" not in reported
    assert "details" not in reported
    assert reported["effective_sample_size"] == {"median": 50.0}
    assert reported["values"]["quantiles 5 50 95 %"] == pytest.approx([-82.85, -81.5, -80.15])
    assert reported["caution"].startswith("not to be trusted for 1 of 3 data")
    assert {
        "method",
        "num_particles",
        "seed",
        "standard_error",
        "data_standard_error",
        "non_finite",
        "seconds",
    } <= reported.keys()


# -- seeds and state --------------------------------------------------------------------------------------------------


def test_seed_is_all_that_matters():
    mine, data = pair(), batch()
    random = torch.get_rng_state()
    first = log_likelihood(mine, data, num_particles=30, seed=1)
    assert torch.equal(random, torch.get_rng_state())
    torch.manual_seed(9)
    mine.train()
    assert torch.equal(first.values, log_likelihood(mine, data, num_particles=30, seed=1).values)
    assert mine.training
    assert not torch.equal(first.values, log_likelihood(mine, data, num_particles=30, seed=2).values)
    assert first.seed == 1
    assert first.seconds > 0
    assert not first.values.requires_grad


def test_float64_pair_and_float32_data():
    mine, x = imperfect(0)
    assert torch.isfinite(log_likelihood(mine, {"x": x.float()}, num_particles=10).values).all()


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_bad_arguments():
    line = r"unknown method: expected one of ais, exact, importance, prior; got 'importence'; try 'importance'"
    with pytest.raises(InputError, match=line):
        log_likelihood(pair(), batch(), method="importence")
    line = r"unknown correction: expected one of jackknife, none; got 'jacknife'; try 'jackknife'"
    with pytest.raises(InputError, match=line):
        log_likelihood(pair(), batch(), correction="jacknife")
    line = r"correction 'jackknife': expected method 'prior' or 'importance'; got 'exact'; try 'none'"
    with pytest.raises(InputError, match=line):
        log_likelihood(pair(), batch(), method="exact", correction="jackknife")
    line = r"annealing: expected method 'ais'; got 'importance'; try method='ais'"
    with pytest.raises(InputError, match=line):
        log_likelihood(pair(), batch(), annealing={"num_distributions": 10})
    for K in (0, -3, 1.5, "many"):
        with pytest.raises(InputError, match=rf"num_particles: expected an integer >= 1; got {K!r}; try"):
            log_likelihood(pair(), batch(), num_particles=K)
    for seed in (True, None, -1, 0.5, "0", 2**63):
        with pytest.raises(InputError, match=r"seed: expected a whole number, 0 or more.*; got "):
            log_likelihood(pair(), batch(), num_particles=2, seed=seed)
    for memory in (0, float("inf"), "64 MiB"):
        with pytest.raises(InputError, match="memory: expected a number of bytes; got "):
            log_likelihood(pair(), batch(), num_particles=2, memory=memory)
    line = r"method 'exact': expected a model with log_marginal\(\*\*batch\), such as PPCA; got Model; try method='imp"
    with pytest.raises(InputError, match=line):
        log_likelihood(pair(), batch(), method="exact")
    line = r"pair: expected local latents; got latents shared by all data; try the ELBO as a bound"
    for method in ("importance", "prior"):
        with pytest.raises(InputError, match=line):
            log_likelihood(Pair(Shared(), SharedGuide()), batch(), method=method)


def test_bad_data():
    bad = batch()
    bad["x"][3, 1] = torch.nan
    with pytest.raises(InputError, match=r"x: expected finite values"):
        log_likelihood(pair(), bad)
    with pytest.raises(InputError, match=r"batch: expected tensors named x; got pixels"):
        log_likelihood(pair(), {"pixels": torch.zeros(3, D)})
    case = PAIRS["vae-bernoulli"]
    with pytest.raises(InputError, match=r"x: expected values in the support of its likelihood \(Boolean\)"):
        log_likelihood(Pair(*case.build()), {"x": torch.full((4, *case.x_shape), 0.25)})


def test_public_name_and_methods_on_other_pairs():
    assert ppl_vae.log_likelihood is log_likelihood
    x = torch.tensor([[-2.0], [0.3], [2.5]])
    mixture = Pair(Mixture(), no_latents)
    exact = mixture.model.log_prob(x).detach()
    for method in ("importance", "prior"):  # the same here: what training sums out is drawn from the prior
        found = log_likelihood(mixture, {"x": x}, method=method, num_particles=20_000)
        assert ((found.values - exact).abs() < SE * found.variances.sqrt()).all()
    prior = log_likelihood(pair(), batch(3), method="prior", num_particles=50_000)
    guided = log_likelihood(pair(), batch(3), num_particles=50_000)
    assert ((prior.values - guided.values).abs() < SE * (prior.variances + guided.variances).sqrt()).all()
    assert L == 2  # where the prior still reaches
