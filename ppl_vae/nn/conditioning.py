"""Conditions as vectors for networks: a label as its one-hot code, or numbers flattened."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_shape, check_event
from ppl_vae.nn.mlp import MLP


class Condition(nn.Module):
    """Conditions c of one kind: labels, or vectors or images of numbers.

    Parameters
    ----------
    c_shape : int or tuple of int, optional
        Shape of one vector of attributes (a one-hot code, say) or of one image.
    num_classes : int, optional
        C, for labels 0..C-1. Exactly one of the two is given.
    name : str
        The argument's name, for errors.

    Attributes
    ----------
    size : int
        Length of the vector of one condition: C, or the product of `c_shape`.

    Raises
    ------
    InputError
        If both or neither are given, or a size is below one; when called, if c is missing, not of this kind, or, while
        Pyro's validation is on, a label out of range.
    """

    classes: Tensor

    def __init__(
        self, c_shape: int | Sequence[int] | None = None, num_classes: int | None = None, name: str = "c"
    ) -> None:
        super().__init__()
        self.name = name
        if (c_shape is None) == (num_classes is None):
            raise InputError(
                "condition",
                expected="num_classes, for labels, or c_shape, for vectors and images",
                got="neither" if c_shape is None else "both",
                hint="num_classes=10",
            )
        self.c_shape = () if c_shape is None else as_shape("c_shape", c_shape)
        classes = 0 if num_classes is None else integer_at_least("num_classes", num_classes, 1)
        self.size = classes or math.prod(self.c_shape)
        # Floating, so that the one-hot code has the type that the rest of the program was converted to.
        self.register_buffer("classes", torch.arange(float(classes)), persistent=False)

    def forward(self, c: Tensor | None) -> Tensor:
        """Return c (..., *c_shape), or labels c (...), as (..., size)."""
        given = self.given(c)
        if self.c_shape:
            return given.flatten(-len(self.c_shape))
        if poutine.util.is_validation_enabled():
            self._check_range(given)
        # By comparison: an index out of range would abort a GPU's kernel, and a check would wait for the device.
        return (given.unsqueeze(-1) == self.classes).to(self.classes.dtype)

    def through(self, network: nn.Module, h: Tensor, c: Tensor | None) -> Tensor:
        """Return network(h, c) for h (..., B, H) and c (B, *c_shape), one for all leading dimensions, or (..., B or 1).

        An `MLP` takes the two as separate inputs, any other network concatenated, (..., B, H + size).
        """
        code = self(c)
        rows = tuple(code.shape[:-1])
        if code.ndim <= h.ndim and rows != h.shape[h.ndim - code.ndim : -1] and not (code.ndim > 2 and rows[-1] == 1):
            raise InputError(self.name, expected=f"rows {tuple(h.shape[:-1])}, as z or x has", got=str(rows))
        if getattr(type(network), "forward", None) is MLP.forward:  # a subclass may take one input only
            return network(h, code)
        leading = torch.broadcast_shapes(h.shape[:-1], code.shape[:-1])
        return network(torch.cat((h.expand(*leading, -1), code.expand(*leading, -1)), -1))

    def check_values(self, **batch: Tensor) -> None:
        """Raise `InputError` for a label out of range, which a program cannot check while it is recorded."""
        if not self.c_shape:
            self._check_range(self.given(batch.get(self.name)))

    def extra_repr(self) -> str:
        """Return the kind, for `repr`."""
        return f"c_shape={self.c_shape}" if self.c_shape else f"num_classes={self.size}"

    def given(self, c: Tensor | None) -> Tensor:
        """Return c, or raise `InputError` unless it is there and of the right type and shape."""
        if c is None:
            kind = f"numbers of shape {self.c_shape}" if self.c_shape else f"labels 0 to {self.size - 1}"
            raise InputError(self.name, expected=f"{kind} to condition on", got="none", hint=f"{self.name}=…")
        if self.c_shape:
            if not c.is_floating_point():
                hint = f"{self.name}.float()"
                raise InputError(self.name, expected="floating-point numbers", got=str(c.dtype), hint=hint)
            check_event(self.name, c, self.c_shape)
        elif c.is_floating_point() or c.dtype == torch.bool:
            hint = f"{self.name}.long(), or c_shape=… for vectors of numbers"
            raise InputError(self.name, expected="whole-numbered labels", got=str(c.dtype), hint=hint)
        return c

    def _check_range(self, labels: Tensor) -> None:
        outside = ((labels < 0) | (labels >= self.size)).flatten()
        if bool(outside.any()):
            row = int(outside.nonzero()[0])
            got, hint = f"{int(labels.flatten()[row])} in row {row}", "counting classes from 0"
            raise InputError(self.name, expected=f"labels 0 to {self.size - 1}", got=got, hint=hint)
