"""Networks of Gaussians against their structural equations, SciPy and the precision form of conditioning."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from ppl_vae import exact
from ppl_vae.core.errors import InputError

SIZES = {"a": 2, "b": 3, "c": 1, "d": 4}
PARENTS = {"a": (), "b": ("a",), "c": ("a", "b"), "d": ("b",)}


def random_network(seed, dtype=torch.float64):
    """Return a `JointGaussian` over four variables, and its mean and covariance by (I - A)^-1, as arrays."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    starts = dict(zip(SIZES, np.cumsum([0, *SIZES.values()]), strict=False))
    n = sum(SIZES.values())
    A, offset, scales = np.zeros((n, n)), np.zeros(n), np.zeros(n)
    network = None
    for name, size in SIZES.items():
        bias, scale = draw(size), 0.2 + draw(size).abs()
        weights = {parent: draw(size, SIZES[parent]) for parent in PARENTS[name]}
        rows = slice(starts[name], starts[name] + size)
        for parent, weight in weights.items():
            A[rows, starts[parent] : starts[parent] + SIZES[parent]] = weight.double()
        offset[rows], scales[rows] = bias.double(), scale.double()
        if network is None:
            network = exact.JointGaussian.root(name, bias, scale)
        else:
            network = network.child(name, weights, bias, scale)
    inverse = np.linalg.inv(np.eye(n) - A)  # u = A u + b + s e, so that u = (I - A)^-1 (b + s e)
    return network, inverse @ offset, inverse @ np.diag(scales**2) @ inverse.T


def split(x, names):
    return dict(zip(names, x.split([SIZES[name] for name in names], -1), strict=True))


def places(names):
    starts = dict(zip(SIZES, np.cumsum([0, *SIZES.values()]), strict=False))
    return np.concatenate([np.arange(starts[name], starts[name] + SIZES[name]) for name in names])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(5))
