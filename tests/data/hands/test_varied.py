"""Varied training hands: parts, views made anew, bones that turn and stretch; and coverage of intervals."""

from __future__ import annotations

import pytest
import scipy.stats
import synthetic_hands
import torch
from estimates import SE

from ppl_vae import InputError, data
from ppl_vae.data import split_viewpoint, with_varied_hands
from ppl_vae.data.hands.varied import stretch_bones
from ppl_vae.evaluation.prediction.intervals import interval_coverage


@pytest.fixture(params=[("nyu", "own"), ("icvl", "depth")], ids=lambda one: one[0])
def hands(request, tmp_path, monkeypatch):
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    name, scale_2d = request.param
    synthetic_hands.write(tmp_path, name)
    return data.load(f"hands-{name}", image_size=12, scale_2d=scale_2d)


def bones_of(hands, joints):
    whole = hands.truth.whole(joints)
    return torch.stack([whole[:, j] - whole[:, i] for i, j in hands.truth.bones], 1)


def test_hands_as_they_are_come_first_and_other_parts_are_left_alone(hands):
    varied = with_varied_hands(hands, 2)
    n = hands.train.size
    assert varied.train.size == 3 * n
    assert varied.train.keys() == hands.train.keys()
    for name, value in hands.train.items():
        assert torch.equal(varied.train[name][:n], value)
    assert varied.validation is hands.validation
    assert varied.test is hands.test
    assert with_varied_hands(hands, 0) is hands
    assert torch.equal(varied.train["frame"], hands.train["frame"].repeat(3))


def test_without_variation_copies_are_the_same_hands(hands):
    varied = with_varied_hands(hands, 1, degrees=0, stretch=0)
    n = hands.train.size
    for name, value in hands.train.items():
        copied = varied.train[name][n:].float()
        off = (copied - value.float()).abs()
        if name in ("depth", "silhouette"):  # rounding may move an outline by a pixel
            assert (off > 1e-3).float().mean() < 1e-3, name
        else:
            torch.testing.assert_close(copied, value.float(), rtol=1e-4, atol=1e-4, msg=name)


def test_turning_changes_the_viewpoint_and_not_the_pose(hands):
    varied = with_varied_hands(hands, 1, degrees=20, stretch=0)
    n, palm, whole = hands.train.size, hands.truth.palm, hands.truth.whole
    pose, view = split_viewpoint(whole(varied.train["joints3d"].double()), palm)
    torch.testing.assert_close(pose[n:], pose[:n], rtol=1e-4, atol=1e-4)
    turns = view[:n].mT @ view[n:]
    squares = scipy.spatial.transform.Rotation.from_matrix(turns).as_rotvec(degrees=True).ravel() ** 2
    error = squares.std() / (n) ** 0.5  # the three axes of a hand, at worst, as one
    assert abs(squares.mean() - 20**2) < SE * error


def test_stretching_changes_lengths_and_not_directions(hands):
    varied = with_varied_hands(hands, 3, degrees=0, stretch=0.1)
    n = hands.train.size
    old = bones_of(hands, hands.train["joints3d"]).repeat(3, 1, 1)
    new = bones_of(hands, varied.train["joints3d"][n:])
    cosine = torch.nn.functional.cosine_similarity(old, new, dim=-1)
    assert (cosine > 1 - 1e-5).all()
    torch.testing.assert_close(new.norm(dim=-1).mean(1), old.norm(dim=-1).mean(1))
    logs = (new.norm(dim=-1) / old.norm(dim=-1)).log()
    logs = logs - logs.mean(1, keepdim=True)  # of the common factor that brings the mean length back
    E = logs.shape[1]
    assert logs.square().sum(1).mean() / (E - 1) == pytest.approx(0.01, rel=0.1)


def test_views_follow_the_joints(hands):
    varied = with_varied_hands(hands, 1)
    truth, train = hands.truth, varied.train
    xyz = truth.positions(train["joints3d"], train["root"], train["unit"])
    pixels = truth.pixels(train["joints2d"], train["root"], train["scale"])
    torch.testing.assert_close(pixels, truth.camera.project(xyz)[..., :2], rtol=1e-4, atol=1e-2)
    assert torch.equal(train["silhouette"], (train["depth"] > 0).float())
    assert not torch.equal(train["depth"][: hands.train.size], train["depth"][hands.train.size :])


