"""Names that moved: modules that programs of users import, and classes that run folders name, by their old paths."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_PRIOR = (r"prior_(loc|scale)$", r"prior.\1")
_DECODER = ((r"decoder\.", r"decode.network."), (r"likelihood\.", r"decode.likelihood."))
_DECODERS = (
    (r"decoders\.(\w+)\.", r"decoders.\1.network."),
    (r"likelihoods\.(\w+)\.", r"decoders.\1.likelihood."),
)
_ENCODER = (r"encoder\.", r"posterior.network.")

#: Old module, within ppl_vae, and the one that has its public names now.
MOVED = {
    "config": "core.config",
    "context": "core.process",
    "count_likelihoods": "nn.likelihoods",
    "data.binarize": "data.binarization",
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


#: Names of parameters and buffers of a class (a regular expression from the start) as they were, and as they are now;
#: None for what is no longer kept.
PARAMETERS: dict[str, tuple[tuple[str, str | None], ...]] = {
    "ppl_vae.models.autoencoder.Autoencoder": (*_DECODER, (r"start_(loc|scale)$", r"start.\1")),
    "ppl_vae.models.count_vae.CountVAE": (*_DECODER, _PRIOR),
    "ppl_vae.models.cross_modal.CrossModal": (*_DECODERS, _PRIOR),
    "ppl_vae.models.cvae.CVAE": (*_DECODER, _PRIOR, (r"prior_network\.", r"prior.network.")),
    "ppl_vae.models.disentangled.Disentangled": (*_DECODERS, (r"(z_\w+)_(loc|scale)$", r"prior.\1.\2")),
    "ppl_vae.models.hierarchical.Hierarchical": (
        *_DECODER,
        _PRIOR,
        (r"conditionals\.(\d+)\.", r"conditionals.\1.network."),
    ),
    "ppl_vae.models.m2.M2": (*_DECODER, _PRIOR),
    "ppl_vae.models.ppca.PPCA": (_PRIOR,),
    "ppl_vae.models.vae.VAE": (*_DECODER, _PRIOR),
    "ppl_vae.guides.amortized_delta.AmortizedDelta": (_ENCODER,),
    "ppl_vae.guides.amortized_mixture.AmortizedMixture": (
        (r"classifier\.", r"classifier.network."),
        (r"normal\.encoder\.", r"posterior.network."),
    ),
    "ppl_vae.guides.amortized_normal.AmortizedNormal": (_ENCODER,),
    "ppl_vae.guides.bottom_up.BottomUp": ((r"networks\.(\d+)\.", r"networks.\1.network."),),
    "ppl_vae.guides.conditional_normal.ConditionalNormal": ((r"normal\.encoder\.", r"posterior.network."),),
    "ppl_vae.guides.count_normal.CountNormal": ((r"normal\.encoder\.", r"posterior.network."),),
    "ppl_vae.guides.experts.Experts": ((r"encoders\.(\w+)\.", r"posterior.experts.\1.network."),),
    "ppl_vae.guides.factor_encoders.FactorEncoders": (
        (r"of_x\.encoder\.", r"of_x.network."),
        (r"of_factor\.(\w+)\.encoder\.", r"of_factor.\1.network."),
        (r"zero$", None),
    ),
    "ppl_vae.guides.ladder.Ladder": (
        (r"evidence_networks\.", r"evidence.networks."),
        (r"encoder\.", r"evidence.encoder."),
    ),
    "ppl_vae.guides.top_down.TopDown": ((r"networks\.(\d+)\.", r"networks.\1.network."),),
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
