"""Names that moved: modules that programs of users import, and classes that run folders name, by their old paths."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

#: Old module, within ppl_vae, and the one that has its public names now.
MOVED = {
    "config": "core.config",
    "context": "core.process",
    "count_likelihoods": "nn.likelihoods",
    "errors": "core.errors",
    "evaluation.classification": "evaluation.representation.classification",
    "evaluation.conditional": "evaluation.prediction.conditional",
    "evaluation.disentanglement": "evaluation.representation.disentanglement",
    "evaluation.factor_walks": "evaluation.representation.walks",
    "evaluation.intervals": "evaluation.prediction.intervals",
    "evaluation.joints": "evaluation.hands.joints",
    "evaluation.layers": "evaluation.representation.layers",
    "evaluation.log_likelihood": "evaluation.marginal_likelihood",
    "evaluation.regression": "evaluation.prediction.regression",
    "evaluation.sandwich": "evaluation.annealing.sandwich",
    "kl_weights": "training.kl_weights",
    "likelihood": "nn.likelihoods",
    "likelihoods": "nn.likelihoods",
    "networks": "nn",
    "objectives.ciwae": "objectives.importance.ciwae",
    "objectives.iwelbo": "objectives.importance.iwelbo",
    "objectives.miwae": "objectives.importance.miwae",
    "objectives.renyi": "objectives.importance.renyi",
    "objectives.report": "objectives.gradient_noise",
    "objectives.wake_sleep": "objectives.importance.wake_sleep",
    "pair": "pairs.pair",
    "runs": "training.run_folder.run",
    "workers": "training.distributed.workers",
}


class _Moved(ModuleType):
    """A module under its old name: whatever is asked of it, the new one is."""

    def __init__(self, name: str, home: str) -> None:
        super().__init__(name, f"Moved to `{home}`.")
        self.__dict__["_home"] = home

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python itself looks for on a module
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(self._home), name)

    def __dir__(self) -> list[str]:
        return dir(importlib.import_module(self._home))


def keep_old_names(package: str) -> None:
    """Let the old modules be imported; a new one is imported when something is asked of it."""
    for old, new in MOVED.items():
        sys.modules.setdefault(f"{package}.{old}", _Moved(f"{package}.{old}", f"{package}.{new}"))


def home(module: str) -> str:
    """Return where the public names of `module` are now: its new name, or its own where it did not move."""
    package, _, rest = module.partition(".")
    return f"{package}.{MOVED[rest]}" if rest in MOVED else module
