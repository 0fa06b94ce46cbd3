"""Generative models p(x, z), each a `PyroModule`."""

from ppl_vae.models.autoencoder import Autoencoder
from ppl_vae.models.cvae import CVAE
from ppl_vae.models.ppca import PPCA
from ppl_vae.models.vae import VAE

__all__ = ["CVAE", "PPCA", "VAE", "Autoencoder"]
