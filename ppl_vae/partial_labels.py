"""Labels y of a part of the data, told by a boolean mask: what a program does with them, and what they may be.

A known label is a noise-free observation of the class. So for a labelled datum p(y, label) is p(y) where y is the label
and zero elsewhere, and the posterior of y is a point at the label (Kingma et al. 2014, section 3.1.2).
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ppl_vae.conditions import Condition
from ppl_vae.errors import InputError
from ppl_vae.shapes import batch_size

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

    def log_agreement(self, code: Tensor, y: Tensor, labelled: Tensor | None) -> Tensor:
        """Return log p(label | class), zero or `LOG_ZERO`, for one-hot classes (…, C) and labels y (B,): shape (…)."""
        differs = 1 - (code * self(y)).sum(-1)
        return LOG_ZERO * (differs if labelled is None else differs * labelled)

    def known(self, logits: Tensor, y: Tensor, labelled: Tensor | None) -> Tensor:
        """Return the logits (…, B, C) of a class, a point at its label y (B,) where that is known."""
        point = LOG_ZERO * (1 - self(y))
        return point if labelled is None else torch.where(labelled.unsqueeze(-1), point, logits)

    def log_prob(self, logits: Tensor, y: Tensor, labelled: Tensor | None) -> Tensor:
        """Return log q(label), shape (…, B), by logits (…, B, C) of it; zero where it is not known."""
        log_q = (logits.log_softmax(-1) * self(y)).sum(-1)
        return log_q if labelled is None else log_q * labelled

    def check_partial(self, y: Tensor | None, labelled: Tensor | None) -> None:
        """Raise `InputError` for a mask of another type or shape than that of y, or a known label out of range."""
        self._check_mask(y, labelled)
        if y is not None:
            self.check_values(y if labelled is None else y.where(labelled, torch.zeros_like(y)))

    def warn_of_missing(self, y: Tensor, labelled: Tensor) -> None:
        """Warn of classes that no label shows, of data without labels, and of a mask that hides none."""
        if not bool(labelled.any()):
            warnings.warn("no datum is labelled: y becomes the component of a mixture, in any order", stacklevel=3)
            return
        if bool(labelled.all()):
            warnings.warn("every datum is labelled: without the mask, the same fit sums over no class", stacklevel=3)
        seen = set(y[labelled].tolist())
        if missing := ", ".join(str(k) for k in range(self.size) if k not in seen):
            warnings.warn(f"no label shows class {missing}: expected some of each; got none", stacklevel=3)

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
