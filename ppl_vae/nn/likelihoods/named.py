"""Likelihoods by name."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import InputError
from ppl_vae.nn.likelihoods.base import Likelihood
from ppl_vae.nn.likelihoods.counts import NegativeBinomial, Poisson
from ppl_vae.nn.likelihoods.names import COUNTS, NAMES
from ppl_vae.nn.likelihoods.standard import Bernoulli, Categorical, DiscretizedLogistic, Normal, OneHot

#: Names of the same distribution in other libraries, for hints.
_ELSEWHERE = {
    "Bernoulli": "bernoulli",
    "Normal": "normal-learned",
    "Gaussian": "normal-learned",
    "Categorical": "categorical",
    "OneHotCategorical": "one-hot",
    "Poisson": "poisson",
    "NegativeBinomial": "negative-binomial",
    "GammaPoisson": "negative-binomial",
}


def for_each(names: Iterable[str], given: Mapping[str, Likelihood | str]) -> nn.ModuleDict:
    """Return a likelihood for each name, as `given` or of that name in `NAMES`: a copy, with parameters of its own.

    Raises
    ------
    InputError
        If one is not given, or its name unknown.
    """
    found = nn.ModuleDict()
    for name in names:
        if name not in given:
            raise InputError(f"likelihood of {name}", expected="one", got="none", hint="'normal-learned'")
        wanted = given[name]
        found[name] = get(wanted) if isinstance(wanted, str) else copy.deepcopy(of(wanted, f"likelihood of {name}"))
    return found


def of(likelihood: Any, what: str = "likelihood", *, levels: int | None = None) -> Likelihood:
    """Return `likelihood` as a module: itself, or the one of that name in `NAMES`.

    Raises
    ------
    InputError
        If it is neither: a class, a distribution, None, …; `what` says whose it is.
    """
    if isinstance(likelihood, str):
        return get(likelihood, levels=levels)
    if isinstance(likelihood, nn.Module) and callable(getattr(likelihood, "of_network", None)):
        return likelihood  # type: ignore[return-value]
    kind = likelihood if isinstance(likelihood, type) else type(likelihood)
    name = _ELSEWHERE.get(kind.__name__)
    got = f"the class {kind.__name__}" if isinstance(likelihood, type) else repr(likelihood)[:60]
    if isinstance(likelihood, type) and issubclass(likelihood, Likelihood):
        hint = f"an instance, likelihoods.{kind.__name__}()"
    else:
        hint = repr(name or "bernoulli") + ("" if name else ", or another of likelihoods.NAMES")
    raise InputError(what, expected="a Likelihood, or the name of one", got=got, hint=hint)


def get(name: str, *, levels: int | None = None) -> Likelihood:
    """Return the likelihood called `name`, one of `NAMES`.

    Parameters
    ----------
    name : str
        Such as ``"bernoulli"``.
    levels : int, optional
        How many grey levels the data have (`Spec.levels`); the two likelihoods over grey levels need it.

    Raises
    ------
    InputError
        For an unknown name, or one that needs `levels` where there are none.
    """
    one_of("likelihood", name, NAMES)
    if name == "bernoulli":
        return Bernoulli()
    if name == "normal":
        return Normal()
    if name == "one-hot":
        return OneHot()
    if name == "poisson":
        return Poisson()
    if name in COUNTS:
        return NegativeBinomial("decoder" if name.endswith("-decoder") else "learned")
    if name.startswith("normal-"):
        return Normal(name.removeprefix("normal-"))
    if levels is None:
        raise InputError(
            f"likelihood {name!r}",
            expected="data with grey levels",
            got="no number of levels",
            hint="grey data (binarization='none'), or Categorical(levels=...) itself",
        )
    return Categorical(levels) if name == "categorical" else DiscretizedLogistic(levels)
