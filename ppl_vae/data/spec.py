"""What a data set is, apart from its numbers: shapes, support, binarisation, classes, grey levels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Support = Literal["real", "unit", "binary"]
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
    support : {"real", "unit", "binary"}
        Where the x that one sees lies: the real line, [0, 1], or {0, 1}.
    binarization : {"none", "fixed", "dynamic"}
        How grey values became binary; see `BINARIZATIONS`.
    image_shape : (channels, height, width), optional
        How to lay one x out as a picture.
    num_classes : int, optional
        Number C of classes of y, labelled 0..C-1.
    levels : int, optional
        Number of values a coordinate takes, evenly spaced in [0, 1]: 2 for binary x, 256 for grey pixels of one byte.
    """

    name: str
    x_shape: tuple[int, ...]
    support: Support = "real"
    binarization: Binarization = "none"
    image_shape: tuple[int, int, int] | None = None
    num_classes: int | None = None
    levels: int | None = None

    @property
    def x_dim(self) -> int:
        """Number D of coordinates of one x."""
        return math.prod(self.x_shape)

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
