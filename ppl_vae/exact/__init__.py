"""Exact references, in torch alone, that estimates are held against.

Linear-Gaussian models of one layer are at hand by name, as is `JointGaussian`, which any other is made with; the rest
stands in modules: `hierarchy`, `modalities`, `mixture`, `enumeration` (discrete latents) and `quadrature` (one or two
latents, any decoder).
"""

from ppl_vae.exact import enumeration, hierarchy, mixture, modalities, quadrature
from ppl_vae.exact.enumeration import Enumeration
from ppl_vae.exact.factor_analysis import FactorAnalysisParameters, factor_analysis_maximum_likelihood
from ppl_vae.exact.gaussian import diagonal_gaussian_kl, gaussian_kl
from ppl_vae.exact.hierarchy import Layer
from ppl_vae.exact.joint import JointGaussian, Regression
from ppl_vae.exact.linear_gaussian import elbo, log_marginal, posterior
from ppl_vae.exact.ppca import PPCAParameters, ppca_maximum_likelihood
from ppl_vae.exact.quadrature import Quadrature

__all__ = [
    "Enumeration",
    "FactorAnalysisParameters",
    "JointGaussian",
    "Layer",
    "PPCAParameters",
    "Quadrature",
    "Regression",
    "diagonal_gaussian_kl",
    "elbo",
    "enumeration",
    "factor_analysis_maximum_likelihood",
    "gaussian_kl",
    "hierarchy",
    "log_marginal",
    "mixture",
    "modalities",
    "posterior",
    "ppca_maximum_likelihood",
    "quadrature",
]
