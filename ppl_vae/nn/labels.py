"""Labels y of a part of the data, told by a boolean mask: what a program does with them, and what they may be.

A known label is a noise-free observation of the class, p(y, label) = p(label) 1[y = label]: given it, the class is a
point at the label, under the model and under any guide (Kingma et al. 2014, section 3.1.2).
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import batch_size
from ppl_vae.nn.conditioning import Condition

#: log 0 for a class that a label rules out: finite, so that zero times it is zero, and low enough that exp of it is 0.
LOG_ZERO = -1e4


class PartialLabels(Condition):
    """Labels 0..C-1, all of them known, those where a mask is True, or none. What a False hides does not matter.

    Parameters
    ----------
    num_classes : int
        C.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes=num_classes, name="y")

    def rows(
        self, y: Tensor | None, labelled: Tensor | None, x: Tensor | None, x_shape: tuple[int, ...], size: int | None
    ) -> int:
        """Return B, which labels y (B,), their mask (B,), x (B, *x_shape) and `size` must agree on where given."""
        self._check_mask(y, labelled)
        return batch_size(x, x_shape, size) if y is None else self.batch_size(y, x, x_shape, size)

    def known(self, logits: Tensor, y: Tensor, labelled: Tensor | None) -> Tensor:
        """Return logits (…, B, C) of a class, those given, or a point at its label y (B,) where that is known."""
        point = LOG_ZERO * (1 - self(_shown(y, labelled)))
        return point if labelled is None else torch.where(labelled.unsqueeze(-1), point, logits)

    def log_prob(self, logits: Tensor, y: Tensor, labelled: Tensor | None) -> Tensor:
        """Return the log probability (…, B) of labels y (B,) by logits (…, B, C) or (C,); zero where not known."""
        log_q = (logits.log_softmax(-1) * self(_shown(y, labelled))).sum(-1)
        return log_q if labelled is None else log_q * labelled

    def check_partial(self, y: Tensor | None, labelled: Tensor | None) -> None:
        """Raise `InputError` for a mask of another type or shape than that of y, or a known label out of range."""
        self._check_mask(y, labelled)
        if y is not None:
            self.check_values(_shown(y, labelled))

    def warn_of_missing(self, y: Tensor | None, labelled: Tensor | None) -> None:
        """Warn of classes that no label shows, of data without labels, and of a mask that hides none."""
        known = [] if y is None else (y if labelled is None else y[labelled]).tolist()
        if not known:
            _warn("labels", "some, to say which class is which", "none: y is the component of a mixture", "labelled=…")
            return
        if labelled is not None and bool(labelled.all()):
            _warn("labelled", "a label that is hidden", "none", "the data without the mask, which sums over no class")
        if missing := ", ".join(str(k) for k in sorted(set(range(self.size)) - set(known))):
            _warn("labels", f"some of each class 0 to {self.size - 1}", f"none of {missing}", "other labels, or more")

    def quantity(self, y: Tensor | None, labelled: Tensor | None) -> str:
        """Return what the log likelihood of data with such labels is of, in words."""
        count, size = (0, 1) if y is None else (len(y) if labelled is None else int(labelled.sum()), len(y))
        if 0 < count < size:
            return f"log p(x), or log p(x, y) for the {count:,} labelled"
        return "log p(x, y)" if count else "log p(x)"

    def _check_mask(self, y: Tensor | None, labelled: Tensor | None) -> None:
        if labelled is None:
            return
        if y is None:
            raise InputError("labelled", expected="labels y that it is the mask of", got="none", hint="y=…, or no mask")
        if labelled.dtype != torch.bool:
            raise InputError("labelled", expected="a boolean mask", got=str(labelled.dtype), hint="labelled.bool()")
        if labelled.shape != y.shape:
            got = str(tuple(labelled.shape))
            raise InputError("labelled", expected=f"a mask of shape {tuple(y.shape)}, as y", got=got)


def _shown(y: Tensor, labelled: Tensor | None) -> Tensor:
    """Return the labels, with a class in the place of whatever stands where none is known."""
    return y if labelled is None else y.where(labelled, torch.zeros_like(y))


def _warn(what: str, expected: str, got: str, hint: str) -> None:
    warnings.warn(f"{what}: expected {expected}; got {got}; try {hint}", stacklevel=4)
