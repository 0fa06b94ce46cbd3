"""Likelihoods p(x|z): modules that turn a decoder's output into a Pyro distribution."""

from ppl_vae.nn.likelihoods.base import Likelihood
from ppl_vae.nn.likelihoods.counts import NegativeBinomial, Poisson
from ppl_vae.nn.likelihoods.named import COUNTS, NAMES, for_each, get, of
from ppl_vae.nn.likelihoods.standard import Bernoulli, Categorical, DiscretizedLogistic, Normal, OneHot

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
