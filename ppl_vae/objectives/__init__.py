"""Objectives of SVI: subclasses of `pyro.infer.ELBO` that read nothing back from the device inside a step."""

from typing import TYPE_CHECKING

from ppl_vae.core.lazy import exports

if TYPE_CHECKING:
    from ppl_vae.objectives.cross_modal import CrossModalELBO
    from ppl_vae.objectives.density_ratio import FactorVAE
    from ppl_vae.objectives.elbo import ELBO
    from ppl_vae.objectives.gradient_noise import gradient_report
    from ppl_vae.objectives.importance.ciwae import CIWAE
    from ppl_vae.objectives.importance.iwelbo import IWELBO
    from ppl_vae.objectives.importance.miwae import MIWAE, PIWAE
    from ppl_vae.objectives.importance.renyi import Renyi
    from ppl_vae.objectives.importance.wake_sleep import ReweightedWakeSleep
    from ppl_vae.objectives.total_correlation import BetaTCVAE
else:
    __getattr__, __dir__ = exports(__name__)

__all__ = [
    "CIWAE",
    "ELBO",
    "IWELBO",
    "MIWAE",
    "PIWAE",
    "BetaTCVAE",
    "CrossModalELBO",
    "FactorVAE",
    "Renyi",
    "ReweightedWakeSleep",
    "gradient_report",
]
