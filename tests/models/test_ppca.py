"""PPCA fitted to digits by SVI, held against its closed form: the issue of the whole library in one model."""

import pytest
import torch

import ppl_vae
from ppl_vae import exact
from ppl_vae.guides import LinearGaussian
from ppl_vae.models import PPCA

L = 8


@pytest.fixture(scope="module")
def x():
    return ppl_vae.data.load("digits", binarization="none").train["x"].double()


@pytest.fixture(scope="module")
def pair(x):
    torch.manual_seed(0)
    D = x.shape[1]
    pair = ppl_vae.Pair(PPCA(D, L), LinearGaussian(D, L))
    ppl_vae.fit(pair, {"x": x}, epochs=600, lr=1e-2, schedule="cosine")
    return pair.double()


@pytest.mark.slow
def test_log_p_reaches_the_closed_form_maximum(pair, x):
    best = exact.log_marginal(x, *exact.ppca_maximum_likelihood(x, L)).mean()
    with torch.no_grad():
        fitted = pair.model.log_marginal(x).mean()
    assert best - 0.05 < fitted <= best


@pytest.mark.slow
def test_the_guide_reaches_the_exact_posterior(pair, x):
    with torch.no_grad():
        guide = pair.guide.posterior(x)
        mean, covariance = pair.model.posterior(x)
        kl = exact.gaussian_kl(guide.mean, guide.covariance_matrix, mean, covariance)
    assert kl.mean() < 0.01


@pytest.mark.slow
def test_the_bound_is_below_the_exact_value_everywhere(pair, x):
    K = 400
    with torch.no_grad():
        log_weights = pair.log_weights({"x": x}, K)
        log_p = pair.model.log_marginal(x)
    standard_error = log_weights.std(0) / K**0.5
    # 1437 data: the largest of as many standard normals stays below 4.5 in 99 of 100 draws.
    assert (log_weights.mean(0) <= log_p + 4.5 * standard_error).all()
    # And it is a tight one: the mean gap is the mean KL of the test above.
    assert (log_p - log_weights.mean(0)).mean() < 0.01 + 4 * (standard_error.square().sum().sqrt() / len(x))
