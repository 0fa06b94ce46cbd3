"""Linear-Gaussian hierarchies against one layer, SciPy's quadrature, sampling, and each other."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad

from ppl_vae import exact
from ppl_vae.core.errors import InputError
from ppl_vae.exact import Layer


def random_layers(widths, seed=0, dtype=torch.float64):
    """Return layers from the data (widths[0]) upwards, and data x (5, D)."""
    generator = torch.Generator().manual_seed(seed)
    layers = [
        Layer(
            torch.randn(D, L, generator=generator, dtype=dtype),
            torch.randn(D, generator=generator, dtype=dtype),
            0.3 + torch.rand(D, generator=generator, dtype=dtype),
        )
        for D, L in pairwise(widths)
    ]
    return layers, 2 * torch.randn(5, widths[0], generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(10))
def test_one_layer_is_the_linear_gaussian_model(seed, dtype):
    layers, x = random_layers((6, 3), seed, dtype)
    p = exact.hierarchy.joint(layers)
    in_double = [tensor.double() for tensor in layers[0]]
    torch.testing.assert_close(p.log_prob(x=x), exact.log_marginal(x.double(), *in_double), rtol=1e-10, atol=1e-10)
    mean, covariance = exact.posterior(x.double(), *in_double)
    torch.testing.assert_close(p.given(x=x).mean, mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(p.given(x=x).covariance, covariance, rtol=1e-9, atol=1e-9)


def test_the_parameters_of_ppca_are_a_layer():
    x = random_layers((6, 3))[1].repeat(4, 1) + torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    parameters = exact.ppca_maximum_likelihood(x, 2)
    torch.testing.assert_close(exact.hierarchy.joint([parameters]).log_prob(x=x), exact.log_marginal(x, *parameters))


def normal(x, mean, scale):
    return math.exp(-0.5 * ((x - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("seed", range(3))
def test_two_layers_agree_with_quadrature(seed):
    """log p(x) and the means of p(z1|x) and p(z2|x), each latent a number, by SciPy's `dblquad`."""
    layers, x = random_layers((2, 1, 1), seed)
    (W, b, s), (V, a, t) = [[tensor.flatten().tolist() for tensor in layer] for layer in layers]
    u, v = x[0].tolist()

    def integral(function):
        def integrand(z1, z2):
            likelihood = normal(u, W[0] * z1 + b[0], s[0]) * normal(v, W[1] * z1 + b[1], s[1])
            return function(z1, z2) * normal(z2, 0, 1) * normal(z1, V[0] * z2 + a[0], t[0]) * likelihood

        ends = [lambda z2, side=side: V[0] * z2 + a[0] + side * t[0] for side in (-9, 9)]
        return dblquad(integrand, -9, 9, *ends, epsabs=1e-13, epsrel=1e-8)[0]

    evidence = integral(lambda z1, z2: 1.0)
    p = exact.hierarchy.joint(layers)
    q = p.given(x=x[0])
    assert p.log_prob(x=x[0]).item() == pytest.approx(math.log(evidence), abs=1e-7)
    assert q.marginal("z1").mean.item() == pytest.approx(integral(lambda z1, z2: z1) / evidence, abs=1e-6)
    assert q.marginal("z2").mean.item() == pytest.approx(integral(lambda z1, z2: z2) / evidence, abs=1e-6)


def test_a_prior_of_its_own_agrees_with_samples():
    layers, _ = random_layers((3, 2, 2), 4)
    generator = torch.Generator().manual_seed(0)
    mean, root = torch.tensor([1.0, -2.0]).double(), torch.tensor([[1.5, 0.0], [-0.8, 0.4]]).double()
    p = exact.hierarchy.joint(layers, mean, root @ root.mT)
    z = mean + torch.randn(400_000, 2, generator=generator, dtype=torch.float64) @ root.mT
    for weight, bias, scale in reversed(layers):
        z = z @ weight.mT + bias + scale * torch.randn(len(z), len(bias), generator=generator, dtype=torch.float64)
    x = p.marginal("x")
    error = x.covariance.diagonal().sqrt() / len(z) ** 0.5
    assert ((z.mean(0) - x.mean) / error).abs().max() < 4
    # The product of two coordinates has variance C_ii C_jj + C_ij^2.
    C = x.covariance
    error = ((C.diagonal()[:, None] * C.diagonal() + C**2) / len(z)).sqrt()
    assert ((z.mT.cov(correction=0) - C) / error).abs().max() < 4


