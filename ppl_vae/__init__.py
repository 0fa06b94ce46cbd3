"""Variational autoencoders as probabilistic programs: Pyro pairs, SVI, and log p(x) with an error bar that is right.

A public name is imported when it is first used, so that ``ppl-vae --help`` need not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl_vae import (
        config,
        data,
        evaluation,
        exact,
        guides,
        kl_weights,
        likelihoods,
        models,
        networks,
        objectives,
        plots,
        report,
        zoo,
    )
    from ppl_vae.errors import InputError, NonFiniteError, PairError, PplVaeError, RunError
    from ppl_vae.evaluation.inference_data import to_arviz
    from ppl_vae.evaluation.log_likelihood import log_likelihood
    from ppl_vae.evaluation.result import LogLikelihood
    from ppl_vae.evaluation.sandwich import Sandwich, sandwich
    from ppl_vae.pair import Pair
    from ppl_vae.runs import Run, load
    from ppl_vae.training.fit import fit
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
    "kl_weights",
    "likelihoods",
    "load",
    "log_likelihood",
    "models",
    "networks",
    "objectives",
    "plots",
    "report",
    "sandwich",
    "to_arviz",
    "zoo",
]

#: The module that each public name stands in; the others are modules themselves.
_HOME = {
    **dict.fromkeys(("InputError", "NonFiniteError", "PairError", "PplVaeError", "RunError"), "errors"),
    **dict.fromkeys(("Run", "load"), "runs"),
    "LogLikelihood": "evaluation.result",
    "Pair": "pair",
    "Sandwich": "evaluation.sandwich",
    "TrainingStep": "training.step",
    "fit": "training.fit",
    "log_likelihood": "evaluation.log_likelihood",
    "sandwich": "evaluation.sandwich",
    "to_arviz": "evaluation.inference_data",
}


if not TYPE_CHECKING:  # a type checker reads the imports above, and would let any name pass if it saw this

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_HOME.get(name, name)}")
        value = globals()[name] = getattr(module, name) if name in _HOME else module
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
