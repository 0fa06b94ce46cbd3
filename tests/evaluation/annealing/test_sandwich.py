"""Bounds of log p(x) from both sides: exact values lie between them, the gap closes, and what is said of it."""

from __future__ import annotations

import math

import pytest
import torch
from annealed_pairs import ManyLinear, ManyPoor, Rates, RatesGuide, linear_pair, many_linear
from own_pairs import BottomUp, Shared, SharedGuide, Switch, SwitchGuide, TwoLayers, pair

import ppl_vae
from ppl_vae import InputError, Pair, exact
from ppl_vae.evaluation.annealing import sandwich as module
from ppl_vae.evaluation.annealing.sandwich import Sandwich, sandwich

F64 = torch.float64
SE = 4.5
SHORT = {"num_distributions": 8, "leapfrog_steps": 4, "rungs": 10}


def conditions(size, seed=0):
    data, _ = many_linear(1, size, seed=seed)
    return {name: data[name] for name in ("W", "b", "s")}


def exact_values(found):
    batch = found.batch
    return exact.log_marginal(batch["x"].unsqueeze(-2), batch["W"], batch["b"], batch["s"]).squeeze(-1)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("T", [3, 40])
def test_the_exact_value_lies_inside(start, T):
    """On average: each side's mean over data is on its side of the exact mean, within its own error."""
    mine = Pair(ManyLinear(), ManyPoor())
    options = SHORT | {"num_distributions": T, "start": start}
    found = sandwich(mine, conditions=conditions(500), num_particles=4, annealing=options, compile="off")
    log_p = exact_values(found)
    for side, sign in ((found.lower, 1), (found.upper, -1)):
        short = sign * (log_p - side)
        assert short.mean() > -SE * short.std() / 500**0.5
    assert found.gap > -SE * found.standard_error
    assert found.non_finite == 0


@pytest.mark.slow
@pytest.mark.parametrize("K", [1, 3])
def test_the_way_back_is_unbiased_too(K):
    """E[1/w'] = 1/p(x): also for the mean of chains that share the one exact draw that they start from.

    Of data that say little: 1/p(x | z) has a variance over the posterior only where that is about as wide as the prior.
    """
    given = conditions(3000, seed=2)
    given["W"] = 0.25 * given["W"]
    mine, options = Pair(ManyLinear(), ManyPoor()), SHORT | {"num_distributions": 4}
    found = sandwich(mine, conditions=given, num_particles=K, annealing=options)
    ratio = (exact_values(found) - found.upper).exp()
    error = ratio.std() / 3000**0.5
    assert abs(ratio.mean() - 1) < SE * error
    assert 0.003 < error < 0.03


def test_one_distribution_by_hand():
    """Then upper = log p(x | z*) from the prior, whatever K: the whole batch and z* are as `generate` gives them."""
    mine, *_ = linear_pair()
    found = sandwich(mine, 50, num_particles=3, annealing={"num_distributions": 1}, seed=7)
    with ppl_vae.evaluation.annealing.sandwich.isolated(7):
        drawn = mine.generate(50)
    torch.testing.assert_close(found.batch["x"], drawn["x"])
    by_hand = torch.distributions.Normal(mine.model.decode(drawn["z"]).mean, 0.3).log_prob(drawn["x"]).sum(-1)
    torch.testing.assert_close(found.upper, by_hand.detach())
    assert found.gap > 1


@pytest.mark.slow
def test_the_gap_closes():
    mine, *_ = linear_pair()
    many = {"leapfrog_steps": 8, "rungs": 100}
    gaps = [
        sandwich(mine, 20, num_particles=8, annealing=many | {"num_distributions": T}, compile="graph")
        for T in (2, 20, 300)
    ]
    assert gaps[0].gap > gaps[1].gap > gaps[2].gap
    assert gaps[0].gap > 10
    assert abs(gaps[2].gap) < SE * gaps[2].standard_error
    assert gaps[2].standard_error < 0.2


@pytest.mark.slow
def test_an_exact_guide_leaves_no_gap():
    mine, *_ = linear_pair()
    found = sandwich(mine, 10, num_particles=2, annealing=SHORT | {"start": "guide"})
    log_p = mine.model.log_marginal(found.batch["x"]).detach()
    torch.testing.assert_close(found.lower, log_p, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.upper, log_p, rtol=1e-9, atol=1e-9)
    assert found.gap_variances.max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("build", [lambda: Pair(TwoLayers(), BottomUp()), lambda: Pair(Rates(), RatesGuide())])
def test_more_layers_and_positive_latents(build):
    torch.manual_seed(0)
    found = sandwich(build(), 40, num_particles=8, annealing={"num_distributions": 100, "rungs": 50}, compile="graph")
    assert abs(found.gap) < SE * found.standard_error + 0.05
    assert found.standard_error < 0.1


@pytest.mark.slow
def test_a_start_that_is_no_exact_draw_shows(monkeypatch):
    """Chains that go back from another datum's z give no bound, and a short annealing shows it."""
    mine, *_ = linear_pair()
    generate = mine.generate

    def swapped(*args, **kwargs):
        drawn = generate(*args, **kwargs)
        return drawn | {"z": drawn["z"].roll(1, 0)}

    monkeypatch.setattr(mine, "generate", swapped)
    found = sandwich(mine, 20, num_particles=8, annealing=SHORT | {"num_distributions": 3})
    assert found.gap < -4 * found.standard_error
    assert "the upper bound lies below the lower" in str(found)


