"""Inference data: the only module that touches ArviZ, whose interface changed between 0.23 and 1.x.

NumPy in; ArviZ is imported on first use, because that takes longer than a command's `--help` should.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import InputError

#: The groups of an inference data object, and how many leading dimensions (chain, draw) the variables of each have.
GROUPS = {
    "posterior": 2,
    "posterior_predictive": 2,
    "prior": 2,
    "prior_predictive": 2,
    "log_likelihood": 2,
    "observed_data": 0,
}


def inference_data(
    groups: Mapping[str, Mapping[str, ArrayLike]],
    *,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, ArrayLike] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Gather arrays into the object that ArviZ's functions take.

    Parameters
    ----------
    groups : mapping of group name (see `GROUPS`) to mapping of variable name to array
        Arrays have shape (chain, draw, ...), those of ``observed_data`` have no sample dimensions.
    dims : mapping of variable name to dimension names, optional
        Names of the dimensions after (chain, draw), the same in all groups; in ``log_likelihood`` a variable may lack
        the last ones, its event dimensions.
    coords : mapping of dimension name to labels, optional
    attrs : mapping, optional
        Attributes of the whole, such as how the data were binarised.

    Returns
    -------
    arviz.InferenceData (ArviZ 0.23) or xarray.DataTree (ArviZ 1.x)

    Raises
    ------
    InputError
        If a group is unknown, or an array's shape does not fit its dimensions.
    """
    import arviz

    arrays: dict[str, Any] = {
        name: {key: np.asarray(value) for key, value in group.items()} for name, group in groups.items()
    }
    _check_dimensions(arrays, dims or {})
    labels: dict[str, Any] = {
        "dims": {name: list(names) for name, names in (dims or {}).items()},
        "coords": {name: np.asarray(values) for name, values in (coords or {}).items()},
    }
    if hasattr(arviz, "psislw"):  # 0.23
        return arviz.from_dict(**arrays, **labels, attrs=dict(attrs or {}))
    return arviz.from_dict(arrays, **labels, attrs={"/": dict(attrs or {})})


def _check_dimensions(arrays: Mapping[str, Mapping[str, np.ndarray]], dims: Mapping[str, Sequence[str]]) -> None:
    for group, variables in arrays.items():
        one_of("inference data group", group, GROUPS)
        sample = ["chain", "draw"][: GROUPS[group]]
        for name, values in variables.items():
            named = [*sample, *dims.get(name, [])]
            too_few = values.ndim < (len(sample) if group == "log_likelihood" else len(named))
            if too_few or (name in dims and values.ndim > len(named)):
                expected = f"dimensions ({', '.join(named) if name in dims else 'chain, draw, …'})"
                raise InputError(f"{group} {name!r}", expected=expected, got=f"shape {values.shape}")
