"""What the outsiders' programs have in common: a table's row, data, and a plain model and guide to put a part into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

ROWS, D, L, T = 24, 6, 2, 5


# -- data, 24 rows each -----------------------------------------------------------------------------------------------


def real() -> dict[str, Tensor]:
    """x (N, 6), of both signs and some spread."""
    generator = torch.Generator().manual_seed(1)
    return {"x": 1.5 * torch.randn(ROWS, D, generator=generator)}


def binary() -> dict[str, Tensor]:
    """x (N, 6) of zeros and ones."""
    return {"x": (real()["x"] > 0.3).float()}


def counts() -> dict[str, Tensor]:
    """x (N, 6), and a whole number n (N,) from 1 to 4."""
    generator = torch.Generator().manual_seed(2)
    return real() | {"n": torch.randint(1, 5, (ROWS,), generator=generator)}


def masked() -> dict[str, Tensor]:
    """x (N, 6), and a mask m (N,) of which a batch has now more, now fewer."""
    generator = torch.Generator().manual_seed(3)
    return real() | {"m": torch.rand(ROWS, generator=generator) < 0.6}


def pictures() -> dict[str, Tensor]:
    """x (N, 1, 6, 6)."""
    generator = torch.Generator().manual_seed(4)
    return {"x": torch.randn(ROWS, 1, 6, 6, generator=generator)}


def sequences() -> dict[str, Tensor]:
    """x (N, 5, 2), and lengths n (N,) from 1 to 4."""
    generator = torch.Generator().manual_seed(5)
    return {"x": torch.randn(ROWS, T, 2, generator=generator), "n": counts()["n"]}


def only_x(data: Callable[[], dict[str, Tensor]]) -> Callable[[], dict[str, Tensor]]:
    """Return the same without what stands beside x."""
    return lambda: {"x": data()["x"]}


# -- rows of the table ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A program somebody wrote.

    Attributes
    ----------
    make : callable
        Its model and guide, made anew.
    data : callable
        What it is for.
    outside : bool
        It draws or counts outside torch's random state, parameters and buffers, so that no two runs need agree: where
        that shows in a number, it must run eagerly and say so.
    recorded : bool or "fit"
        Ordinary torch and Pyro, which must be run from a recording; ``"fit"``: in a fit alone, as it moves buffers.
    ais, fused : bool
        Whether it is also annealed, and also compiled by Inductor.
    dtype : {"float64", "float32"}
        What it is run in; some layers have kernels of their own in float32.
    """

    make: Callable[[], tuple[Any, Any]]
    data: Callable[[], dict[str, Tensor]] = real
    outside: bool = False
    recorded: bool | str = False
    ais: bool = False
    fused: bool = False
    dtype: str = "float64"


# -- a model and a guide with a part to put in ------------------------------------------------------------------------


def encoder(inputs: int = D) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 2 * L))


def decoder(outputs: int = D) -> nn.Module:
    return nn.Sequential(nn.Linear(L, 8), nn.Tanh(), nn.Linear(8, outputs))


class Model(PyroModule):
    """p(z) = N(0, I), p(x|z) = N(network(z), noise^2)."""

    def __init__(self, network: nn.Module | None = None, shape: tuple[int, ...] = (D,)) -> None:
        super().__init__()
        self.network = network or decoder()
        self.shape = shape
        self.register_buffer("zero", torch.zeros(L))

    def noise(self, x: Tensor | None) -> Any:
        return 0.5

    def forward(self, x=None, size=None, **unused):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            loc = self.network(z)
            return pyro.sample("x", dist.Normal(loc, self.noise(x)).to_event(len(self.shape)), obs=x)


class Guide(PyroModule):
    """q(z|x) = N(m, s^2) with (m, log s) = network(x)."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network or encoder()

    def encode(self, x: Tensor) -> Tensor:
        return self.network(x)

    def forward(self, x=None, size=None, **unused):
        with pyro.plate("data", len(x), dim=-1):
            mean, log_scale = self.encode(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.tanh().exp()).to_event(1))


class Reshaped(nn.Module):
    """A network whose last dimension is folded into a shape."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.shape = network, shape

    def forward(self, z: Tensor) -> Tensor:
        out = self.network(z)
        return out.reshape(*out.shape[:-1], *self.shape)


def sequence_model() -> Model:
    """Return a plain model of sequences (5, 2)."""
    return Model(Reshaped(decoder(T * 2), (T, 2)), (T, 2))


def picture_model() -> Model:
    """Return a plain model of pictures (1, 6, 6)."""
    return Model(Reshaped(decoder(36), (1, 6, 6)), (1, 6, 6))


def encoding(network: Callable[[], nn.Module], model: Callable[[], Model] = Model) -> Callable[[], tuple[Any, Any]]:
    """Return a program whose guide has this network."""
    return lambda: (model(), Guide(network()))


def decoding(network: Callable[[], nn.Module]) -> Callable[[], tuple[Any, Any]]:
    """Return a program whose model has this network."""
    return lambda: (Model(network()), Guide())


def guided(guide: Callable[[], nn.Module], model: Callable[[], Model] = Model) -> Callable[[], tuple[Any, Any]]:
    """Return a program with this guide."""
    return lambda: (model(), guide())


def modelled(model: Callable[[], nn.Module], guide: Callable[[], Any] = Guide) -> Callable[[], tuple[Any, Any]]:
    """Return a program with this model."""
    return lambda: (model(), guide())
