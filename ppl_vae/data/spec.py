"""What a data set is, apart from its numbers: shapes, support, binarisation, classes, grey levels, units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ppl_vae.core.shapes import check_event

Support = Literal["real", "unit", "binary", "count"]
Binarization = Literal["none", "fixed", "dynamic"]

#: ``none``: x as it is. ``fixed``: one seeded Bernoulli draw of the grey values, for good. ``dynamic``: a fresh draw
#: whenever a batch is drawn; what a split shows is one seeded draw.
BINARIZATIONS: tuple[Binarization, ...] = ("none", "fixed", "dynamic")


@dataclass(frozen=True)
class Spec:
    """Describe the data that a model is built for.

    Parameters
    ----------
    name : str
        Name of the data set.
    x_shape : tuple of int
        Event shape of x, without the leading data dimension. Built-in images are flat: ``(784,)``.
    support : {"real", "unit", "binary", "count"}
        Where the x that one sees lies: the real line, [0, 1], {0, 1}, or the whole numbers from 0 on.
    binarization : {"none", "fixed", "dynamic"}
        How grey values became binary; see `BINARIZATIONS`.
    image_shape : (channels, height, width), optional
        How to lay one x out as a picture.
    num_classes : int, optional
        Number C of classes of y, labelled 0..C-1.
    levels : int, optional
        Number of values a coordinate takes, evenly spaced in [0, 1]: 2 for binary x, 256 for grey pixels of one byte.
    columns : tuple of str, optional
        Names of the D coordinates, where x came with names.
    shift, scale : tuple of D floats, optional
        Of standardised data, x = (as given - shift) / scale by coordinate: mean and standard deviation of the training
        data. log p(x) is in the units of x; see `log_scale`.
    """

    name: str
    x_shape: tuple[int, ...]
    support: Support = "real"
    binarization: Binarization = "none"
    image_shape: tuple[int, int, int] | None = None
    num_classes: int | None = None
    levels: int | None = None
    columns: tuple[str, ...] | None = field(default=None, compare=False)  # names make no other model
    shift: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None

    @property
    def x_dim(self) -> int:
        """Number D of coordinates of one x."""
        return math.prod(self.x_shape)

    @property
    def log_scale(self) -> float:
        """Sum of log scale over coordinates, nats: log p(x as given) = log p(x) - log_scale; 0 if not standardised."""
        return math.fsum(map(math.log, self.scale or ()))

    @property
    def units(self) -> str:
        """What to say of a log p(x) of standardised data: in which units it is, and how to change to those given."""
        if self.scale is None:
            return ""
        sign = "-" if self.log_scale >= 0 else "+"
        return (
            f"x is standardised, and log p(x) is that of standardised x; in the units of the data as given, "
            f"log p = log p(x) {sign} {abs(self.log_scale):.3f} nats per datum (minus the sum of log scale)"
        )

    def standardise(self, x: Tensor) -> Tensor:
        """Return x (..., *x_shape), in the units the data were given in, standardised as they were, if they were."""
        if self.shift is None or self.scale is None:
            return x
        check_event("x", x, self.x_shape)
        return ((x.double() - self._number(self.shift, x)) / self._number(self.scale, x)).to(_floating(x))

    def restore(self, x: Tensor) -> Tensor:
        """Return standardised x (..., *x_shape) in the units the data were given in; `standardise` inverts it."""
        if self.shift is None or self.scale is None:
            return x
        check_event("x", x, self.x_shape)
        return (x.double() * self._number(self.scale, x) + self._number(self.shift, x)).to(_floating(x))

    def _number(self, values: tuple[float, ...], x: Tensor) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=x.device).reshape(self.x_shape)

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON holds it: plain numbers, strings and lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Spec:
        """Rebuild what `to_json` described."""
        arguments: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in description.items()
        }
        return cls(**arguments)


def _floating(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()
