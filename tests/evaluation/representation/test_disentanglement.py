"""Disentanglement: information against quadrature, and codes whose answer is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from estimates import SE
from own_pairs import BottomUp, D, L, TwoLayers, batch, pair
from scipy.stats import norm

from ppl_vae import InputError, Pair, PairError
from ppl_vae.evaluation.representation.disentanglement import (
    accuracy,
    encode,
    factor_accuracy,
    information_gap,
    mutual_information_gap,
)
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE


def grid(*counts, repeats=1):
    """All combinations of factors with so many values each, as numbers between -1 and 1."""
    rows = list(itertools.product(*(np.linspace(-1, 1, n) for n in counts)))
    return torch.tensor(rows).float().repeat(repeats, 1)


def turned(code, angle):
    c, s = math.cos(angle), math.sin(angle)
    return code @ torch.tensor([[c, -s], [s, c]])


def mixture_information(centres, s):
    """I(z; v) in nats for v uniform over the centres and z ~ N(v, s^2), by quadrature."""
    axis = np.linspace(min(centres) - 9 * s, max(centres) + 9 * s, 20_001)
    density = norm.pdf(axis[:, None], centres, s).mean(1)
    entropy = -np.trapezoid(density * np.log(np.maximum(density, 1e-300)), axis)
    return entropy - 0.5 * math.log(2 * math.pi * math.e * s**2)


@pytest.mark.slow
@pytest.mark.parametrize("s", [0.2, 0.5, 2.0])
def test_information_against_quadrature(s):
    factors = grid(2, 5)
    factors = factors.repeat(200, 1)
    many = information_gap(factors, torch.full_like(factors, s), factors, num_draws=2000)
    truth = torch.tensor([mixture_information(np.linspace(-1, 1, n), s) for n in (2, 5)])
    off = (many.information.diagonal() - truth).abs()
    assert (off < SE * many.standard_error.diagonal() + 1e-5).all()  # draws beyond five standard deviations
    torch.testing.assert_close(many.entropy, torch.tensor([2.0, 5.0]).double().log())
    # Either coordinate is the same for all values of the other's factor, and so has no information on it, in any draw.
    assert float(many.information[0, 1]) == pytest.approx(0, abs=1e-9)
    assert float(many.information[1, 0]) == pytest.approx(0, abs=1e-9)


def test_a_code_that_is_its_factors_has_all_of_the_gap_and_one_turned_by_45_degrees_none():
    factors = grid(16, 16)
    small = torch.full_like(factors, 1e-3)
    straight, halfway = (information_gap(turned(factors, t), small, factors) for t in (0.0, math.pi / 4))
    assert straight.value == pytest.approx(1.0, abs=1e-6)
    assert straight.gaps.tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert halfway.value == pytest.approx(0.0, abs=0.02)
    assert halfway.information.min() > 0.4  # each coordinate has information on both


def test_coordinates_that_tell_nothing_and_the_order_of_all_do_not_matter():
    factors = grid(8, 6)
    dead = torch.cat([torch.zeros(48, 3), factors], 1)
    scale = torch.cat([torch.ones(48, 3), torch.full((48, 2), 0.01)], 1)
    order = torch.tensor([4, 0, 3, 1, 2])
    for mean, s in ((dead, scale), (dead[:, order], scale[:, order])):
        assert information_gap(mean, s, factors).value == pytest.approx(1.0, abs=0.01)


def test_units_a_half_of_the_gap():
    # One factor in a coordinate of its own, the other in two alike: 1/2 (1 + 0), whatever the unit of a factor.
    factors = grid(8, 8)
    mean = torch.stack([factors[:, 0], factors[:, 1], factors[:, 1]], 1)
    for unit in (1.0, 1000.0):
        found = information_gap(mean, torch.full_like(mean, 1e-2), unit * factors)
        assert found.value == pytest.approx(0.5, abs=0.01)


def test_shuffled_factors_show_what_few_data_pretend():
    torch.manual_seed(0)
    code = torch.randn(400, 2)
    factors = torch.randint(20, (400, 1))
    found = information_gap(code, torch.full_like(code, 0.01), factors, num_draws=400)
    assert found.information.min() > 1.0  # of nothing: twenty data to a value
    torch.testing.assert_close(found.noise, found.information, atol=0.2, rtol=0)
    assert "shuffled factors" in str(found)


def test_draws_are_seeded_and_leave_the_random_state_alone():
    factors = grid(4, 4)
    state = torch.get_rng_state()
    one, two, other = (information_gap(factors, torch.ones(16, 2), factors, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.information, two.information)
    assert not torch.equal(one.information, other.information)


# -- the beta-VAE metric ----------------------------------------------------------------------------------------------


def test_the_classifier_tells_the_shared_factor_where_codes_are_the_factors():
    share, error = accuracy(grid(6, 8, 5), grid(6, 8, 5), num_pairs=20, num_points=300)
    assert share == 1.0
    assert error == 0.0


def test_a_code_of_nothing_is_told_by_chance():
    torch.manual_seed(0)
    share, error = accuracy(torch.randn(240, 4), grid(6, 8, 5), num_pairs=20, num_points=600)
    assert abs(share - 1 / 3) < SE * math.sqrt(2 / 9 / 300)
    assert error == pytest.approx(math.sqrt(share * (1 - share) / 300))


def test_a_code_without_one_of_three_factors_is_told_by_what_is_left():
    # Where the third is shared both others vary, so that all three are distinguishable; without two, they are not.
    factors = grid(6, 8, 5)
    without_one, _ = accuracy(factors[:, :2], factors, num_pairs=50, num_points=300)
    without_two, error = accuracy(factors[:, :1], factors, num_pairs=50, num_points=600)
    assert without_one > 0.98
    assert abs(without_two - 2 / 3) < SE * error


def test_units_and_constants_do_not_matter_to_the_classifier():
    torch.manual_seed(0)
    factors = grid(6, 8, 5)
    code = factors + torch.randn(240, 3)
    share, _ = accuracy(code, factors, num_pairs=10, num_points=300)
    assert 0.4 < share < 0.99
    scaled = torch.cat([code * torch.tensor([1e-4, 1.0, 1e4]), torch.full((240, 1), 3.0)], 1)
    assert accuracy(scaled, factors, num_pairs=10, num_points=300)[0] == pytest.approx(share, abs=2 / 150)


# -- pairs ------------------------------------------------------------------------------------------------------------


def test_a_pair_is_encoded_by_its_guide():
    mine, data = pair(), batch(40)
    mean, scale = encode(mine, data)
    torch.testing.assert_close(mean, mine.guide.net(data["x"]))
    torch.testing.assert_close(scale, mine.guide.scale.expand(40, L))
    assert not mean.requires_grad


def test_metrics_of_a_pair_and_its_data():
    mine = pair()
    factors = grid(5, 4)
    with torch.no_grad():
        mine.guide.net.weight.copy_(torch.eye(D)[:L])
        mine.guide.net.bias.zero_()
        mine.guide.scale = torch.full((L,), 0.01)
    data = {"x": torch.cat([factors, torch.zeros(20, D - L)], 1)}
    assert mutual_information_gap(mine, data, factors).value == pytest.approx(1.0, abs=0.01)
    assert mutual_information_gap(mine, data | {"factors": factors}).value == pytest.approx(1.0, abs=0.01)
    assert factor_accuracy(mine, data, factors, num_points=100)[0] == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mutual_information_gap(pair(), batch(8)), "expected their values .* got data without 'factors'"),
        (lambda: mutual_information_gap(pair(), batch(8), torch.zeros(7, 2)), r"of shape \(8, F\).* got \(7, 2\)"),
        (lambda: factor_accuracy(pair(), batch(8), torch.zeros(8, 2)), "factors that vary; got one value in column 0"),
        (lambda: information_gap(torch.zeros(4, 1), torch.ones(4, 1), torch.arange(4)[:, None]), "two coordinates"),
        (lambda: information_gap(torch.zeros(4, 2), torch.ones(4, 2), torch.eye(4), num_draws=1), "num_draws: "),
        (lambda: accuracy(torch.zeros(4, 2), torch.eye(4), num_points=2), "num_points: expected an integer >= 10"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_guides_of_another_form_are_refused():
    full = Pair(VAE(D, L, likelihood="normal"), AmortizedNormal(D, L, covariance="full"))
    for mine, got in ((full, "z ~ MultivariateNormal"), (Pair(TwoLayers(), BottomUp()), "z1 ~ ")):
        with pytest.raises(PairError, match=f"guide: expected one latent per datum.* got .*{got}"):
            encode(mine, batch(4))
