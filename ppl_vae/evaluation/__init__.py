"""Estimates of log p(x) with error bars, and measures of what a fitted pair has learned."""

from typing import TYPE_CHECKING

from ppl_vae.core.lazy import exports

if TYPE_CHECKING:
    from ppl_vae.evaluation.annealing.gap import annealed_gap
    from ppl_vae.evaluation.annealing.sandwich import Sandwich, sandwich
    from ppl_vae.evaluation.hands.joints import JointErrors, joint_errors
    from ppl_vae.evaluation.inference_data import to_arviz
    from ppl_vae.evaluation.marginal_likelihood import log_likelihood
    from ppl_vae.evaluation.prediction.conditional import conditional_log_likelihood
    from ppl_vae.evaluation.prediction.intervals import interval_coverage
    from ppl_vae.evaluation.prediction.regression import regression
    from ppl_vae.evaluation.representation.classification import Classification, classify, confidence_interval
    from ppl_vae.evaluation.representation.disentanglement import (
        InformationGap,
        accuracy,
        encode,
        factor_accuracy,
        information_gap,
        mutual_information_gap,
    )
    from ppl_vae.evaluation.representation.layers import LayerUse, layer_use, reconstruct_from, units_in_use
    from ppl_vae.evaluation.representation.layers import table as layer_table
    from ppl_vae.evaluation.representation.walks import FactorWalks, factor_walks
    from ppl_vae.evaluation.result import LogLikelihood
else:
    __getattr__, __dir__ = exports(__name__)

__all__ = [
    "Classification",
    "FactorWalks",
    "InformationGap",
    "JointErrors",
    "LayerUse",
    "LogLikelihood",
    "Sandwich",
    "accuracy",
    "annealed_gap",
    "classify",
    "conditional_log_likelihood",
    "confidence_interval",
    "encode",
    "factor_accuracy",
    "factor_walks",
    "information_gap",
    "interval_coverage",
    "joint_errors",
    "layer_table",
    "layer_use",
    "log_likelihood",
    "mutual_information_gap",
    "reconstruct_from",
    "regression",
    "sandwich",
    "to_arviz",
    "units_in_use",
]
