"""Models: PPCA's program against its closed forms; every model generates, scores per datum, and takes particles."""

from __future__ import annotations

import re

import numpy as np
import pyro
import pytest
import scipy.stats
import torch
from pairs import LEVELS, PAIRS, B, D, L
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae import exact
from ppl_vae.core.config import describe, rebuild
from ppl_vae.core.errors import InputError
from ppl_vae.models import PPCA, VAE
from ppl_vae.nn import likelihoods
from ppl_vae.nn.mlp import MLP

F64 = torch.float64


@pytest.fixture(params=[name for name, case in PAIRS.items() if case.is_z_of_x])
def case(request):
    return PAIRS[request.param]


def trace_of(program, **arguments):
    trace = poutine.trace(program).get_trace(**arguments)
    trace.compute_log_prob()
    return trace


def under_particles(program, K):
    def run(**arguments):
        with pyro.plate("particles", K, dim=-2):
            return program(**arguments)

    return run


def doubled(batch):
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def log_density(model, batch, z):
    """Return log p(x, z) of the batch by the program, shape (..., B)."""
    return sum(
        site["log_prob"]
        for site in trace_of(poutine.condition(model, {"z": z}), **batch).nodes.values()
        if site["type"] == "sample" and site["name"] != "data"
    )


def ppca(noise):
    model = PPCA(D, L, noise).double()
    with torch.no_grad():
        model.bias.normal_()
        model.log_scale.normal_()
    return model


def test_generates_and_scores(case):
    model, _ = case.build()
    batch = case.batch()
    trace = trace_of(model, **batch)
    assert trace.nodes["z"]["log_prob"].shape == trace.nodes["x"]["log_prob"].shape == (B,)
    assert trace.nodes["x"]["is_observed"]
    trace = trace_of(model, size=5, **case.conditions(5))
    assert trace.nodes["x"]["value"].shape == (5, *case.x_shape)
    assert not trace.nodes["x"]["is_observed"]
    assert trace.nodes["x"]["fn"].support.check(trace.nodes["x"]["value"]).all()


def test_particles_are_one_more_plate(case):
    model, _ = case.build()
    model.eval()
    batch = case.batch()
    trace = trace_of(under_particles(model, 4), **batch)
    z = trace.nodes["z"]["value"]
    assert z.shape == (4, B, model.latent_dim)
    assert trace.nodes["x"]["log_prob"].shape == (4, B)
    loop = torch.stack([log_density(model, batch, z[k]) for k in range(4)])
    torch.testing.assert_close(log_density(under_particles(model, 4), batch, z), loop, rtol=1e-4, atol=1e-4)
    generated = trace_of(under_particles(model, 4), size=3, **case.conditions(3)).nodes["x"]["value"]
    assert generated.shape == (4, 3, *case.x_shape)


def test_gradient_reaches_every_parameter(case):
    model, _ = case.build()
    trace = trace_of(model, **case.batch())
    trace.nodes["x"]["log_prob"].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_float64(case):
    model, _ = case.build()
    model.double()
    trace = trace_of(model, **doubled(case.batch()))
    assert trace.log_prob_sum().dtype == F64
    assert model(size=2, **doubled(case.conditions(2))).dtype == F64


def test_rebuilt_from_its_description(case):
    model, _ = case.build()
    twin = rebuild(describe(model))
    twin.load_state_dict(model.state_dict())
    batch, z = case.batch(), torch.randn(B, model.latent_dim)
    assert torch.equal(log_density(twin.eval(), batch, z), log_density(model.eval(), batch, z))


@pytest.mark.slow
def test_step_can_be_recorded(case):
    """No value is read back and no branch depends on data: the whole bound traces to one graph that gives the same."""
    model, guide = case.build()
    names, tensors = zip(*case.batch().items(), strict=True)

    def bound(*values):
        batch = dict(zip(names, values, strict=True))
        q = trace_of(guide, **batch)
        return trace_of(poutine.replay(model, q), **batch).log_prob_sum() - q.log_prob_sum()

    with pyro.validation_enabled(False):
        graph = make_fx(bound)(*tensors)
        torch.manual_seed(3)
        expected = bound(*tensors)
        torch.manual_seed(3)
        torch.testing.assert_close(graph(*tensors), expected)


