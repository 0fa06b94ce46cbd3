"""Likelihoods p(x|z): modules that turn a decoder's output into a Pyro distribution."""

from typing import TYPE_CHECKING

from ppl_vae.core.lazy import exports

if TYPE_CHECKING:
    from ppl_vae.nn.likelihoods.base import Likelihood
    from ppl_vae.nn.likelihoods.counts import NegativeBinomial, Poisson
    from ppl_vae.nn.likelihoods.named import for_each, get, of
    from ppl_vae.nn.likelihoods.names import COUNTS, NAMES
    from ppl_vae.nn.likelihoods.standard import Bernoulli, Categorical, DiscretizedLogistic, Normal, OneHot
else:
    __getattr__, __dir__ = exports(__name__)

__all__ = [
    "COUNTS",
    "NAMES",
    "Bernoulli",
    "Categorical",
    "DiscretizedLogistic",
    "Likelihood",
    "NegativeBinomial",
    "Normal",
    "OneHot",
    "Poisson",
    "for_each",
    "get",
    "of",
]
