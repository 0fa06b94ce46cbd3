"""Variational autoencoders as probabilistic programs: Pyro pairs, SVI, and log p(x) with an error bar that is right.

A public name is imported when it is first used, so that ``ppl-vae --help`` need not wait for torch.
"""

from typing import TYPE_CHECKING

from ppl_vae.core.lazy import exports
from ppl_vae.core.moved import keep_old_names

if TYPE_CHECKING:
    from ppl_vae import data, evaluation, exact, guides, models, nn, objectives, plots, report, zoo
    from ppl_vae import nn as networks
    from ppl_vae.core import config
    from ppl_vae.core.errors import InputError, NonFiniteError, PairError, PplVaeError, RunError
    from ppl_vae.core.process import isolated
    from ppl_vae.evaluation import LogLikelihood, Sandwich, log_likelihood, sandwich, to_arviz
    from ppl_vae.nn import likelihoods
    from ppl_vae.pairs.pair import Pair
    from ppl_vae.training import kl_weights
    from ppl_vae.training.fit import fit
    from ppl_vae.training.run_folder.run import Run, load
    from ppl_vae.training.step import TrainingStep
else:
    __getattr__, __dir__ = exports(__name__)

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
    "Sandwich",
    "TrainingStep",
    "config",
    "data",
    "evaluation",
    "exact",
    "fit",
    "guides",
    "isolated",
    "kl_weights",
    "likelihoods",
    "load",
    "log_likelihood",
    "models",
    "networks",
    "nn",
    "objectives",
    "plots",
    "report",
    "sandwich",
    "to_arviz",
    "zoo",
]

keep_old_names(__name__)
