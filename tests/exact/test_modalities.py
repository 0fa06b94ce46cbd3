"""Linear-Gaussian modalities, by products of experts, against one dense Gaussian, SciPy and each other."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from ppl_vae import exact
from ppl_vae.core.errors import InputError
from ppl_vae.exact import Layer, modalities

DIMS = {"image": 6, "joints": 4, "label": 1}
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(DIMS, size)]


def random_modalities(seed=0, L=2, B=5, dtype=torch.float64):
    """Return three modalities, one with a single noise for all coordinates, and values of B data."""
    generator = torch.Generator().manual_seed(seed)
    layers = {
        name: Layer(
            torch.randn(D, L, generator=generator, dtype=dtype),
            torch.randn(D, generator=generator, dtype=dtype),
            0.3 + torch.rand(D if name != "image" else (), generator=generator, dtype=dtype),
        )
        for name, D in DIMS.items()
    }
    return layers, {name: 2 * torch.randn(B, D, generator=generator, dtype=dtype) for name, D in DIMS.items()}


def some(values, names):
    return {name: values[name] for name in names}


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_subset_agrees_with_scipy(subset, dtype):
    for seed in range(10):
        layers, values = random_modalities(seed, dtype=dtype)
        weight = np.concatenate([layers[name].weight.double() for name in subset])
        bias = np.concatenate([layers[name].bias.double() for name in subset])
        variances = [layers[name].scale.double().square().expand(DIMS[name]) for name in subset]
        covariance = weight @ weight.T + np.diag(np.concatenate(variances))
        x = np.concatenate([values[name].double() for name in subset], -1)
        expected = multivariate_normal(bias, covariance).logpdf(x)
        value = modalities.log_marginal(some(values, subset), layers)
        assert value.dtype == torch.float64
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("subset", SUBSETS)
def test_the_product_of_experts_is_the_posterior_of_the_joint(subset):
    for seed in range(10):
        layers, values = random_modalities(seed)
        mean, covariance = modalities.posterior(some(values, subset), layers)
        dense = modalities.joint(layers).given(**some(values, subset)).marginal("z")
        torch.testing.assert_close(mean, dense.mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(covariance, dense.covariance, rtol=1e-9, atol=1e-9)


def test_experts_are_the_likelihood_as_a_function_of_the_latent():
    layers, values = random_modalities(2)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    for name, (A, h) in modalities.experts(values, layers).items():
        weight, bias, scale = layers[name]

        def log_likelihood(z, weight=weight, bias=bias, scale=scale, x=values[name]):
            return torch.distributions.Normal(z @ weight.mT + bias, scale).log_prob(x).sum(-1)

        difference = log_likelihood(z) - log_likelihood(torch.zeros_like(z))
        torch.testing.assert_close(difference, -0.5 * ((z @ A) * z).sum(-1) + (z * h).sum(-1))


def test_posteriors_of_single_modalities_multiply_over_the_prior():
    """p(z|x_S) = p(z)^(1 - |S|) prod p(z|x_m): precisions and shifts add (Wu & Goodman 2018)."""
    layers, values = random_modalities(3)
    single = [modalities.posterior({name: value}, layers) for name, value in values.items()]
    precisions = [torch.linalg.inv(covariance) for _, covariance in single]
    precision = sum(precisions) - 2 * torch.eye(2)
    shift = sum(mean @ P for (mean, _), P in zip(single, precisions, strict=True))
    mean, covariance = modalities.posterior(values, layers)
    torch.testing.assert_close(covariance, torch.linalg.inv(precision))
    torch.testing.assert_close(mean, shift @ covariance)


def test_masks_give_each_datum_what_its_own_subset_gives():
    layers, values = random_modalities(4, B=16)
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(16, generator=generator) < 0.5 for name in DIMS}
    assert len({tuple(bool(masks[name][i]) for name in DIMS) for i in range(16)}) > 5
    masks["label"][3] = masks["image"][3] = masks["joints"][3] = False
    hidden = {name: torch.where(masks[name][:, None], value, torch.nan) for name, value in values.items()}
    log_p = modalities.log_marginal(hidden, layers, masks)
    means, covariances = modalities.posterior(hidden, layers, masks)
    assert covariances.shape == (16, 2, 2)
    joint = modalities.joint(layers)
    for i in range(16):
        own = {name: values[name][i] for name in DIMS if masks[name][i]}
        if not own:
            assert log_p[i] == 0
            assert torch.equal(means[i], torch.zeros(2, dtype=torch.float64))
            assert torch.equal(covariances[i], torch.eye(2, dtype=torch.float64))
            continue
        torch.testing.assert_close(log_p[i], joint.log_prob(**own), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(means[i], joint.given(**own).marginal("z").mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(covariances[i], joint.given(**own).marginal("z").covariance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("targets", "given"),
    [(("image",), ("joints",)), (("label", "image"), ("joints",)), (("joints",), ("image", "label"))],
)
def test_conditional_likelihoods_agree_with_the_joint(targets, given):
    layers, values = random_modalities(5)
    together, alone = some(values, (*targets, *given)), some(values, given)
    difference = modalities.log_marginal(together, layers) - modalities.log_marginal(alone, layers)
    dense = modalities.joint(layers).given(**alone).log_prob(**some(values, targets))
    torch.testing.assert_close(difference, dense, rtol=1e-9, atol=1e-9)


def test_one_modality_is_the_linear_gaussian_model():
    layers, values = random_modalities(6)
    for name, layer in layers.items():
        torch.testing.assert_close(
            modalities.log_marginal({name: values[name]}, layers), exact.log_marginal(values[name], *layer)
        )


def test_gradients():
    layers, values = random_modalities(7, B=3)
    mask = torch.tensor([True, False, True])

    def value(weight, bias, scale, x):
        changed = layers | {"joints": Layer(weight, bias, scale)}
        return modalities.log_marginal({"joints": x, "label": values["label"]}, changed, {"joints": mask})

    inputs = [tensor.clone().requires_grad_() for tensor in (*layers["joints"], values["joints"])]
    assert torch.autograd.gradcheck(value, inputs)


GOOD = {"a": Layer(torch.ones(3, 2), torch.zeros(3)), "b": Layer(torch.ones(1, 2), torch.zeros(1))}
A = {"a": torch.zeros(4, 3)}


@pytest.mark.parametrize(
    ("values", "layers", "masks", "message"),
    [
        ({}, GOOD, {}, "values: expected at least one modality; got none"),
        ({"c": torch.zeros(4, 3)}, GOOD, {}, "unknown modality: expected one of a, b; got 'c'"),
        (A, GOOD, {"c": torch.ones(4).bool()}, "unknown modality: expected one of a, b; got 'c'"),
        ({"a": torch.zeros(4, 2)}, GOOD, {}, r"value of 'a': expected shape \(4, 3\); got \(4, 2\)"),
        (A | {"b": torch.zeros(5, 1)}, GOOD, {}, r"value of 'b': expected shape \(4, 1\); got \(5, 1\)"),
        (
            A,
            GOOD,
            {"a": torch.ones(3).bool()},
            r"mask of 'a': expected torch.bool of shape \(4,\); got torch.bool of .*3,",
        ),
        (A, GOOD, {"a": torch.ones(4)}, r"mask of 'a': expected torch.bool of shape \(4,\); got torch.float32"),
        ({"a": torch.full((4, 3), torch.nan)}, GOOD, {}, "value of 'a': expected finite values; got 12 of 12"),
        (A, GOOD | {"a": GOOD["a"]._replace(scale=-1.0)}, {}, "scale of 'a': expected positive standard deviations"),
        (
            A,
            GOOD | {"a": GOOD["a"]._replace(scale=torch.ones(2))},
            {},
            r"scale of 'a': expected a scalar or \(3,\); got",
        ),
        (
            A,
            GOOD | {"a": GOOD["a"]._replace(bias=torch.zeros(2))},
            {},
            r"bias of 'a': expected shape \(3,\); got \(2,\)",
        ),
        (
            A,
            GOOD | {"b": Layer(torch.ones(1, 3), torch.zeros(1))},
            {},
            r"modalities: expected weights \(D_m, L\) of one L",
        ),
        (A, {}, {}, r"modalities: expected weights \(D_m, L\) of one L; got none"),
    ],
)
def test_bad_input(values, layers, masks, message):
    for function in (modalities.log_marginal, modalities.posterior):
        with pytest.raises(InputError, match=message) as caught:
            function(values, layers, masks)
        assert "\n" not in str(caught.value)


def test_a_modality_cannot_be_called_as_the_latent():
    with pytest.raises(InputError, match="name: expected a new variable; got 'z'"):
        modalities.joint({"z": GOOD["a"]})
