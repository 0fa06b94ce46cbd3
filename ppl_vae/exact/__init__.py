"""Exact references: closed forms for linear-Gaussian models, in torch alone, that estimates are held against."""

from ppl_vae.exact.factor_analysis import FactorAnalysisParameters, factor_analysis_maximum_likelihood
from ppl_vae.exact.gaussian import diagonal_gaussian_kl, gaussian_kl
from ppl_vae.exact.linear_gaussian import elbo, log_marginal, posterior
from ppl_vae.exact.ppca import PPCAParameters, ppca_maximum_likelihood

__all__ = [
    "FactorAnalysisParameters",
    "PPCAParameters",
    "diagonal_gaussian_kl",
    "elbo",
    "factor_analysis_maximum_likelihood",
    "gaussian_kl",
    "log_marginal",
    "posterior",
    "ppca_maximum_likelihood",
]
