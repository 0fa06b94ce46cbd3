"""Guides q(z | x), each a `PyroModule`."""

from typing import TYPE_CHECKING

from ppl_vae.core.lazy import exports

if TYPE_CHECKING:
    from ppl_vae.guides.amortized_delta import AmortizedDelta
    from ppl_vae.guides.amortized_mixture import AmortizedMixture
    from ppl_vae.guides.amortized_normal import AmortizedNormal
    from ppl_vae.guides.bottom_up import BottomUp
    from ppl_vae.guides.conditional_normal import ConditionalNormal
    from ppl_vae.guides.count_normal import CountNormal
    from ppl_vae.guides.experts import Experts
    from ppl_vae.guides.factor_encoders import FactorEncoders
    from ppl_vae.guides.ladder import Ladder
    from ppl_vae.guides.linear_gaussian import LinearGaussian
    from ppl_vae.guides.stacked_mixture import StackedMixture
    from ppl_vae.guides.top_down import TopDown
else:
    __getattr__, __dir__ = exports(__name__)

__all__ = [
    "AmortizedDelta",
    "AmortizedMixture",
    "AmortizedNormal",
    "BottomUp",
    "ConditionalNormal",
    "CountNormal",
    "Experts",
    "FactorEncoders",
    "Ladder",
    "LinearGaussian",
    "StackedMixture",
    "TopDown",
]