@pytest.mark.parametrize("widths", [(5, 3, 2), (5, 4, 3, 2), (3, 2, 2, 1, 1)])
def test_bottom_up_and_top_down_guides_made_of_regressions_are_the_posterior(widths):
    layers, x = random_layers(widths, 1)
    p = exact.hierarchy.joint(layers)
    latents = [f"z{k}" for k in range(1, len(widths))]
    posterior = p.given(x=x)

    # Only diagonal noise has a place in `child`, so the chain is put together from moments here.
    for order in (latents, latents[::-1]):
        first = p.regression(order[0], "x")
        mean, covariance = first.bias + x @ first.weights["x"].mT, first.covariance
        for before, name in pairwise(order):
            line = p.regression(name, (before, "x"))
            down = line.weights[before]
            mean = mean @ down.mT + line.bias + x @ line.weights["x"].mT
            covariance = down @ covariance @ down.mT + line.covariance
            torch.testing.assert_close(mean, posterior.marginal(name).mean, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(covariance, posterior.marginal(name).covariance, rtol=1e-9, atol=1e-9)
            if order is latents:  # z_{k+1} needs no x once z_k is known
                assert line.weights["x"].abs().max() < 1e-9


def test_a_layer_given_the_one_above_and_the_data_is_the_precision_weighted_merge():
    """Soenderby et al. 2016, eqs. 16 and 17, exact for z_1: precisions of p(z_1|z_2) and of the evidence x add."""
    layers, x = random_layers((6, 2, 2), 2)
    (W, b, s), (V, a, t) = layers
    z2 = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    evidence = W.mT @ torch.diag(s**-2) @ W
    precision = evidence + torch.diag(t**-2)
    shift = (x - b) / s**2 @ W + (z2 @ V.mT + a) / t**2
    q = exact.hierarchy.joint(layers).given(x=x, z2=z2).marginal("z1")
    torch.testing.assert_close(q.mean, torch.linalg.solve(precision, shift.mT).mT)
    torch.testing.assert_close(q.covariance, torch.linalg.inv(precision))


def test_the_bound_of_a_bottom_up_guide_agrees_with_samples():
    layers, x = random_layers((3, 2, 1), 5)
    x = x[:1]
    generator = torch.Generator().manual_seed(0)
    A, U = (torch.randn(*shape, generator=generator, dtype=torch.float64) / 2 for shape in ((2, 3), (1, 2)))
    p = exact.hierarchy.joint(layers)
    q = exact.JointGaussian.root("z1", x @ A.mT, 0.6).child("z2", {"z1": U}, torch.zeros(1), 0.8)
    bound = p.log_prob(x=x) - q.kl(p.given(x=x))

    density = torch.distributions.Normal
    noise = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    z1 = x @ A.mT + 0.6 * noise[:, :2]
    z2 = z1 @ U.mT + 0.8 * noise[:, 2:]
    (W, b, s), (V, a, t) = layers
    log_p = (
        density(z1 @ W.mT + b, s).log_prob(x).sum(-1)
        + density(z2 @ V.mT + a, t).log_prob(z1).sum(-1)
        + density(0.0, 1.0).log_prob(z2).sum(-1)
    )
    log_q = density(x @ A.mT, 0.6).log_prob(z1).sum(-1) + density(z1 @ U.mT, 0.8).log_prob(z2).sum(-1)
    log_weight = log_p - log_q
    assert ((log_weight.mean() - bound) / (log_weight.std() / len(noise) ** 0.5)).abs() < 4
    assert bound < p.log_prob(x=x)


def test_small_noise_keeps_its_digits():
    layers, _ = random_layers((20, 3, 2), 3)
    layers[0] = layers[0]._replace(scale=torch.tensor(1e-4).double())
    x = exact.hierarchy.joint(layers).mean[5:].expand(2, -1)
    x = x + torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double() @ layers[0].weight.mT
    top = exact.JointGaussian.root("z2", torch.zeros(2)).child("z1", {"z2": layers[1].weight}, *layers[1][1:])
    z1 = top.marginal("z1")
    # z1 = its mean + root e makes it one layer, solved without a D x D matrix.
    root = torch.linalg.cholesky(z1.covariance)
    W, b, s = layers[0]
    expected = exact.log_marginal(x, W @ root, b + W @ z1.mean, s)
    assert np.allclose(exact.hierarchy.joint(layers).log_prob(x=x), expected, rtol=1e-7)


def test_bad_input():
    layers, _ = random_layers((4, 3, 2))
    with pytest.raises(InputError, match=r"layers: expected at least one, p\(x\|z1\); got none"):
        exact.hierarchy.joint([])
    with pytest.raises(InputError, match=r"weight of 'x' on 'z1': expected shape \(..., 4, 2\); got \(4, 3\)"):
        exact.hierarchy.joint([layers[0], Layer(torch.ones(2, 2), torch.zeros(2))])
    with pytest.raises(InputError, match=r"weight of 'z1': expected shape \(..., D, L\); got \(3,\)"):
        exact.hierarchy.joint([layers[0], Layer(torch.ones(3), torch.zeros(3))])
    with pytest.raises(InputError, match=r"scale: expected positive standard deviations; got .* of 0"):
        exact.hierarchy.joint([layers[0]._replace(scale=0.0)])
    with pytest.raises(InputError, match=r"mean: expected shape \(..., 2\); got \(3,\)"):
        exact.hierarchy.joint(layers, torch.zeros(3))
    with pytest.raises(InputError, match=r"covariance: expected shape \(..., 2, 2\); got \(1, 1\)"):
        exact.hierarchy.joint(layers, covariance=torch.eye(1))
