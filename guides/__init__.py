"""Guides q(z | x), each a `PyroModule`."""

from ppl_vae.guides.amortized_delta import AmortizedDelta
from ppl_vae.guides.amortized_normal import AmortizedNormal
from ppl_vae.guides.conditional_normal import ConditionalNormal
from ppl_vae.guides.linear_gaussian import LinearGaussian

__all__ = ["AmortizedDelta", "AmortizedNormal", "ConditionalNormal", "LinearGaussian"]
