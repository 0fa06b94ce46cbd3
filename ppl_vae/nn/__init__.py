"""Parts of models and guides: heads, which return distributions; networks, likelihoods, labels, conditions."""

from typing import TYPE_CHECKING

from ppl_vae.core.lazy import exports

if TYPE_CHECKING:
    from ppl_vae.nn import likelihoods
    from ppl_vae.nn.conditioning import Condition
    from ppl_vae.nn.conv import ConvDecoder, ConvEncoder
    from ppl_vae.nn.experts import ExpertHead, JoinedExperts
    from ppl_vae.nn.exposure import Exposure, LogCountHead, RateHead
    from ppl_vae.nn.heads import CategoricalHead, DeltaHead, Head, LikelihoodHead, StandardNormal
    from ppl_vae.nn.labels import InferredLabels, PartialLabels
    from ppl_vae.nn.likelihoods import Likelihood
    from ppl_vae.nn.mlp import MLP, BatchNorm, LogInputs
    from ppl_vae.nn.modalities import Modalities
    from ppl_vae.nn.normals import ConditionalPrior, LayerHead, NormalHead, normal_outputs
    from ppl_vae.nn.plate import data_plate, observed
else:
    __getattr__, __dir__ = exports(__name__)

__all__ = [
    "MLP",
    "BatchNorm",
    "CategoricalHead",
    "Condition",
    "ConditionalPrior",
    "ConvDecoder",
    "ConvEncoder",
    "DeltaHead",
    "ExpertHead",
    "Exposure",
    "Head",
    "InferredLabels",
    "JoinedExperts",
    "LayerHead",
    "Likelihood",
    "LikelihoodHead",
    "LogCountHead",
    "LogInputs",
    "Modalities",
    "NormalHead",
    "PartialLabels",
    "RateHead",
    "StandardNormal",
    "data_plate",
    "likelihoods",
    "normal_outputs",
    "observed",
]
