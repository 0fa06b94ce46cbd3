"""A pair as a classifier: the posterior of its discrete latent y, compared with true labels.

guide         q(y|x) = E_q[q(y|x, …)]                        (over latents that the guide draws before y)
importance    p(y|x) = p(x, y) / sum_k p(x, k)               (log p(x, y) as in `log_likelihood`)

Calibration: among the data whose predicted class has probability about c, a share c should be of that class; the
expected calibration error is the mean of |share - c| over bins of c, weighted by their data (Guo et al. 2017, eq. 5).

Collapse: the mutual information of x and y under q(y|x), H(E_x[q(y|x)]) - E_x[H(q(y|x))] nats, is near zero where the
classifier gives all data the same probabilities; exp H(E_x[q(y|x)]) is the effective number of classes that it uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ppl_vae.core.checks import integer_at_least, one_of
from ppl_vae.core.errors import InputError, PairError
from ppl_vae.core.process import evaluating, isolated
from ppl_vae.core.types import Batch
from ppl_vae.evaluation.marginal_likelihood import log_likelihood
from ppl_vae.pairs.pair import as_pair
from ppl_vae.pairs.sites import trace_pair

METHODS = ("guide", "importance")

#: A classifier that has less than this share of the information there is to have, or uses less than this share of the
#: classes there are, is said to have collapsed.
LEAST_INFORMATION, LEAST_CLASSES = 0.1, 0.5

_ROWS_AT_ONCE = 5000


@dataclass(frozen=True, eq=False)
class Classification:
    """Class probabilities of N data and, where known, their labels.

    Attributes
    ----------
    probabilities : Tensor (N, C)
        Of each class, for each datum.
    labels : Tensor (N,), optional
        The true ones.
    """

    probabilities: Tensor
    labels: Tensor | None = None

    @property
    def predicted(self) -> Tensor:
        """The most probable class of each datum, (N,)."""
        return self.probabilities.argmax(-1)

    @property
    def accuracy(self) -> float:
        """Share of the data whose most probable class is the true one."""
        return float((self.predicted == self._labels()).double().mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the accuracy over draws of the data, sqrt(a (1 - a) / N); not over draws of labels."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / len(self.probabilities))

    @property
    def log_loss(self) -> float:
        """Mean of -log q(label|x), nats per datum."""
        chosen = self.probabilities.gather(-1, self._labels()[:, None])
        return float(-chosen.double().clamp_min(1e-12).log().mean())

    @property
    def information(self) -> float:
        """Mutual information of x and y under q(y|x), in nats: at most the entropy of its mean."""
        return self._entropy_of_mean() - float(torch.special.entr(self.probabilities.double()).sum(-1).mean())

    @property
    def classes_used(self) -> float:
        """Effective number of classes that q(y|x) uses: exp of the entropy of its mean."""
        return math.exp(self._entropy_of_mean())

    @property
    def collapse(self) -> str:
        """How q(y|x) has collapsed, as text; empty if it has not.

        Compared with the classes that occur among the labels, or all C without labels.
        """
        C = self.probabilities.shape[-1]
        there = math.log(C)
        if self.labels is not None:
            shares = torch.bincount(self._labels(), minlength=C).double() / len(self.probabilities)
            there = float(torch.special.entr(shares).sum())
        if self.classes_used < LEAST_CLASSES * math.exp(there):
            return f"q(y|x) uses {self.classes_used:.1f} classes where there are {math.exp(there):.1f}"
        if self.information < LEAST_INFORMATION * there:
            return f"q(y|x) has {self.information:.3f} of {there:.3f} nats of information on y"
        return ""

    def calibration(self, bins: int = 10) -> Tensor:
        """Return mean probability of the predicted class, share of data where it is true, and their number: (bins, 3).

        Bins are of equal width, from 0 to 1; an empty one has NaN, NaN, 0.
        """
        bins = integer_at_least("bins", bins, 1)
        confidence = self.probabilities.double().max(-1).values
        right = (self.predicted == self._labels()).double()
        where = (confidence * bins).long().clamp(0, bins - 1)
        count = torch.bincount(where, minlength=bins).double()
        sums = [torch.bincount(where, weights, minlength=bins) for weights in (confidence, right)]
        return torch.stack((sums[0] / count, sums[1] / count, count), -1)

    def calibration_error(self, bins: int = 10) -> float:
        """Return the expected calibration error."""
        rows = self.calibration(bins)
        gap = (rows[:, 0] - rows[:, 1]).abs().nan_to_num(0.0)
        return float((gap * rows[:, 2]).sum() / rows[:, 2].sum())

    def __str__(self) -> str:
        N, C = self.probabilities.shape
        summary = f"{N:,} data, {C} classes"
        if self.labels is not None:
            summary = (
                f"accuracy {self.accuracy:.2%} ± {self.standard_error:.2%} over data, "
                f"log loss {self.log_loss:.3f} nats, "
                f"calibration error {self.calibration_error():.3f}; {summary}"
            )
        return f"COLLAPSED: {self.collapse}. {summary}" if self.collapse else summary

    def _labels(self) -> Tensor:
        if self.labels is None:
            raise InputError("labels", expected="true labels y in the data", got="none", hint='{"x": x, "y": y}')
        return self.labels

    def _entropy_of_mean(self) -> float:
        return float(torch.special.entr(self.probabilities.double().mean(0)).sum())


def classify(
    pair: Any,
    data: Batch,
    *,
    site: str = "y",
    method: Literal["guide", "importance"] = "guide",
    num_particles: int = 1,
    seed: int = 0,
) -> Classification:
    """Return the class probabilities of data whose labels are not shown to the pair.

    Parameters
    ----------
    pair : Pair
        With a discrete local latent.
    data : mapping of tensors
        What the pair takes. An entry called `site`, (N,) whole numbers, is the true label, for comparison only.
    site : str
        The latent.
    method : {"guide", "importance"}
        q(y|x), or p(y|x) by C estimates of log p(x, y) for a model that can be given its labels.
    num_particles : int
        Draws of what the guide draws before y (one is enough where there is nothing), or K of each estimate.
    seed : int
        Of the draws.

    Raises
    ------
    InputError
        For an unknown method.
    PairError
        For a pair without such a latent.
    """
    one_of("method", method, METHODS)
    pair = as_pair(pair)
    labels = data.get(site)
    seen = {name: value for name, value in data.items() if name not in (site, "labelled")}
    with torch.no_grad(), isolated(seed, device=pair.device), evaluating(pair):
        rows = pair.arguments(seen)
        size, step = len(next(iter(rows.values()))), _ROWS_AT_ONCE // num_particles + 1
        if method == "importance":  # the guide gives the number of classes
            size = step = 1
        parts = [
            _of_guide(pair, {name: value[start : start + step] for name, value in rows.items()}, site, num_particles)
            for start in range(0, size, step)
        ]
    probabilities = torch.cat(parts)
    if method == "importance":
        log_joint = [
            log_likelihood(pair, _given(seen, site, k), num_particles=num_particles, seed=seed).values
            for k in range(probabilities.shape[-1])
        ]
        probabilities = torch.stack(log_joint, -1).softmax(-1)
    return Classification(probabilities.cpu(), None if labels is None else labels.cpu())


def _of_guide(pair: Any, rows: Mapping[str, Tensor], site: str, draws: int) -> Tensor:
    """Return E_q[q(y|x, …)], (B, C)."""
    model, guide = pair.programs()
    latents = trace_pair(model, guide, (), pair._prepared(rows), draws).guide.latents
    found = latents.get(site)
    probabilities = getattr(found["fn"], "probs", None) if found is not None else None
    if probabilities is None or probabilities.dim() < 2:
        got = ", ".join(f"{name} ~ {type(s['fn']).__name__}" for name, s in latents.items()) or "none"
        raise PairError("guide", expected=f"a discrete latent {site!r} of each datum", got=got, hint="AmortizedMixture")
    return probabilities.reshape(-1, *probabilities.shape[-2:]).mean(0)


def _given(seen: Mapping[str, Tensor], site: str, value: int) -> dict[str, Tensor]:
    first = next(iter(seen.values()))
    return {**seen, site: torch.full((len(first),), value, device=first.device)}


def confidence_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return mean and half width of Student's interval of the mean of values, one for each draw of labels, say."""
    v = torch.tensor(list(values), dtype=torch.float64, device="cpu")
    if len(v) < 2:
        return float(v.mean()), math.nan
    from scipy import stats  # slow to import, and needed here only

    quantile = float(stats.t.ppf(0.5 + level / 2, len(v) - 1))
    return float(v.mean()), quantile * float(v.std()) / math.sqrt(len(v))
