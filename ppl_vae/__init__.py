"""Variational autoencoders as probabilistic programs: Pyro pairs, SVI, and log p(x) with an error bar that is right.

A public name is imported when it is first used, so that ``ppl-vae --help`` need not wait for torch.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from ppl_vae.core.moved import keep_old_names

if TYPE_CHECKING:
    from ppl_vae import data, evaluation, exact, guides, models, nn, objectives, plots, report, zoo
    from ppl_vae.core import config
    from ppl_vae.core.errors import InputError, NonFiniteError, PairError, PplVaeError, RunError
    from ppl_vae.core.process import isolated
    from ppl_vae.evaluation import LogLikelihood, Sandwich, log_likelihood, sandwich, to_arviz
    from ppl_vae.nn import likelihoods
    from ppl_vae.nn import mlp as networks
    from ppl_vae.pairs.pair import Pair
    from ppl_vae.training import kl_weights
    from ppl_vae.training.fit import fit
    from ppl_vae.training.run_folder.run import Run, load
    from ppl_vae.training.step import TrainingStep

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

#: The module that each public name stands in; the others are modules themselves, some under their old names.
_HOME = {
    **dict.fromkeys(("InputError", "NonFiniteError", "PairError", "PplVaeError", "RunError"), "core.errors"),
    **dict.fromkeys(("LogLikelihood", "Sandwich", "log_likelihood", "sandwich", "to_arviz"), "evaluation"),
    **dict.fromkeys(("Run", "load"), "training.run_folder.run"),
    "Pair": "pairs.pair",
    "TrainingStep": "training.step",
    "fit": "training.fit",
    "isolated": "core.process",
}

keep_old_names(__name__)


if not TYPE_CHECKING:  # a type checker reads the imports above, and would let any name pass if it saw this

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        elif name in __all__ or f"{__name__}.{name}" in sys.modules:
            value = importlib.import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
