"""Splits, specs, digests and binarisation."""

import json
import random

import numpy as np
import pytest
import torch

import ppl_vae.data as data
from ppl_vae.core.errors import InputError
from ppl_vae.data.spec import Spec


@pytest.fixture(scope="module")
def dynamic():
    return data.load("digits", binarization="dynamic")


def test_spec_survives_json():
    spec = data.load("digits").spec
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.x_dim == 64
    assert Spec("a", (3, 4, 5)).x_dim == 60


@pytest.mark.parametrize(
    ("how", "support", "levels"), [("fixed", "binary", 2), ("dynamic", "binary", 2), ("none", "unit", 17)]
)
def test_what_one_sees_lies_in_the_support_that_the_spec_claims(how, support, levels):
    digits = data.load("digits", binarization=how)
    assert (digits.spec.support, digits.spec.binarization, digits.spec.levels) == (support, how, levels)
    for split in digits.splits.values():
        grid = torch.arange(levels) / (levels - 1)
        assert torch.isin(split["x"], grid).all()
        assert split["x"].dtype == torch.float32
        assert split["y"].dtype == torch.int64


def test_dynamic_draws_differ_each_time_and_what_one_sees_does_not(dynamic):
    train = dynamic.train
    before = train["x"].clone()
    first, second = train.batch()["x"], train.batch()["x"]
    assert not torch.equal(first, second)
    assert torch.equal(train["x"], before)
    assert torch.equal(train["x"], data.load("digits", binarization="dynamic").train["x"])
    one, two = (train.batch(generator=torch.Generator().manual_seed(3))["x"] for _ in range(2))
    assert torch.equal(one, two)


def test_mean_of_dynamic_draws_is_the_intensity_within_standard_errors(dynamic):
    grey = data.load("digits", binarization="none").train
    assert torch.equal(grey["y"], dynamic.train["y"])  # the split does not depend on the binarisation
    p = grey["x"].double()
    draws, generator = 200, torch.Generator().manual_seed(1)
    mean = sum(dynamic.train.batch(generator=generator)["x"].double() for _ in range(draws)) / draws
    certain = (p == 0) | (p == 1)
    assert torch.equal(mean[certain], p[certain])
    z = ((mean - p) / (p * (1 - p) / draws).sqrt())[~certain]
    n = len(z)
    assert abs(z.mean()) < 4 / n**0.5
    assert abs(z.square().mean() - 1) < 4 * (2 / n) ** 0.5


def test_fixed_and_visible_dynamic_draw_have_the_mean_of_the_grey_values(dynamic):
    p = data.load("digits", binarization="none").train["x"].double()
    standard_error = (p * (1 - p)).sum().sqrt()
    for split in (dynamic.train, data.load("digits").train):
        assert abs(split["x"].double().sum() - p.sum()) < 4 * standard_error


def test_a_batch_takes_the_rows_of_an_index(dynamic):
    index = torch.tensor([5, 2, 9])
    fixed = data.load("digits").train
    assert torch.equal(fixed.batch(index)["x"], fixed["x"][index])
    assert torch.equal(fixed.batch(slice(2, 4))["y"], fixed["y"][2:4])
    assert torch.equal(fixed.batch()["x"], fixed["x"])
    assert torch.equal(fixed.draw(index)["x"], fixed.batch(index)["x"])  # by its former name
    rows = dynamic.train.batch(index)
    assert rows["x"].shape == (3, 64)
    assert torch.equal(rows["y"], dynamic.train["y"][index])
    grey = data.load("digits", binarization="none").train["x"][index]
    assert (rows["x"][grey == 0] == 0).all()
    assert (rows["x"][grey == 1] == 1).all()


def test_to_changes_the_type_of_floating_tensors_only_and_keeps_the_draw_and_the_digest(dynamic):
    double = dynamic.test.to(dtype=torch.float64)
    assert double["x"].dtype == torch.float64
    assert double["y"].dtype == torch.int64
    assert double.batch()["x"].dtype == torch.float64
    assert torch.equal(double["x"].float(), dynamic.test["x"])
    assert double.digest == dynamic.test.digest


def test_take(dynamic):
    test = dynamic.test
    assert torch.equal(test.take(7)["x"], test["x"][:7])
    some, again, other = test.take(50, seed=1), test.take(50, seed=1), test.take(50, seed=2)
    assert some.size == 50
    assert torch.equal(some["x"], again["x"])
    assert not torch.equal(some["x"], other["x"])
    assert len(some.batch()["x"]) == 50
    everything = test.take(test.size, seed=3)
    assert sorted(map(tuple, everything["x"].tolist())) == sorted(map(tuple, test["x"].tolist()))
    with pytest.raises(InputError, match=r"n: expected 1 to 180, the rows of this split; got 181"):
        test.take(181)