def test_shape_errors(case):
    model, _ = case.build()
    wide = (*case.x_shape[:-1], 100)
    if len(case.x_shape) == 1:
        message = f"x: expected last dimension {case.x_shape[0]}; got (32, 100)"
    else:
        message = f"x: expected last dimensions {case.x_shape}; got {(32, *wide)}"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        model(torch.zeros(32, *wide), **case.conditions(32))
    with pytest.raises(
        InputError, match=re.escape(f"x: expected a batch (B, {', '.join(map(str, case.x_shape))}); got")
    ):
        model(torch.zeros(case.x_shape), **case.conditions())
    if not case.conditions():  # tests/test_cvae.py has the others' errors
        with pytest.raises(
            InputError, match=r"^model: expected x to score, or size to generate; got neither; try model\(size=64\)$"
        ):
            model()
        with pytest.raises(InputError, match=r"^size: expected an integer >= 1; got 0$"):
            model(size=0)
    with pytest.raises(InputError, match=r"^size: expected 6, the (batch size of x|rows of c); got 5$"):
        model(size=5, **case.batch())
    with pytest.raises(InputError, match=rf"^z: expected last dimension {model.latent_dim}; got \(3, 9\)$"):
        model.decode(torch.zeros(3, 9), **case.conditions(3))


@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
def test_ppca_program_against_its_exact_answers(noise):
    """log p(x, z) - log p(z|x) = log p(x), at any z; the three come from the program and two closed forms."""
    model = ppca(noise)
    x, z = torch.randn(5, D, dtype=F64), 2 * torch.randn(7, 5, L, dtype=F64)
    mean, covariance = model.posterior(x)
    assert mean.shape == (5, L)
    assert covariance.shape == (L, L)
    log_posterior = torch.distributions.MultivariateNormal(mean, covariance).log_prob(z)
    joint = log_density(under_particles(model, 7), {"x": x}, z)
    marginal = model.log_marginal(x)
    torch.testing.assert_close(joint - log_posterior, marginal.expand(7, 5), rtol=1e-10, atol=1e-10)

    W, b, s = (t.detach().numpy() for t in (model.weight, model.bias, model.log_scale.exp()))
    dense = scipy.stats.multivariate_normal(b, W @ W.T + np.eye(D) * s**2).logpdf(x.numpy())
    np.testing.assert_allclose(marginal.detach().numpy(), dense, rtol=1e-10)


@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
def test_ppca_generates_its_marginal(noise):
    model = ppca(noise)
    count = 40_000
    x = model(size=count).detach()
    W, b, s = model.weight.detach(), model.bias.detach(), model.log_scale.detach().exp()
    covariance = W @ W.T + torch.eye(D, dtype=F64) * s**2
    variance = covariance.diagonal()
    assert ((x.mean(0) - b).abs() < 4.5 * (variance / count).sqrt()).all()
    # For Gaussians, count * var(sample covariance_ij) = c_ii c_jj + c_ij^2.
    standard_error = ((torch.outer(variance, variance) + covariance**2) / count).sqrt()
    assert ((torch.cov(x.T) - covariance).abs() < 4.5 * standard_error).all()


def test_ppca_of_maximum_likelihood():
    x = ppca("isotropic")(size=200).detach()
    model = PPCA.maximum_likelihood(x, L)
    best = model.log_marginal(x).mean()
    W, b, s = exact.ppca_maximum_likelihood(x, L)
    torch.testing.assert_close(best, exact.log_marginal(x, W, b, s).mean())
    best.backward()  # a maximum: the gradient vanishes
    assert model.weight.dtype == F64
    assert max(parameter.grad.abs().max() for parameter in model.parameters()) < 1e-10
    assert rebuild(describe(model)).weight.shape == (D, L)


def test_ppca_starts_at_unit_length():
    weight = PPCA(5000, 3).weight.detach()
    lengths = weight.square().sum(0)  # chi squared over its degrees: mean 1, variance 2/D
    assert ((lengths - 1).abs() < 4.5 * (2 / 5000) ** 0.5).all()


def test_ppca_set_parameters():
    model = PPCA(3, 2, noise="diagonal")
    W, b, s = torch.randn(3, 2), torch.randn(3), torch.rand(3) + 0.1
    model.set_parameters(W, b, s)
    p = model.decode(torch.tensor([[1.0, -2.0]]))
    torch.testing.assert_close(p.mean, (W @ torch.tensor([1.0, -2.0]) + b)[None])
    torch.testing.assert_close(p.base_dist.scale, s[None])
    before = model.weight.clone()
    with pytest.raises(InputError, match=r"^scale: expected standard deviations > 0; got -1$"):
        model.set_parameters(W, b, -torch.ones(3))
    with pytest.raises(InputError, match=r"^scale: expected shape \(3,\); got \(\)$"):
        model.set_parameters(W + 1, b, torch.tensor(1.0))
    with pytest.raises(InputError, match=r"^weight: expected shape \(3, 2\); got \(2, 3\)$"):
        model.set_parameters(W.T, b, s)
    assert torch.equal(model.weight, before)


