"""What models and guides are built of: networks, likelihoods, labels and conditions."""

from ppl_vae.nn import likelihoods
from ppl_vae.nn.conditioning import Condition
from ppl_vae.nn.conv import ConvDecoder, ConvEncoder
from ppl_vae.nn.labels import PartialLabels
from ppl_vae.nn.likelihoods import Likelihood
from ppl_vae.nn.mlp import MLP, BatchNorm, LogInputs
from ppl_vae.nn.modalities import Modalities

__all__ = [
    "MLP",
    "BatchNorm",
    "Condition",
    "ConvDecoder",
    "ConvEncoder",
    "Likelihood",
    "LogInputs",
    "Modalities",
    "PartialLabels",
    "likelihoods",
]