def test_digest_tells_data_apart():
    loaded = {how: data.load("digits", binarization=how) for how in ("fixed", "dynamic", "none")}
    digests = [split.digest for each in loaded.values() for split in each.splits.values()]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 12 and int(digest, 16) >= 0 for digest in digests)
    assert data.load("digits").test.digest == loaded["fixed"].test.digest
    assert data.load("digits", seed=1).test.digest != loaded["fixed"].test.digest
    assert loaded["fixed"].test.take(5).digest != loaded["fixed"].test.digest
    x = torch.arange(6.0)
    assert data.as_split({"x": x.view(2, 3)}).digest != data.as_split({"x": x.view(3, 2)}).digest


def test_splits_do_not_overlap_and_cover_everything():
    grey = data.load("digits", binarization="none")
    assert [split.size for split in grey.splits.values()] == [1437, 180, 180]
    rows = torch.cat([split["x"] for split in grey.splits.values()])
    from sklearn.datasets import load_digits

    assert sorted(map(tuple, (rows * 16).tolist())) == sorted(map(tuple, load_digits().data.tolist()))
    for split in grey.splits.values():  # stratified: each digit within two rows of its share
        counts = torch.bincount(split["y"], minlength=10)
        share = torch.bincount(torch.cat([part["y"] for part in grey.splits.values()])) * split.size / 1797
        assert (counts - share).abs().max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "sprites", "linear-gaussian"])
def test_same_seed_same_numbers_and_the_global_generators_stay_untouched(name):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    one, two, other = (data.load(name, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]
    for role, split in one.splits.items():
        assert split.digest == two.splits[role].digest
        assert split.digest != other.splits[role].digest


def test_a_split_is_a_mapping_equal_to_itself_only():
    split = data.load("digits").test
    assert list(split) == ["x", "y"]
    assert dict(**split).keys() == {"x", "y"}
    assert split == split
    assert split != split.take(split.size)
    assert "digits test: x (180, 64), y (180,); binary, binarization fixed" in repr(split)


def test_names_have_one_line_each():
    names = data.names()
    generated, read = (
        {"digits", "sprites", "linear-gaussian"},
        {"mnist", "binarized-mnist", "omniglot", "frey", "dsprites", "hands-nyu", "hands-icvl"},
    )
    assert set(names) == generated | read
    assert all(line and "\n" not in line for line in names.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "minst"}, "unknown data set: expected one of .*; got 'minst'; try 'mnist'"),
        ({"binarization": "dynamics"}, "unknown binarization: expected one of .*; got 'dynamics'; try 'dynamic'"),
        (
            {"name": "linear-gaussian", "binarization": "fixed"},
            "binarization of linear-gaussian: expected 'none'; got 'fixed'",
        ),
        (
            {"name": "binarized-mnist", "binarization": "dynamic"},
            "binarization of binarized-mnist: expected 'fixed'; got 'dynamic'",
        ),
        ({"size": 16}, "options of digits: expected none; got 'size'"),
        (
            {"name": "sprites", "sise": 16},
            "unknown option of sprites: expected one of num_rows, size; got 'sise'; try 'size'",
        ),
        ({"name": "sprites", "size": 4}, "size: expected a whole number >= 8; got 4"),
        ({"name": "linear-gaussian", "latent_dim": 11}, "latent_dim: expected a whole number from 1 to 10; got 11"),
        ({"name": "linear-gaussian", "scale": 0}, "scale: expected a number above 0; got 0"),
        ({"seed": -1}, "seed: expected a whole number >= 0; got -1"),
        ({"seed": 0.5}, "seed: expected a whole number >= 0; got 0.5"),
    ],
)
def test_bad_requests_get_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        data.load(**arguments)
    assert "\n" not in str(caught.value)


def test_binarising_twice_or_real_data_is_refused():
    with pytest.raises(
        InputError, match=r"binarization of digits: expected grey values; got x that is binarised already"
    ):
        data.binarize(data.load("digits"), "dynamic")
    with pytest.raises(
        InputError, match=r"binarization of linear-gaussian: expected grey values in .0, 1.; got real-valued x"
    ):
        data.binarize(data.load("linear-gaussian"), "fixed")


def test_intensities_belong_to_dynamic_binarisation():
    split = data.load("digits").test
    with pytest.raises(InputError, match=r"intensities: expected grey values exactly under dynamic binarisation"):
        data.Split(split, split.spec, intensities=split["x"])


def test_draws_happen_where_the_tensors_lie():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    there = data.load("digits", binarization="dynamic").test.to("cuda")
    assert there.batch(torch.tensor([0, 1], device="cuda"))["x"].device.type == "cuda"
    assert there.digest == there.to("cpu").digest
