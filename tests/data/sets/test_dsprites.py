"""Real dSprites, from files made here in the form of the published one and of the smaller one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ppl_vae import InputError, data
from ppl_vae.data import FACTORS, draw_sprites

COUNTS = [len(values) for values in FACTORS.values()]


def pictures(index):
    columns = zip(FACTORS.values(), np.unravel_index(index, COUNTS), strict=True)
    factors = torch.stack([torch.tensor(values)[column] for values, column in columns], 1)
    return draw_sprites(factors, 64).numpy().astype(np.uint8), factors


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    (tmp_path / "dsprites").mkdir()
    return tmp_path / "dsprites"


@pytest.fixture
def small(folder):
    random = np.random.default_rng(0)
    grid = random.choice(math.prod(COUNTS), 60, replace=False)
    other = np.concatenate([random.choice(math.prod(COUNTS), 30, replace=False), grid[:10]])
    held = {}
    for name, index in (("grid", grid), ("random", other)):
        held |= {f"{name}_images": np.packbits(pictures(index)[0], axis=1), f"{name}_original_index": index}
    np.savez(folder / "dsprites_small.npz", **held)
    return len(np.unique(np.concatenate([grid, other])))


def test_images_and_factors_belong_together_and_none_comes_twice(small):
    found = data.load("dsprites", num_rows=small)
    x, factors = (torch.cat([split[name] for split in found.splits.values()]) for name in ("x", "factors"))
    assert x.shape == (small, 4096)
    assert torch.equal(x, draw_sprites(factors, 64))
    assert len(factors.unique(dim=0)) == small
    assert torch.equal(found.train["y"], found.train["factors"][:, 0].long())
    assert found.spec.image_shape == (1, 64, 64)


def test_the_choice_of_images_is_seeded(small):
    one, two, other = (data.load("dsprites", num_rows=20, seed=s).train["factors"] for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_what_is_missing_or_damaged_is_reported_in_one_line(folder, monkeypatch, tmp_path):
    monkeypatch.setattr("ppl_vae.data.store.cache", lambda: tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"dsprites/dsprites_ndarray.*expected a file of this name; got none; try put"):
        data.load("dsprites")
    (folder / "dsprites_small.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="expected a readable dSprites file; got not a zip archive"):
        data.load("dsprites")


def test_no_more_rows_than_there_are(small):
    with pytest.raises(InputError, match=r"num_rows: .* got 1000"):
        data.load("dsprites", num_rows=1000)


def test_the_published_file_must_be_whole(folder):
    np.savez(folder / "dsprites_ndarray_co1sh3sc6or40x32x32_64x64.npz", imgs=np.zeros((4, 64, 64), np.uint8))
    with pytest.raises(InputError, match="got 4 images"):
        data.load("dsprites")
