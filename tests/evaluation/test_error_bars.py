"""Error bars that hold: coverage by guides of the wrong width, biases, and what is said where nothing holds."""

from __future__ import annotations

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from estimates import result_with
from imperfect_guides import linear_gaussian
from linear_modalities import draws, exact_pair, layers, only
from pyro.nn import PyroModule
from torch import nn

import ppl_vae
from ppl_vae import InputError, Pair, exact
from ppl_vae.evaluation.annealing.gap import annealed_gap
from ppl_vae.evaluation.marginal_likelihood import log_likelihood
from ppl_vae.evaluation.prediction.conditional import conditional_log_likelihood
from ppl_vae.exact import modalities
from ppl_vae.guides import LinearGaussian
from ppl_vae.models import PPCA

F64 = torch.float64
SE = 4.5

# -- coverage ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("K", [100, 1000])
@pytest.mark.parametrize("L", [1, 2, 5])
@pytest.mark.parametrize("scale", [0.65, 0.8, 1.0, 1.25])
def test_intervals_hold_the_exact_value(K, L, scale):
    """Repeats are rows of one batch, which have particles of their own. The witness is the closed form."""
    mine, x, (gain, offset, covariance), _ = linear_gaussian(L, 6, L, 2000 if K == 100 else 1000)
    mine.guide.set_posterior(gain, offset, scale**2 * covariance)
    found = log_likelihood(mine, {"x": x}, num_particles=K, seed=1, memory=2**28)
    truth = mine.model.log_marginal(x).detach()
    if scale == 1.0:  # every weight is p(x)
        torch.testing.assert_close(found.values, truth, rtol=1e-10, atol=1e-10)
        assert found.untrusted == 0
        return
    lower, upper = found.intervals()
    trusted = torch.isfinite(upper)
    assert int((~trusted).sum()) == found.untrusted
    assert trusted.double().mean() > 0.5
    covered = (lower <= truth) & (truth <= upper)
    assert 0.90 <= covered[trusted].double().mean() <= 0.98
    if scale < 1:  # the delta method alone, whose error bars are too small
        plain = (found.values - truth).abs() <= 1.96 * found.lower_variances.sqrt()
        assert plain[trusted].double().mean() < covered[trusted].double().mean() - 0.02


def test_other_levels_and_ends():
    found = result_with([0.1, 0.2, 0.9], lower_variances=torch.full((3,), 0.01, dtype=F64))
    lower, upper = found.intervals(0.5)
    torch.testing.assert_close(found.values - lower, torch.full((3,), 0.67448975 * 0.1, dtype=F64))
    torch.testing.assert_close((upper - found.values)[:2], torch.full((2,), 0.67448975 * 0.15, dtype=F64))
    assert upper[2] == math.inf
    for level in (0, 1, -0.5):
        with pytest.raises(InputError, match=rf"level: expected a number between 0 and 1; got {level}; try level=0.95"):
            found.intervals(level)


def test_a_hidden_tail_is_not_taken_for_spread_over_data():
    plain = result_with([0.1, 0.2, 0.3])
    wide = result_with([0.1, 0.2, 0.3], variances=torch.full((3,), 0.5, dtype=F64), lower_variances=plain.variances)
    assert wide.data_standard_error == pytest.approx(plain.data_standard_error)
    assert wide.standard_error == pytest.approx((0.5 / 3) ** 0.5)


# -- bias -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bias_of_a_difference_of_logarithms():
    """By 20,000 repeats of one datum, against the closed form."""
    pair = exact_pair(trust=0.6)
    one = {name: x[:1] for name, x in draws(pair, 3).items()}
    many = {name: x.expand(20_000, *x.shape[1:]) for name, x in one.items()}
    found = conditional_log_likelihood(pair, many, "a", "b", num_particles=20)
    truth = modalities.log_marginal(only(one, "ab"), layers(pair)) - modalities.log_marginal(
        only(one, "b"), layers(pair)
    )
    error = float(found.values.std()) / 20_000**0.5
    reported = float(found.bias.nanmean())
    assert float((found.values - truth).mean()) == pytest.approx(reported, abs=SE * error + 0.25 * abs(reported))
    joint = ppl_vae.log_likelihood(pair, only(many, "ab"), num_particles=20)
    alone = ppl_vae.log_likelihood(pair, only(many, "b"), num_particles=20, seed=1)
    known = found.bias.isfinite()
    torch.testing.assert_close(found.bias[known], (-(joint.lower_variances - alone.lower_variances) / 2)[known])
    assert abs(reported) < float((joint.lower_variances + alone.lower_variances).mean()) / 2 - SE * error


