"""Guides q(z | x), each a `PyroModule`."""

from ppl_vae.guides.amortized_delta import AmortizedDelta
from ppl_vae.guides.amortized_mixture import AmortizedMixture
from ppl_vae.guides.amortized_normal import AmortizedNormal
from ppl_vae.guides.conditional_normal import ConditionalNormal
from ppl_vae.guides.experts import Experts
from ppl_vae.guides.linear_gaussian import LinearGaussian
from ppl_vae.guides.stacked_mixture import StackedMixture

__all__ = [
    "AmortizedDelta",
    "AmortizedMixture",
    "AmortizedNormal",
    "ConditionalNormal",
    "Experts",
    "LinearGaussian",
    "StackedMixture",
]
