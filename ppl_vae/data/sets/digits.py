"""Handwritten digits that come with scikit-learn, which itself is not imported for them: that takes over a second.

The split is that of scikit-learn's `train_test_split`, number for number.
"""

from __future__ import annotations

from importlib.metadata import distribution

import numpy as np
import torch

from ppl_vae.data.seeding import generator
from ppl_vae.data.spec import Spec
from ppl_vae.data.split import Dataset, Role, Split

_FILE = "sklearn/datasets/data/digits.csv.gz"


def digits(seed: int = 0) -> Dataset:
    """Return scikit-learn's 1797 digits in grey: 1437, 180 and 180, stratified by digit, drawn by `seed`.

    Alpaydin & Kaynak (1998). x (N, 64) in {0, 1/16, .., 1}, y the digit.
    """
    images, labels = _read()
    state = int(torch.randint(2**32, (), generator=generator(seed, "split"), device="cpu"))
    rest, test = _stratified(labels, 180, state)
    train, validation = (rest[rows] for rows in _stratified(labels[rest], 180, state))
    x, y = torch.from_numpy(images / 16).float(), torch.from_numpy(labels).long()
    spec = Spec("digits", (64,), "unit", image_shape=(1, 8, 8), num_classes=10, levels=17)
    parts: dict[Role, np.ndarray] = {"train": train, "validation": validation, "test": test}
    return Dataset(*(Split({"x": x[rows], "y": y[rows]}, spec, role=role) for role, rows in parts.items()))


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Return images (1797, 64), 0 to 16, and labels (1797,)."""
    path = distribution("scikit-learn").locate_file(_FILE)
    try:
        table = np.loadtxt(str(path), delimiter=",")
    except FileNotFoundError:  # a scikit-learn that keeps it elsewhere
        from sklearn.datasets import load_digits

        return load_digits(return_X_y=True)
    return table[:, :-1], table[:, -1].astype(int)


def _stratified(labels: np.ndarray, held_out: int, state: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that are kept, and the `held_out` others, both with the classes in the shares that all have."""
    random = np.random.RandomState(state)
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = _shares(counts, len(labels) - held_out, random)
    others = _shares(counts - kept, held_out, random)
    found: tuple[list[int], list[int]] = ([], [])
    for i, rows in enumerate(np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])):
        rows = rows[random.permutation(counts[i])]
        found[0].extend(rows[: kept[i]])
        found[1].extend(rows[kept[i] : kept[i] + others[i]])
    return random.permutation(found[0]), random.permutation(found[1])


def _shares(counts: np.ndarray, size: int, random: np.random.RandomState) -> np.ndarray:
    """Return `size` as a sum over classes in proportion to `counts`: rounded down, then the largest remainders up."""
    exact = counts / counts.sum() * size
    shares = np.floor(exact)
    missing, remainders = int(size - shares.sum()), exact - shares
    for remainder in np.unique(remainders)[::-1]:
        if missing == 0:
            break
        (tied,) = np.where(remainders == remainder)
        raised = random.choice(tied, size=min(len(tied), missing), replace=False)
        shares[raised] += 1
        missing -= len(raised)
    return shares.astype(int)