def test_no_bias_is_told_where_pareto_k_does_not_allow_it():
    tight = result_with([0.1, 0.9, 0.6], variances=torch.full((3,), 4.0, dtype=F64))
    assert tight.bias.isnan().tolist() == [False, True, True]
    assert math.isnan(tight.mean_bias)
    assert (
        "bias of the logarithm may be larger than the error bar (no first order for 2 of 3 data, with Pareto k above "
        '0.5 or an effective sample size below 5; method="ais" would tell)'
    ) in str(tight)
    assert "about" not in str(tight)
    assert tight.interval()[1] == math.inf
    ais = result_with([0.1, 0.4, 0.6], variances=torch.full((3,), 1.0, dtype=F64), method="ais")
    assert "unknown (no first order for 1 of 3 data" in str(ais)
    assert "more distributions would tell" in str(ais)


def test_a_bias_larger_than_the_error_bar_says_so():
    """K = 10 draws of the prior for 400 data: ± would cover next to never, the interval said does."""
    mine, x, *_ = linear_gaussian(0, 3, 1, 400, scale=0.7)
    truth = log_likelihood(mine, {"x": x}, method="exact").mean
    found = log_likelihood(mine, {"x": x}, method="prior", num_particles=10)
    assert abs(found.mean - truth) > 2 * found.standard_error
    assert ", larger than the error bar: 95 % interval from " in str(found)
    lower, upper = found.interval()
    assert lower <= truth <= upper


@pytest.mark.slow
def test_annealing_finds_what_importance_weights_miss():
    """A guide much too narrow: the closed form says by how much the estimate is too low."""
    mine, x, (gain, offset, covariance), _ = linear_gaussian(3, 12, 8, 10)
    mine.guide.set_posterior(gain, offset, 0.3 * covariance)
    found = log_likelihood(mine, {"x": x}, num_particles=50)
    missing = float((mine.model.log_marginal(x).detach() - found.values).mean())
    reported = annealed_gap(mine, {"x": x}, found)
    gap, error = map(
        float, re.search(r"lies (\S+) ± (\S+) nats above the importance estimate: at least", reported).groups()
    )
    assert missing > 0.5
    assert 0.6 * missing < gap < missing + SE * error


def test_annealing_that_cannot_be_is_told_of():
    model = Codes()
    mine, data = Pair(model, ArgMin(model, "soft")), {"x": torch.zeros(4, 2)}
    reported = annealed_gap(mine, data, log_likelihood(mine, data, num_particles=30))
    assert reported.startswith("How far annealing would lie above the importance estimate is not known here: ")
    assert reported.count("\n") == 0


# -- caution ----------------------------------------------------------------------------------------------------------


def test_caution_is_for_what_is_not_to_be_trusted():
    # At 98 of 100 the tail holds next to nothing, whatever its shape.
    assert result_with([0.9, 0.8, 1.2], size=[98.0, 98.0, 98.0]).caution() == ""
    assert result_with([0.9, 0.8, 1.2], size=[80.0, 80.0, 80.0]).untrusted == 3
    # With K = 20 there is no Pareto k, which speaks neither for nor against.
    few = result_with([math.inf] * 3, size=[8.0, 9.0, 8.0], num_particles=20)
    assert few.caution() == ""
    assert " Monte Carlo, ± 0.862 data sampling, K = 20 too small to judge them; digits" in str(few)
    assert "CAUTION" not in str(few)
    assert result_with([math.inf] * 3, size=[8.0, 9.0, 3.0], num_particles=20).untrusted == 1


# -- guides of one configuration --------------------------------------------------------------------------------------


class Nearest(dist.TorchDistribution):
    """q(k) = 1 for one k, a distribution of a user's own."""

    arg_constraints = {}  # noqa: RUF012
    support = dist.constraints.nonnegative_integer

    def __init__(self, code):
        self.code = code
        super().__init__(code.shape, torch.Size())

    def expand(self, batch_shape, _instance=None):
        return Nearest(self.code.expand(batch_shape))

    def sample(self, sample_shape=()):
        return self.code.expand(torch.Size(sample_shape) + self.code.shape)

    def log_prob(self, value):
        return torch.where(value == self.code, 0.0, -torch.inf)


class Codes(PyroModule):
    """k1, k2 ~ Categorical(1/4), x ~ N(e_k1 + e_k2, 1)."""

    def __init__(self):
        super().__init__()
        self.codes = nn.Parameter(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        self.register_buffer("weights", torch.full((2, 4), 0.25))

    def means(self):
        return (self.codes[:, None] + self.codes[None]).flatten(0, 1)

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(self.weights).to_event(1))
            mean = self.codes[k.long()].sum(-2)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


