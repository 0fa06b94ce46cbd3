"""Data that need no file of ours: scikit-learn's digits, and linear-Gaussian data whose log p(x) is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ppl_vae.core.checks import LARGEST, integer_at_least, positive
from ppl_vae.data.seeding import generator
from ppl_vae.data.spec import Spec
from ppl_vae.data.split import Dataset, Role, Split


def digits(seed: int = 0) -> Dataset:
    """Return scikit-learn's 1797 digits in grey: 1437, 180 and 180, stratified by digit, drawn by `seed`.

    Alpaydin & Kaynak (1998). x (N, 64) in {0, 1/16, .., 1}, y the digit.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    state = int(torch.randint(2**32, (), generator=generator(seed, "split"), device="cpu"))
    rest, test = train_test_split(np.arange(len(labels)), test_size=180, stratify=labels, random_state=state)
    train, validation = train_test_split(rest, test_size=180, stratify=labels[rest], random_state=state)
    x, y = torch.from_numpy(images / 16).float(), torch.from_numpy(labels).long()
    spec = Spec("digits", (64,), "unit", image_shape=(1, 8, 8), num_classes=10, levels=17)
    parts: dict[Role, np.ndarray] = {"train": train, "validation": validation, "test": test}
    return Dataset(*(Split({"x": x[rows], "y": y[rows]}, spec, role=role) for role, rows in parts.items()))


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """p(z) = N(0, I), p(x|z) = N(Wz + b, s^2 I), so that p(x) = N(b, WW' + s^2 I) (Tipping & Bishop 1999, eq. 6).

    Parameters
    ----------
    W : Tensor (D, L), float64
        Loadings.
    b : Tensor (D,), float64
        Mean.
    s : float
        Standard deviation of the noise.
    """

    W: Tensor
    b: Tensor
    s: float

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the exact log p(x) (N,) in nats of rows x (N, D)."""
        covariance = self.W @ self.W.T + self.s**2 * torch.eye(len(self.b), dtype=self.W.dtype, device="cpu")
        return MultivariateNormal(self.b, covariance).log_prob(x.to(self.W))

    def sample(self, size: int, generator: torch.Generator | None = None) -> Tensor:
        """Return `size` rows (size, D) of x."""
        D, L = self.W.shape
        z = torch.randn(size, L, generator=generator, dtype=self.W.dtype, device="cpu")
        noise = torch.randn(size, D, generator=generator, dtype=self.W.dtype, device="cpu")
        return z @ self.W.T + self.b + self.s * noise


def linear_gaussian(
    seed: int = 0, *, num_rows: int = 10_000, x_dim: int = 10, latent_dim: int = 2, scale: float = 0.5
) -> Dataset:
    """Return draws of a random linear-Gaussian model, 80/10/10; the model itself is `Dataset.truth`.

    W_dl ~ N(0, 1/L), b ~ N(0, I), both drawn by `seed`; ``truth.log_prob(x)`` is the exact log p(x).

    Parameters
    ----------
    seed : int
        Seed of the model and the draws.
    num_rows : int
        Number of rows in all, at least 10.
    x_dim, latent_dim : int
        D and L, with L <= D.
    scale : float
        Standard deviation s of the noise, above 0.

    Raises
    ------
    InputError
        If an option is out of range.
    """
    num_rows, x_dim = check_count("num_rows", num_rows, 10), check_count("x_dim", x_dim, 1)
    latent_dim, scale = check_count("latent_dim", latent_dim, 1, x_dim), positive("scale", scale, "a number above 0")
    random = generator(seed, "linear-gaussian")
    W = torch.randn(x_dim, latent_dim, generator=random, dtype=torch.float64, device="cpu") / math.sqrt(latent_dim)
    b = torch.randn(x_dim, generator=random, dtype=torch.float64, device="cpu")
    truth = LinearGaussian(W, b, scale)
    x = truth.sample(num_rows, random).float()
    return eighty_ten_ten({"x": x}, Spec("linear-gaussian", (x_dim,)), truth)


def eighty_ten_ten(tensors: dict[str, Tensor], spec: Spec, truth: object = None) -> Dataset:
    """Return rows that are exchangeable already as consecutive train, validation and test part."""
    size = len(tensors["x"])
    held_out = size // 10
    bounds: dict[Role, slice] = {
        "train": slice(0, size - 2 * held_out),
        "validation": slice(size - 2 * held_out, size - held_out),
        "test": slice(size - held_out, size),
    }
    splits = (
        Split({name: tensor[rows] for name, tensor in tensors.items()}, spec, role=role)
        for role, rows in bounds.items()
    )
    train, validation, test = splits
    return Dataset(train, validation, test, truth)


def check_count(name: str, value: Any, least: int, most: int = LARGEST) -> int:
    """Return `value` as an int; raise unless it is a whole number in its range."""
    expected = f"a whole number >= {least}" if most == LARGEST else f"a whole number from {least} to {most}"
    return integer_at_least(name, value, least, expected=expected, maximum=most)
