"""log p(x_t | x_i) of some modalities given others, as the difference of two estimates.

log p(x_t | x_i) = log p(x_t, x_i) - log p(x_i)

Each has the logarithm's bias, -v/2 with v its variance, so that the difference has -(v_1 - v_2)/2: less than either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ppl_vae.core.errors import InputError, shown
from ppl_vae.core.types import Batch
from ppl_vae.data import Dataset
from ppl_vae.evaluation.marginal_likelihood import log_likelihood
from ppl_vae.evaluation.result import LogLikelihood
from ppl_vae.nn.modalities import check_there, mask_name, only


def conditional_log_likelihood(
    pair: Any,
    data: Dataset | Batch,
    target: str | Sequence[str],
    given: str | Sequence[str],
    *,
    seed: int = 0,
    **options: Any,
) -> LogLikelihood:
    """Estimate log p(x_t | x_i) of data that have all of these modalities.

    Parameters
    ----------
    pair : Pair
        Over modalities, which it takes by name.
    data : Dataset, Split or mapping of str to Tensor
        Modalities by name. A `Dataset` stands for its test split.
    target, given : str or sequence of str
        What is predicted, and from what.
    seed : int
        Of the particles; the two estimates have independent ones, so that their variances add up.
    **options
        As for `log_likelihood`: ``method``, ``num_particles``, ….

    Returns
    -------
    LogLikelihood
        Of the difference. Variances are added up, biases subtracted; effective sample size and Pareto k are the worse
        of both.

    Raises
    ------
    InputError
        For a name that the data lack, or a datum without it; for a name on both sides; as `log_likelihood` does.
    """
    data = data.test if isinstance(data, Dataset) else data
    targets, known = _names("target", target), _names("given", given)
    check_there((*targets, *known), data)
    for name in (*targets, *known):
        if (mask := data.get(mask_name(name))) is not None and not bool(mask.all()):
            got = f"{int((~mask.bool()).sum())} of {len(mask)} without"
            raise InputError(name, expected="data that all have it", got=got, hint="the rows that have both sides")
    if both := set(targets) & set(known):
        raise InputError("given", expected="modalities that are not the target", got=", ".join(sorted(both)))
    joint = log_likelihood(pair, only(data, (*targets, *known)), seed=seed, **options)
    alone = log_likelihood(pair, only(data, known), seed=seed + 1, **options)
    return replace(
        joint,
        values=joint.values - alone.values,
        variances=joint.variances + alone.variances,
        # A hidden tail of the first raises the difference, one of the second lowers it.
        lower_variances=_lower(joint) + alone.variances,
        upper_variances=joint.variances + _lower(alone),
        biases=joint.bias - alone.bias,
        deterministic=_either(joint.deterministic, alone.deterministic),
        effective_sample_size=torch.minimum(joint.effective_sample_size, alone.effective_sample_size),
        pareto_k=torch.maximum(joint.pareto_k, alone.pareto_k),
        seconds=joint.seconds + alone.seconds,
        non_finite=joint.non_finite + alone.non_finite,
        quantity=f"log p({', '.join(targets)} | {', '.join(known)})",
        curve=None,
    )


def _lower(estimate: LogLikelihood) -> Tensor:
    """Return the variances by the delta method alone."""
    return estimate.variances if estimate.lower_variances is None else estimate.lower_variances


def _either(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return first if second is None else second if first is None else first | second


def _names(what: str, names: str | Sequence[str]) -> tuple[str, ...]:
    if not names:
        raise InputError(what, expected="a modality, or several", got=shown(names))
    return (names,) if isinstance(names, str) else tuple(names)
