"""What SVI maximises: objectives are `pyro.infer.ELBO`s that read nothing back from the device inside a step."""

from ppl_vae.objectives.ciwae import CIWAE
from ppl_vae.objectives.cross_modal import CrossModalELBO
from ppl_vae.objectives.density_ratio import FactorVAE
from ppl_vae.objectives.elbo import ELBO
from ppl_vae.objectives.iwelbo import IWELBO
from ppl_vae.objectives.miwae import MIWAE, PIWAE
from ppl_vae.objectives.renyi import Renyi
from ppl_vae.objectives.report import gradient_report
from ppl_vae.objectives.total_correlation import BetaTCVAE
from ppl_vae.objectives.wake_sleep import ReweightedWakeSleep

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