@pytest.mark.slow
def test_recorded_is_the_same_as_eager():
    eager, graph = (sandwich(pair(), 6, num_particles=3, annealing=SHORT, compile=path) for path in ("off", "graph"))
    torch.testing.assert_close(graph.lower, eager.lower, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(graph.upper, eager.upper, rtol=1e-5, atol=1e-5)
    assert graph.details["path"] == "graph"


@pytest.mark.slow
def test_seed_settles_it_and_the_random_state_stays():
    state = torch.get_rng_state()
    first, again, other = (sandwich(pair(), 4, num_particles=2, annealing=SHORT, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.lower, again.lower)
    assert torch.equal(first.upper, again.upper)
    assert not torch.equal(first.batch["x"], other.batch["x"])


@pytest.mark.slow
def test_chunks_keep_data_and_draws_together():
    """With an exact guide each bound is that of its own datum, in chunks of one row as in one chunk."""
    mine, *_ = linear_pair()
    for memory in (1, 2**26):
        found = sandwich(mine, 3, num_particles=2, annealing=SHORT | {"start": "guide", "rungs": 2}, memory=memory)
        log_p = mine.model.log_marginal(found.batch["x"]).detach()
        torch.testing.assert_close(found.upper, log_p, rtol=1e-9, atol=1e-9)


# -- what is said -----------------------------------------------------------------------------------------------------


def result(lower, upper, **given):
    lower, upper = torch.tensor(lower, dtype=F64), torch.tensor(upper, dtype=F64)
    details = {"num_distributions": 1000, "schedule": "sigmoid", "start": "prior", "acceptance": {"mean": 0.651}}
    return Sandwich(
        **{
            "lower": lower,
            "upper": upper,
            "lower_variances": torch.full_like(lower, 0.01),
            "upper_variances": torch.full_like(lower, 0.03),
            "num_particles": 16,
            "details": details,
            "seconds": 1.5,
            "seed": 0,
            "non_finite": 0,
            "batch": {},
        }
        | given
    )


def test_words_and_numbers():
    found = result([-80.0, -90.0, -100.0], [-79.5, -89.9, -99.7])
    # Gaps 0.5, 0.1 and 0.3: mean 0.3, standard deviation 0.2.
    assert found.gap == pytest.approx(0.3)
    assert found.standard_error == pytest.approx(0.2 / 3**0.5)
    torch.testing.assert_close(found.gap_variances, torch.full((3,), 0.04, dtype=F64))
    assert str(found) == (
        "-90.000 <= log p(x) <= -89.700 nats per datum, gap 0.300 ± 0.115, on 3 data that the model drew "
        "(annealed from the prior, T = 1,000, sigmoid, K = 16, acceptance 0.65)"
    )
    assert repr(found) == str(found)
    saved = found.to_json()
    assert saved["gap"] == pytest.approx(0.3)
    assert saved["num_data"] == 3
    assert saved["annealing"]["num_distributions"] == 1000
    assert found.caution() == ""
    assert math.isnan(result([-80.0], [-79.0]).standard_error)


def test_cautions():
    assert result([-80.0, -90.0], [-79.0, -89.9], non_finite=2).caution() == "2 log weights are NaN or infinite"
    crossed = result([-80.0, -90.0, -70.0], [-81.0, -91.1, -71.0])
    assert "the upper bound lies below the lower" in crossed.caution()


@pytest.mark.slow
def test_one_particle():
    found = sandwich(pair(), 5, num_particles=1, annealing=SHORT)
    assert torch.isfinite(found.gaps).all()
    assert torch.isnan(found.gap_variances).all()
    assert found.standard_error > 0


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_bad_arguments():
    with pytest.raises(InputError, match=r"num_particles: expected an integer >= 1; got 0"):
        sandwich(pair(), 5, num_particles=0)
    with pytest.raises(InputError, match=r"size: expected an integer >= 1; got 0"):
        sandwich(pair(), 0)
    with pytest.raises(InputError, match=r"unknown annealing option"):
        sandwich(pair(), 5, annealing={"T": 3})
    with pytest.raises(InputError, match=r"unknown condition: .* got 'c'"):
        sandwich(pair(), 5, conditions={"c": torch.zeros(5)})
    with pytest.raises(InputError, match=r"W: expected 7 rows, as size says; got 5"):
        sandwich(Pair(ManyLinear(), ManyPoor()), 7, conditions=conditions(5))
    with pytest.raises(InputError, match=r"site 'k': expected continuous latents"):
        sandwich(Pair(Switch(), SwitchGuide()), 5)
    with pytest.raises(InputError, match=r"pair: expected local latents; got latents shared"):
        sandwich(Pair(Shared(), SharedGuide()), 5)


def test_public_name():
    assert module.sandwich is sandwich
    assert ppl_vae.sandwich is sandwich
    assert ppl_vae.Sandwich is Sandwich