def test_moments_are_those_of_the_structural_equations(seed, dtype):
    network, mean, covariance = random_network(seed, dtype)
    assert network.mean.dtype == torch.float64
    np.testing.assert_allclose(network.mean, mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(network.covariance, covariance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("names", [("d",), ("c", "a"), ("b", "d", "a", "c")])
@pytest.mark.parametrize("seed", range(5))
def test_log_prob_of_any_part_agrees_with_scipy(seed, names):
    network, mean, covariance = random_network(seed)
    rows = places(names)
    x = torch.randn(7, len(rows), generator=torch.Generator().manual_seed(seed + 100), dtype=torch.float64)
    expected = multivariate_normal(mean[rows], covariance[np.ix_(rows, rows)]).logpdf(x)
    np.testing.assert_allclose(network.log_prob(**split(x, names)), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("names", "on"), [(("a",), ("d",)), (("b", "a"), ("c", "d")), (("d", "c"), ("a",))])
@pytest.mark.parametrize("seed", range(5))
def test_conditionals_agree_with_the_precision_form(seed, names, on):
    """Bishop 2006, eqs. 2.73 and 2.75: covariance P_aa^-1 and mean m_a - P_aa^-1 P_ao (o - m_o), P = C^-1."""
    network, mean, covariance = random_network(seed)
    both = places([*names, *on])
    size = len(places(names))
    precision = np.linalg.inv(covariance[np.ix_(both, both)])
    own = np.linalg.inv(precision[:size, :size])
    values = torch.randn(6, len(both) - size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shift = values.numpy() - mean[both[size:]]
    expected = mean[both[:size]] - shift @ (own @ precision[:size, size:]).T

    given = network.marginal(*names, *on).given(**split(values, on))
    np.testing.assert_allclose(given.mean, expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(given.covariance, own, rtol=1e-8, atol=1e-8)
    assert list(given.sizes) == list(names)
    line = network.regression(names, on)
    parts = split(values, on)
    by_line = line.bias + sum(parts[name] @ line.weights[name].mT for name in on)
    np.testing.assert_allclose(by_line, expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(line.covariance, own, rtol=1e-8, atol=1e-8)


def test_a_joint_is_its_conditional_times_its_marginal():
    network, _, _ = random_network(3)
    x = torch.randn(5, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = split(x, SIZES)
    some = {name: parts.pop(name) for name in ("d", "b")}
    product = network.log_prob(**some) + network.given(**some).log_prob(**parts)
    torch.testing.assert_close(product, network.log_prob(**some, **parts), rtol=1e-10, atol=1e-10)


def test_a_batch_of_networks_gives_what_one_at_a_time_gives():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 1, 3, 2, generator=generator, dtype=torch.float64)  # four models, for any data
    bias = torch.randn(4, 1, 3, generator=generator, dtype=torch.float64)
    scale = 0.3 + torch.rand(4, 1, 3, generator=generator, dtype=torch.float64)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    top = exact.JointGaussian.root("z", torch.zeros(2))
    together = top.child("x", {"z": weight}, bias, scale)
    assert together.log_prob(x=x).shape == (4, 6)
    for i in range(4):
        one = top.child("x", {"z": weight[i, 0]}, bias[i, 0], scale[i, 0])
        torch.testing.assert_close(together.log_prob(x=x)[i], one.log_prob(x=x))
        torch.testing.assert_close(together.given(x=x).mean[i], one.given(x=x).mean)
        torch.testing.assert_close(together.given(x=x).covariance[i, 0], one.given(x=x).covariance)


@pytest.mark.parametrize("learned_prior", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_condition_is_an_offset(seed, learned_prior):
    """p(x|z,c) = N(Wz + Uc + b, s^2), p(z) = N(0, I) or p(z|c) = N(Vc + d, t^2): x given c is Gaussian (SciPy)."""
    generator = torch.Generator().manual_seed(seed)
    W, U, b, V, d = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((5, 2), (5, 3), (5,), (2, 3), (2,))
    )
    s, t = 0.2 + torch.rand(5, generator=generator).double(), 0.2 + torch.rand(2, generator=generator).double()
    if not learned_prior:
        V, d, t = torch.zeros(2, 3), torch.zeros(2), torch.ones(2)
    V, d, t = V.double(), d.double(), t.double()
    c, x = torch.randn(4, 3, generator=generator).double(), torch.randn(4, 5, generator=generator).double()
    network = exact.JointGaussian.root("z", c @ V.mT + d, t).child("x", {"z": W}, c @ U.mT + b, s)
    covariance = (W * t**2) @ W.mT + torch.diag(s**2)
    for i in range(4):
        expected = multivariate_normal(W @ (V @ c[i] + d) + U @ c[i] + b, covariance).logpdf(x[i])
        np.testing.assert_allclose(network.log_prob(x=x)[i], expected, rtol=1e-9)
    # The same by the closed form of one layer, whose prior is N(0, I): what c explains is taken off the data.
    unexplained = x - c @ U.mT - (c @ V.mT + d) @ W.mT
    torch.testing.assert_close(network.log_prob(x=x), exact.log_marginal(unexplained, W * t, b, s))
    mean, C = exact.posterior(unexplained, W * t, b, s)
    torch.testing.assert_close(network.given(x=x).mean, c @ V.mT + d + t * mean)
    torch.testing.assert_close(network.given(x=x).covariance, t[:, None] * C * t)


def test_bound_of_a_linear_guide_agrees_with_samples():
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    x = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    p = exact.JointGaussian.root("z", torch.zeros(2)).child("x", {"z": W}, torch.zeros(3), 0.7)
    loc, scale = torch.tensor([[0.3, -0.2]]).double(), torch.tensor([0.5, 0.9]).double()
    bound = p.log_prob(x=x) - exact.JointGaussian.root("z", loc, scale).kl(p.given(x=x))
    q = torch.distributions.Normal(loc, scale)
    z = loc + scale * torch.randn(200_000, 2, generator=generator, dtype=torch.float64)
    log_likelihood = torch.distributions.Normal(z @ W.mT, 0.7).log_prob(x).sum(-1)
    log_weight = log_likelihood + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
    assert ((log_weight.mean() - bound) / (log_weight.std() / len(z) ** 0.5)).abs() < 4


def test_kl_lines_variables_up_by_name():
    network, _, _ = random_network(2)
    turned = network.marginal("d", "a", "c", "b")
    assert network.kl(turned).abs() < 1e-9
    assert network.marginal("a", "b").kl(turned) < 1e-9  # over the variables of the first only


def test_gradients():
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((3, 2), (3,), (4, 3))
    ]

    def value(weight, bias, x):
        network = exact.JointGaussian.root("z", torch.zeros(2)).child("x", {"z": weight}, bias, 0.5)
        return network.log_prob(x=x), network.given(x=x).mean, network.given(x=x).covariance

    assert torch.autograd.gradcheck(value, inputs)


ROOT = exact.JointGaussian.root("z", torch.zeros(2))
NETWORK = ROOT.child("x", {"z": torch.ones(3, 2)}, torch.zeros(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact.JointGaussian.root("z", torch.tensor(0.0)), r"mean: expected shape \(..., n\); got a scalar"),
        (lambda: exact.JointGaussian.root("z", torch.zeros(2), -1.0), "scale: expected positive .* of -1; try"),
        (
            lambda: exact.JointGaussian.root("z", torch.zeros(2), torch.ones(3)),
            r"scale: expected .* \(..., 2\); got \(3,",
        ),
        (
            lambda: exact.JointGaussian.root("z", torch.full((2,), torch.nan)),
            "mean: expected finite values; got 2 of 2",
        ),
        (
            lambda: exact.JointGaussian({"z": 2}, torch.zeros(3), torch.eye(2)),
            r"mean: expected shape \(..., 2\); got \(3",
        ),
        (
            lambda: exact.JointGaussian({"z": 2}, torch.zeros(2), torch.eye(3)),
            r"covariance: expected .*2, 2\); got \(3, 3",
        ),
        (lambda: ROOT.child("z", {}, torch.zeros(1)), "name: expected a new variable; got 'z', which there is"),
        (
            lambda: ROOT.child("x", {"y": torch.ones(3, 2)}, torch.zeros(3)),
            "unknown variable: expected one of z; got 'y'",
        ),
        (
            lambda: ROOT.child("x", {"z": torch.ones(2, 2)}, torch.zeros(3)),
            r"weight of 'x' on 'z': expected shape \(..., 3, 2\); got \(2, 2\)",
        ),
        (
            lambda: ROOT.child("x", {"z": torch.full((3, 2), torch.inf)}, torch.zeros(3)),
            "weight of 'x' on 'z': expected finite values; got 6 of 6 not finite",
        ),
        (lambda: ROOT.child("x", {}, torch.tensor(0.0)), r"bias: expected shape \(..., D\); got a scalar"),
        (lambda: NETWORK.log_prob(x=torch.zeros(2)), r"x: expected shape \(..., 3\); got \(2,\)"),
        (lambda: NETWORK.log_prob(x=torch.full((3,), torch.nan)), "x: expected finite values; got 3 of 3"),
        (lambda: NETWORK.log_prob(), "variables: expected at least one, each once; got none"),
        (lambda: NETWORK.log_prob(X=torch.zeros(3)), "unknown variable: expected one of x, z; got 'X'"),
        (lambda: NETWORK.given(x=torch.zeros(3), z=torch.zeros(2)), "given: expected a variable that is not given"),
        (lambda: NETWORK.marginal("x", "x"), "variables: expected at least one, each once; got x, x"),
        (lambda: NETWORK.regression("x", "x"), "on: expected other variables than those asked for; got 'x' in both"),
        (
            lambda: exact.JointGaussian({"x": 2}, torch.zeros(2), torch.ones(2, 2)).log_prob(x=torch.zeros(2)),
            "covariance: expected a positive definite covariance",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