def test_seeds_tell_hands_apart(hands):
    one, same, other = (with_varied_hands(hands, 1, seed=seed).train["joints3d"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_bad_input(hands):
    with pytest.raises(InputError, match="data: expected hands; got 'linear-gaussian'"):
        with_varied_hands(data.load("linear-gaussian"), 1)
    with pytest.raises(InputError, match="copies"):
        with_varied_hands(hands, -1)
    with pytest.raises(InputError, match="degrees"):
        with_varied_hands(hands, 1, degrees=-1.0)
    with pytest.raises(InputError, match="1 bones, which lead to 2 of 3 joints"):
        stretch_bones(torch.randn(2, 3, 3), [(0, 1)], 0, torch.ones(2, 1))


@pytest.mark.parametrize("K", [19, 199])
def test_coverage_of_draws_from_the_truth_and_of_narrower_ones(K):
    torch.manual_seed(0)
    N = 20_000
    true = torch.randn(N, 2)
    draws = torch.randn(K, N, 2) * torch.tensor([1.0, 0.5])
    same, narrow = interval_coverage(draws, true, 0.9).tolist()
    assert abs(same - 0.9) <= SE * (0.9 * 0.1 / N) ** 0.5
    # The m-th smallest of K uniforms is Beta(m, K + 1 - m): what the narrower interval holds, by quadrature.
    m = round((K + 1) * 0.05)
    end = scipy.stats.beta(m, K + 1 - m)
    below = end.expect(lambda u: scipy.stats.norm.cdf(0.5 * scipy.stats.norm.ppf(u)))
    expected = 1 - 2 * below
    assert abs(narrow - expected) <= SE * (expected * (1 - expected) / N) ** 0.5


@pytest.mark.parametrize("rate", [0.05, 0.7, 5.0])
def test_coverage_of_counts(rate):
    """Ties, at any rate: the mean over data is the level, and counts that vary too little fall short of it."""
    torch.manual_seed(0)
    N = 20_000
    true, draws = torch.poisson(torch.full((N,), rate)), torch.poisson(torch.full((19, N), rate))
    assert abs(float(interval_coverage(draws, true, 0.9)) - 0.9) <= SE * (0.9 * 0.1 / N) ** 0.5
    assert interval_coverage(draws.clamp_max(draws.median()), true, 0.9) < 0.88


@pytest.mark.parametrize(("K", "level", "m"), [(3, 0.5, 1), (4, 0.6, 1), (4, 0.2, 2)])
def test_coverage_with_ties_is_exactly_the_level(K, level, m):
    """All outcomes of a truth and K draws of a distribution with ties, all equally likely: 1/4, 1/4 and 1/2."""
    outcomes = torch.cartesian_prod(*[torch.tensor([0, 1, 2, 2])] * (K + 1))
    true, draws = outcomes[:, 0], outcomes[:, 1:].T
    assert float(interval_coverage(draws, true, level)) == pytest.approx(level, abs=1e-12)
    # One outcome at a time, by the orders in which the ties may be broken.
    orders = torch.cartesian_prod(*[torch.arange(K + 1.0)] * (K + 1))
    orders = orders[[len(set(row)) == K + 1 for row in orders.tolist()]] / 100
    for t, d in zip(true[:64], draws.T[:64], strict=True):
        ranks = (d + orders[:, 1:] < (t + orders[:, 0])[:, None]).sum(1)
        wanted = ((ranks >= m) & (ranks <= K - m)).double().mean()
        assert float(interval_coverage(d[:, None], t[None], level)) == pytest.approx(float(wanted), abs=1e-12)


@pytest.mark.parametrize(
    ("draws", "level", "message"),
    [
        (torch.full((3, 5), torch.nan), 0.5, "draws: expected values that can be ranked; got 15 of 15 NaN"),
        (torch.zeros(3, 4), 0.9, "draws and true: expected shapes"),
        (torch.zeros(20, 5), 0.9, "draws: expected as many that .* K = 20"),
        (torch.zeros(3, 5), 1.0, "level: expected a number between 0 and 1; got 1.0"),
    ],
)
def test_bad_coverage(draws, level, message):
    with pytest.raises(InputError, match=message):
        interval_coverage(draws, torch.zeros(5), level)
