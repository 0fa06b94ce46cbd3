"""Small fits in run folders, and what a folder and a pair hold."""

from __future__ import annotations

import torch
from pairs import PAIRS

import ppl_vae
from ppl_vae import Pair
from ppl_vae.data import Dataset, Spec, Split


def ours():
    """A pair of the library's own, which a folder can rebuild."""
    return Pair(*PAIRS["ppca-linear"].build())


def data():
    x = PAIRS["ppca-linear"].batch(30)["x"]
    spec = Spec("small", (x.shape[1],))
    return Dataset(
        Split({"x": x[:20]}, spec), Split({"x": x[20:]}, spec, role="validation"), Split({"x": x[20:]}, spec)
    )


def fit(folder, mine=None, given=None, **options):
    options = {"epochs": 2, "batch_size": 8, "progress": False, "compile": "off", "checkpoint_seconds": 0} | options
    return ppl_vae.fit(ours() if mine is None else mine, data() if given is None else given, run_dir=folder, **options)


def state(mine):
    return {name: tensor.clone() for name, tensor in mine.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
