"""Generative models p(x, z), each a `PyroModule`."""

from typing import TYPE_CHECKING

from ppl_vae.core.lazy import exports

if TYPE_CHECKING:
    from ppl_vae.models.autoencoder import Autoencoder
    from ppl_vae.models.count_vae import CountVAE
    from ppl_vae.models.cross_modal import CrossModal
    from ppl_vae.models.cvae import CVAE
    from ppl_vae.models.disentangled import Disentangled
    from ppl_vae.models.hierarchical import Hierarchical
    from ppl_vae.models.m1m2 import M1M2
    from ppl_vae.models.m2 import M2
    from ppl_vae.models.ppca import PPCA
    from ppl_vae.models.vae import VAE
else:
    __getattr__, __dir__ = exports(__name__)

__all__ = ["CVAE", "M1M2", "M2", "PPCA", "VAE", "Autoencoder", "CountVAE", "CrossModal", "Disentangled", "Hierarchical"]
