"""Digits against scikit-learn's own reading and split of them."""

import numpy as np
import pytest
import torch

import ppl_vae.data as data
from ppl_vae.data.sets import digits


@pytest.fixture(scope="module")
def table():
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


@pytest.mark.slow
def test_images_and_labels_are_scikit_learn_s(table, monkeypatch):
    for file in (digits._FILE, "sklearn/datasets/data/of_another_version.csv.gz"):
        monkeypatch.setattr(digits, "_FILE", file)
        for found, wanted in zip(digits._read(), table, strict=True):
            assert found.dtype == wanted.dtype
            assert np.array_equal(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("state", [0, 1, 17, 2**31, 2**32 - 1])
@pytest.mark.parametrize("held_out", [10, 180, 359, 1200])
def test_the_split_is_scikit_learn_s(table, state, held_out):
    from sklearn.model_selection import train_test_split

    labels = table[1]
    wanted = train_test_split(np.arange(len(labels)), test_size=held_out, stratify=labels, random_state=state)
    for found, rows in zip(digits._stratified(labels, held_out, state), wanted, strict=True):
        assert np.array_equal(found, rows)


def test_the_parts_are_disjoint_and_stratified():
    parts = data.load("digits", binarization="none").splits
    assert {role: split.size for role, split in parts.items()} == {"train": 1437, "validation": 180, "test": 180}
    rows = torch.cat([split["x"] for split in parts.values()])
    assert len(torch.unique(rows, dim=0)) == len(rows)
    share = torch.bincount(torch.cat([split["y"] for split in parts.values()])) / len(rows)
    for split in parts.values():
        assert (torch.bincount(split["y"]) - share * split.size).abs().max() <= 1