class ArgMin(PyroModule):
    """The nearest of all pairs of codes, by one of several distributions."""

    def __init__(self, model, kind):
        super().__init__()
        self.means, self.kind = model.means, kind

    def forward(self, x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            nearest = torch.cdist(x, self.means()).argmin(-1)
            k = torch.stack([nearest // 4, nearest % 4], -1)
            hot = nn.functional.one_hot(k, 4).to(x)
            kinds = {
                "probs": lambda: dist.Categorical(probs=hot),
                "logits": lambda: dist.Categorical(logits=1e4 * hot),
                "own": lambda: Nearest(k),
                "soft": lambda: dist.Categorical(logits=20 * hot),
            }
            pyro.sample("k", kinds[self.kind]().to_event(1))


@pytest.mark.parametrize("kind", ["probs", "logits", "own"])
def test_a_deterministic_code_is_called_a_bound_from_one_configuration(kind):
    model = Codes()
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)) + 1
    found = log_likelihood(Pair(model, ArgMin(model, kind)), {"x": x}, num_particles=50)
    by_hand = dist.Normal(model.means(), 1.0).to_event(1).log_prob(x[:, None]).detach() - math.log(16)
    torch.testing.assert_close(found.values.float(), by_hand.amax(1), rtol=1e-5, atol=1e-5)
    assert (by_hand.logsumexp(1) - found.values).min() > 1  # nats that the error bar does not show
    assert found.standard_error == pytest.approx(0.0, abs=1e-6)
    assert found.untrusted == 20
    assert str(found).startswith(
        "CAUTION: a bound from one configuration for 20 of 20 data: the guide is deterministic there, and what "
        "other configurations of the discrete latents add is neither counted nor in the error bar; "
        "try a guide that draws them"
    )
    assert torch.isinf(found.intervals()[1]).all()


def test_guides_that_leave_something_to_other_configurations_are_not():
    model = Codes()
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    soft = log_likelihood(Pair(model, ArgMin(model, "soft")), {"x": x}, num_particles=50)
    assert soft.deterministic is None
    mine, x, posterior, _ = linear_gaussian(0, 6, 3, 10)
    mine.guide.set_posterior(*posterior)  # exact: all weights are equal too
    for pair in (mine, mine.float()):
        found = log_likelihood(pair, {"x": x}, num_particles=30)
        assert found.deterministic is None
        assert found.caution() == ""


# -- exact values -----------------------------------------------------------------------------------------------------


def test_exact_values_do_not_depend_on_the_models_type():
    """Noise of 0.01 beside weights of 1,000, where float32 is off by tenths of a nat."""
    random = torch.Generator().manual_seed(0)
    W = 1000 * torch.randn(50, 10, generator=random)
    x = torch.randn(50, 10, generator=random) @ W.T + 0.01 * torch.randn(50, 50, generator=random)
    model = PPCA(50, 10)
    model.set_parameters(W, torch.zeros(50), torch.tensor(0.01))
    scale = model.log_scale.detach().double().exp()
    # The witness rotates x: its part along W's columns, and the rest, which is distributed as the noise.
    U, lengths, _ = torch.linalg.svd(W.double())
    spread = torch.cat([(lengths**2 + scale**2).sqrt(), scale.expand(40)])
    truth = dist.Normal(0.0, spread).to_event(1).log_prob(x.double() @ U)
    rough = exact.log_marginal(x, *(p.detach() for p in (model.weight, model.bias, model.log_scale.exp())))
    assert (rough - truth).abs().max() > 0.05
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = {name: id(value) for name, value in model.named_parameters()}
    found = log_likelihood(Pair(model, LinearGaussian(50, 10)), {"x": x}, method="exact")
    torch.testing.assert_close(found.values, truth, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(model.log_marginal(x).double(), truth, rtol=1e-6, atol=1e-4)
    assert model.log_marginal(x).dtype is torch.float32
    assert kept == {name: id(value) for name, value in model.named_parameters()}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert found.details == {"dtype": "float64"}


class Held(PPCA):
    """One that keeps a tensor where no module finds it."""

    def log_marginal(self, x):
        return (x @ torch.ones(3, 1)).squeeze(-1)


def test_a_model_that_runs_in_its_own_type_alone_says_so():
    found = log_likelihood(Pair(Held(3, 1), LinearGaussian(3, 1)), {"x": torch.ones(4, 3)}, method="exact")
    assert found.values.tolist() == [3.0] * 4
    assert "(exact, to the rounding of float32)" in str(found)
