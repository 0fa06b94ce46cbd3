"""Labels y of a part of the data, with a boolean mask: how a program uses them, and which values are valid.

A known label is a noise-free observation of the class, p(y, label) = p(label) 1[y = label]: given it, the class has all
its probability on the label, in the model and in any guide (Kingma et al. 2014, section 3.1.2).
"""

from __future__ import annotations

import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.core.checks import not_negative, one_of, positive
from ppl_vae.core.errors import InputError
from ppl_vae.nn.conditioning import Condition
from ppl_vae.nn.distributions.gumbel_softmax import GumbelSoftmax

CLASSES = ("enumerated", "sampled", "relaxed")

#: log 0 for a class other than the label: finite, so that zero times it is zero, and so low that exp of it is 0.
LOG_ZERO = -1e4


class PartialLabels(Condition):
    """Labels 0..C-1, all of them known, those where a mask is True, or none. Values where it is False are ignored.

    Parameters
    ----------
    num_classes : int
        C.
    one_hot : bool
        Whether the site y holds one-hot vectors (..., C), for a guide that relaxes them, rather than labels (...).
    """

    def __init__(self, num_classes: int, *, one_hot: bool = False) -> None:
        super().__init__(num_classes=num_classes, name="y")
        self.one_hot = one_hot

    def condition(self) -> Condition:
        """Return the `Condition` for values of the site y: these labels, or one-hot vectors."""
        return Condition(c_shape=self.size, name="y") if self.one_hot else self

    def observed(self, y: Tensor | None, labelled: Tensor | None) -> Tensor | None:
        """Return y; raise `InputError` for labels or a mask of another type, or a mask without labels."""
        if labelled is not None:
            self._check_mask(y, labelled)
        return y if y is None else self.given(y)

    def sample(self, logits: Tensor, y: Tensor | None, labelled: Tensor | None) -> Tensor:
        """Sample the class from `logits` (C,), or observe it at its label: (..., B), or (..., B, C) with `one_hot`.

        Where only some labels are known, p(y, label) = p(label) p(y | label): the first is a factor, and the
        second has all its probability on the label.
        """
        if labelled is None and not self.one_hot:
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)
        if y is not None:
            pyro.factor("label", self.log_prob(logits, y, labelled))
            logits = self.known(logits, y, labelled)
        return pyro.sample("y", (dist.OneHotCategorical if self.one_hot else dist.Categorical)(logits=logits))

    def known(self, logits: Tensor, y: Tensor, labelled: Tensor | None) -> Tensor:
        """Return logits (…, B, C) of a class: those given, or all on its label y (B,) where that is known."""
        point = LOG_ZERO * (1 - self(_shown(y, labelled)))
        return point if labelled is None else torch.where(labelled.unsqueeze(-1), point, logits)

    def log_prob(self, logits: Tensor, y: Tensor, labelled: Tensor | None) -> Tensor:
        """Return the log probability (…, B) of labels y (B,) by logits (…, B, C) or (C,); zero where not known."""
        log_q = (logits.log_softmax(-1) * self(_shown(y, labelled))).sum(-1)
        return log_q if labelled is None else log_q * labelled

    def check_values(self, y: Tensor | None = None, labelled: Tensor | None = None, **_: Tensor) -> None:
        """Raise `InputError` for a mask of another type or shape than that of y, or a known label out of range."""
        if (given := self.observed(y, labelled)) is not None:
            self._check_range(_shown(given, labelled))

    def quantity(self, y: Tensor | None = None, labelled: Tensor | None = None, **_: Tensor) -> str:
        """Return the name of the log likelihood of data with such labels, as text."""
        count, size = (0, 1) if y is None else (len(y) if labelled is None else int(labelled.sum()), len(y))
        if 0 < count < size:
            return f"log p(x), or log p(x, y) for the {count:,} labelled"
        return "log p(x, y)" if count else "log p(x)"

    def _check_mask(self, y: Tensor | None, labelled: Tensor) -> None:
        if y is None:
            raise InputError("labelled", expected="labels y that it is the mask of", got="none", hint="y=…, or no mask")
        if labelled.dtype != torch.bool:
            raise InputError("labelled", expected="a boolean mask", got=str(labelled.dtype), hint="labelled.bool()")
        if labelled.shape != y.shape:
            got = str(tuple(labelled.shape))
            raise InputError("labelled", expected=f"a mask of shape {tuple(y.shape)}, as y", got=got)


class InferredLabels(PartialLabels):
    """Labels of a guide: drawn, enumerated or relaxed where they are unknown; a training signal where they are known.

    Parameters
    ----------
    num_classes : int
        C.
    alpha : float
        Weight of log q(y|x) of a known label in the objective, in nats per labelled datum.
    how : {"enumerated", "sampled", "relaxed"}
        How an unknown class enters the objective: summed out; drawn, with the score-function gradient; or
        drawn by the straight-through Gumbel-softmax (Jang et al. 2017).
    temperature : float
        Of the Gumbel-softmax.
    """

    def __init__(
        self, num_classes: int, *, alpha: float = 1.0, how: str = "enumerated", temperature: float = 0.5
    ) -> None:
        one_of("classes", how, CLASSES)
        super().__init__(num_classes, one_hot=how == "relaxed")
        self.alpha, self.temperature = not_negative("alpha", alpha), positive("temperature", temperature)
        self.how = how

    def sample(self, logits: Tensor, y: Tensor | None, labelled: Tensor | None) -> Tensor:
        """Sample the class from `logits` (..., B, C), at its label where that is known, as `PartialLabels.sample`.

        The weighted log probability of known labels is added to the objective.
        """
        if y is not None:  # a factor of a guide is subtracted from the bound
            pyro.factor("classification", -self.alpha * self.log_prob(logits, y, labelled), has_rsample=True)
            if labelled is None and self.how != "relaxed":
                return y
            logits = self.known(logits, y, labelled)
        if self.how == "relaxed":
            return pyro.sample("y", GumbelSoftmax(self.temperature, logits))
        infer: Any = {"enumerate": "parallel"} if self.how == "enumerated" else {}
        return pyro.sample("y", dist.Categorical(logits=logits), infer=infer)

    def check_training(self, y: Tensor | None = None, labelled: Tensor | None = None, **_: Tensor) -> None:
        """Warn of classes without a label, of data without labels, and of a mask that is True everywhere."""
        known = [] if y is None else (y if labelled is None else y[labelled]).tolist()
        if not known:
            _warn("labels", "some, to say which class is which", "none: y is the component of a mixture", "labelled=…")
            return
        if labelled is not None and bool(labelled.all()):
            _warn("labelled", "a label that is hidden", "none", "the data without the mask, which sums over no class")
        if missing := ", ".join(str(k) for k in sorted(set(range(self.size)) - set(known))):
            _warn("labels", f"some of each class 0 to {self.size - 1}", f"none of {missing}", "other labels, or more")


def _shown(y: Tensor, labelled: Tensor | None) -> Tensor:
    """Return the labels, with a valid class where none is known."""
    return y if labelled is None else y.where(labelled, torch.zeros_like(y))


def _warn(what: str, expected: str, got: str, hint: str) -> None:
    warnings.warn(f"{what}: expected {expected}; got {got}; try {hint}", stacklevel=4)
