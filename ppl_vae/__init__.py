"""Variational autoencoders as probabilistic programs: Pyro pairs, SVI, and log p(x) with an error bar that is right."""

from ppl_vae import data, exact, guides, likelihoods, models, networks, objectives, zoo
from ppl_vae.errors import InputError, NonFiniteError, PairError, PplVaeError, RunError
from ppl_vae.evaluate import log_likelihood
from ppl_vae.fit import fit
from ppl_vae.inference_data import to_arviz
from ppl_vae.pair import Pair
from ppl_vae.result import LogLikelihood
from ppl_vae.runs import Run, load

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "LogLikelihood",
    "NonFiniteError",
    "Pair",
    "PairError",
    "PplVaeError",
    "Run",
    "RunError",
    "data",
    "exact",
    "fit",
    "guides",
    "likelihoods",
    "load",
    "log_likelihood",
    "models",
    "networks",
    "objectives",
    "to_arviz",
    "zoo",
]