def test_vae_joint_density_by_hand():
    model = VAE(D, L, hidden=(5,)).double()
    x, z = torch.randint(2, (4, D)).to(F64), torch.randn(4, L, dtype=F64)
    h = model.decode.network(z).detach().numpy()
    by_hand = scipy.stats.norm.logpdf(z).sum(-1) + scipy.stats.bernoulli(scipy.special.expit(h)).logpmf(x).sum(-1)
    np.testing.assert_allclose(log_density(model, {"x": x}, z).detach().numpy(), by_hand, rtol=1e-10)


def test_vae_with_shaped_data_is_the_flat_one():
    flat = VAE(12, L, hidden=(5,), likelihood=likelihoods.Normal("decoder"))
    shaped = VAE((3, 4), L, hidden=(5,), likelihood=likelihoods.Normal("decoder"))
    shaped.load_state_dict(flat.state_dict())
    x, z = torch.randn(6, 12), torch.randn(6, L)
    torch.testing.assert_close(log_density(shaped, {"x": x.reshape(6, 3, 4)}, z), log_density(flat, {"x": x}, z))
    assert shaped.decode(z).mean.shape == (6, 3, 4)


@pytest.mark.parametrize("x_shape", [(6,), (2, 3)])
def test_vae_reads_the_decoder_s_output_parameter_by_parameter(x_shape):
    model = VAE(x_shape, 12, likelihood=likelihoods.Normal("decoder"), decoder=torch.nn.Identity())
    z = torch.randn(4, 12)
    p = model.decode(z).base_dist
    torch.testing.assert_close(p.loc, z[:, :6].reshape(4, *x_shape))
    torch.testing.assert_close(p.scale, torch.nn.functional.softplus(z[:, 6:]).reshape(4, *x_shape) + 1e-3)


def test_vae_takes_names_and_modules():
    model = VAE(D, L, likelihood="normal-learned", activation="relu", hidden=(3,))
    assert "decode.likelihood.log_scale" in dict(model.named_parameters())
    assert [layer.out_features for layer in model.decode.network.layers[::2]] == [3, D]
    own = torch.nn.Linear(L, LEVELS * D)
    assert VAE(D, L, likelihood=likelihoods.Categorical(LEVELS), decoder=own)(size=2).shape == (2, D)


def test_in_a_plain_svi_script(case):
    """Every parameter, those of networks and likelihood too, moves under Pyro's own SVI."""
    model, guide = case.build()
    before = {
        name: p.detach().clone() for m in (model, guide) for name, p in m.named_parameters(prefix=type(m).__name__)
    }
    svi = SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO(num_particles=2, vectorize_particles=True))
    for _ in range(2):
        assert np.isfinite(svi.step(**case.batch()))
    after = {name: p.detach() for m in (model, guide) for name, p in m.named_parameters(prefix=type(m).__name__)}
    assert [name for name in before if torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PPCA(0, 1), "x_dim: expected an integer >= 1; got 0"),
        (lambda: PPCA(3, 0), "latent_dim: expected an integer >= 1; got 0"),
        (
            lambda: PPCA(3, 1, noise="isotopic"),
            "unknown noise: expected one of diagonal, isotropic; got 'isotopic'; try 'isotropic'",
        ),
        (lambda: VAE(D, 0), "latent_dim: expected an integer >= 1; got 0"),
        (lambda: VAE((), 2), "x_shape: expected at least one dimension; got ()"),
        (lambda: VAE((3, -1), 2), "x_shape: expected an integer >= 1; got -1"),
        (lambda: VAE(D, 2, activation="rely"), "got 'rely'; try 'relu'"),
        (lambda: VAE(D, 2, likelihood="bernouli"), "got 'bernouli'; try 'bernoulli'"),
        (
            lambda: VAE(D, 2, decoder=MLP(2, 7))(size=3),
            "output of the decoder: expected last dimension 8; got (3, 7)",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build()
