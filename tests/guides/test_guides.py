"""Guides: each covariance against its formula, draws, particles, and the exact posterior in the linear family."""

from __future__ import annotations

import re

import numpy as np
import pyro
import pytest
import scipy.stats
import torch
from pairs import PAIRS, B, D
from pyro import poutine
from torch import nn

from ppl_vae.core.config import describe, rebuild
from ppl_vae.core.errors import InputError
from ppl_vae.guides import AmortizedNormal, LinearGaussian
from ppl_vae.models import PPCA
from ppl_vae.nn.mlp import MLP

F64 = torch.float64
KINDS = ("diagonal", "isotropic", "full")


@pytest.fixture(params=[name for name, case in PAIRS.items() if case.is_z_of_x])
def case(request):
    return PAIRS[request.param]


def trace_of(program, **arguments):
    trace = poutine.trace(program).get_trace(**arguments)
    trace.compute_log_prob()
    return trace


def covariance_by_hand(spread, L, kind):
    """Return C (L, L) from the encoder's last outputs, entry by entry."""
    if kind == "diagonal":
        return np.diag(np.exp(2 * spread))
    if kind == "isotropic":
        return np.exp(2 * spread[0]) * np.eye(L)
    padded = np.concatenate((spread[L:], spread[::-1])).reshape(L, L)
    T = np.zeros((L, L))
    for i in range(L):
        for j in range(i + 1):
            T[i, j] = np.exp(padded[i, i]) if i == j else padded[i, j]
    return T @ T.T


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("L", [1, 2, 3, 5])
def test_covariances_against_their_formulas(kind, L):
    outputs = AmortizedNormal.outputs(L, kind)
    guide = AmortizedNormal(outputs, L, covariance=kind, encoder=nn.Identity())
    parameters, z = torch.randn(4, outputs, dtype=F64), torch.randn(4, L, dtype=F64)
    log_prob = guide.posterior(parameters).log_prob(z).numpy()
    for row in range(4):
        mean, spread = parameters[row, :L].numpy(), parameters[row, L:].numpy()
        C = covariance_by_hand(spread, L, kind)
        np.testing.assert_allclose(log_prob[row], scipy.stats.multivariate_normal(mean, C).logpdf(z[row]), rtol=1e-9)


@pytest.mark.parametrize("L", [1, 2, 3, 5, 8])
def test_full_covariance_uses_every_output_once(L):
    outputs = AmortizedNormal.outputs(L, "full")
    guide = AmortizedNormal(outputs, L, covariance="full", encoder=nn.Identity())
    spread = torch.arange(1.0, outputs - L + 1) / outputs
    T = guide.posterior(torch.cat((torch.zeros(L), spread))).scale_tril
    assert torch.equal(T, T.tril())
    lower = torch.where(torch.eye(L) > 0, T.log(), T)[torch.ones(L, L).tril() > 0]
    torch.testing.assert_close(lower.sort().values, spread)


def test_samples_per_datum(case):
    model, guide = case.build()
    trace = trace_of(guide, **case.batch())
    assert trace.nodes["z"]["value"].shape == (B, model.latent_dim)
    assert trace.nodes["z"]["log_prob"].shape == (B,)
    assert trace.nodes["z"]["fn"].has_rsample


def test_particles_are_one_more_plate(case):
    _, guide = case.build()
    guide.eval()
    batch = case.batch()
    with pyro.plate("particles", 4, dim=-2):
        trace = trace_of(guide, **batch)
    z, log_prob = trace.nodes["z"]["value"], trace.nodes["z"]["log_prob"]
    assert log_prob.shape == (4, B)
    q = guide.posterior(**batch)
    torch.testing.assert_close(log_prob, torch.stack([q.log_prob(row) for row in z]), rtol=1e-4, atol=1e-4)
    assert torch.equal(z[0], z[1]) == case.point


def test_posterior_takes_any_leading_dimensions(case):
    _, guide = case.build()
    guide.eval()
    x, given = torch.stack([case.batch(seed=seed)["x"] for seed in range(3)]), case.conditions()
    z = torch.randn(3, B, guide.latent_dim)
    q = guide.posterior(x, **given)
    assert q.batch_shape == (3, B)
    loop = torch.stack([guide.posterior(x[k], **given).log_prob(z[k]) for k in range(3)])
    torch.testing.assert_close(q.log_prob(z), loop, rtol=1e-4, atol=1e-4)
    assert guide.posterior(x[0, 0], **{name: value[0] for name, value in given.items()}).batch_shape == ()


def test_gradient_reaches_every_parameter(case):
    _, guide = case.build()
    trace = trace_of(guide, **case.batch())
    z = trace.nodes["z"]["value"]
    (trace.nodes["z"]["log_prob"].sum() + (z * torch.arange(1.0, B + 1).unsqueeze(-1)).sum()).backward()
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_float64(case):
    _, guide = case.build()
    batch = {name: x.double() if x.is_floating_point() else x for name, x in case.batch().items()}
    trace = trace_of(guide.double(), **batch)
    assert trace.log_prob_sum().dtype == F64


def test_rebuilt_from_its_description(case):
    _, guide = case.build()
    twin = rebuild(describe(guide))
    twin.load_state_dict(guide.state_dict())
    batch, z = case.batch(), torch.randn(B, guide.latent_dim)
    assert torch.equal(twin.eval().posterior(**batch).log_prob(z), guide.eval().posterior(**batch).log_prob(z))


@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
@pytest.mark.parametrize("L", [1, 3])
def test_linear_family_holds_the_exact_posterior(noise, L):
    model, guide = PPCA(D, L, noise).double(), LinearGaussian(D, L).double()
    model.bias.data.normal_()
    model.log_scale.data.normal_()
    probe = torch.cat((torch.zeros(1, D, dtype=F64), torch.eye(D, dtype=F64)))  # the mean is affine: read off A and a
    means, covariance = model.posterior(probe)
    guide.set_posterior((means[1:] - means[0]).T, means[0], covariance)
    x = torch.randn(5, D, dtype=F64)
    q, (mean, covariance) = guide.posterior(x), model.posterior(x)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.covariance_matrix, covariance.expand(5, L, L))
    # With the exact posterior, every log weight is log p(x), whatever z was drawn.
    trace = trace_of(guide, x=x)
    joint = trace_of(poutine.replay(model, trace), x=x)
    weights = joint.nodes["x"]["log_prob"] + joint.nodes["z"]["log_prob"] - trace.nodes["z"]["log_prob"]
    torch.testing.assert_close(weights, model.log_marginal(x), rtol=1e-9, atol=1e-9)


def test_linear_guide_by_hand():
    guide = LinearGaussian(3, 2).double()
    guide.offset.data.normal_()
    guide.tril.data.normal_()
    raw = guide.tril.detach().numpy()
    T = np.array([[np.exp(raw[0, 0]), 0], [raw[1, 0], np.exp(raw[1, 1])]])
    x, z = torch.randn(4, 3, dtype=F64), torch.randn(4, 2, dtype=F64)
    mean = x.numpy() @ guide.gain.detach().numpy().T + guide.offset.detach().numpy()
    expected = [scipy.stats.multivariate_normal(m, T @ T.T).logpdf(row) for m, row in zip(mean, z, strict=True)]
    np.testing.assert_allclose(guide.posterior(x).log_prob(z).detach().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_posterior_s_moments(kind):
    guide = AmortizedNormal(D, 2, hidden=(4,), covariance=kind).double()
    q = guide.posterior(torch.randn(D, dtype=F64))
    mean = q.mean.detach()
    count = 40_000
    z = q.sample((count,))
    covariance = q.covariance_matrix.detach() if kind == "full" else q.variance.detach().expand(2).diag()
    variance = covariance.diagonal()
    assert ((z.mean(0) - mean).abs() < 4.5 * (variance / count).sqrt()).all()
    standard_error = ((torch.outer(variance, variance) + covariance**2) / count).sqrt()
    assert ((torch.cov(z.T) - covariance).abs() < 4.5 * standard_error).all()


def test_shape_errors(case):
    _, guide = case.build()
    with pytest.raises(InputError, match=r"^guide: expected an observation x; got None; try guide\(x=x"):
        guide(size=3)
    if len(case.x_shape) == 1:
        message = rf"^x: expected last dimension {case.x_shape[0]}; got \(32, 100\)$"
        with pytest.raises(InputError, match=message):
            guide(torch.zeros(32, 100), **case.conditions(32))
        with pytest.raises(InputError, match=message):
            guide.posterior(torch.zeros(32, 100), **case.conditions(32))
    with pytest.raises(InputError, match=r"^x: expected a batch \(B, "):
        guide(torch.zeros(case.x_shape), **case.conditions())
    with pytest.raises(InputError, match=r"^size: expected 6, the (batch size of x|rows of c); got 5$"):
        guide(size=5, **case.batch())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AmortizedNormal(D, 0), "latent_dim: expected an integer >= 1; got 0"),
        (lambda: AmortizedNormal(0, 2), "x_shape: expected an integer >= 1; got 0"),
        (lambda: AmortizedNormal(D, 2, activation="softpluss"), "got 'softpluss'; try 'softplus'"),
        (
            lambda: AmortizedNormal(D, 2, covariance="fulll"),
            "unknown covariance: expected one of diagonal, full, isotropic; got 'fulll'; try 'full'",
        ),
        (
            lambda: AmortizedNormal(D, 2, encoder=MLP(D, 3)).posterior(torch.zeros(5, D)),
            "output of the encoder: expected last dimension 4; got (5, 3)",
        ),
        (lambda: LinearGaussian(0, 2), "x_dim: expected an integer >= 1; got 0"),
        (lambda: LinearGaussian(D, 0), "latent_dim: expected an integer >= 1; got 0"),
        (
            lambda: LinearGaussian(3, 2).set_posterior(torch.zeros(3, 2), torch.zeros(2), torch.eye(2)),
            "gain: expected shape (2, 3); got (3, 2)",
        ),
        (
            lambda: LinearGaussian(3, 2).set_posterior(torch.zeros(2, 3), torch.zeros(2), -torch.eye(2)),
            "covariance: expected a positive definite matrix; got one that is not",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build()
