"""Networks: shapes over tables of sizes, a stacked call equals a loop, gradients, initialisation, errors by message."""

from __future__ import annotations

import copy
import math
import re

import numpy as np
import pytest
import torch

from ppl_vae.compile import graph as recording
from ppl_vae.core.config import describe, rebuild
from ppl_vae.core.errors import InputError
from ppl_vae.nn.conv import ConvDecoder, ConvEncoder
from ppl_vae.nn.mlp import ACTIVATIONS, MLP, BatchNorm

NETWORKS = {
    "mlp": lambda: MLP(48, 5, (6, 4), "relu"),
    "mlp-affine": lambda: MLP(48, 5, ()),
    "mlp-batch-norm": lambda: MLP(48, 5, (6, 4), "tanh", batch_norm=True, init="glorot"),
    "conv-encoder": lambda: ConvEncoder((1, 8, 6), 5, (3, 4)),
    "conv-encoder-plain": lambda: ConvEncoder((2, 6, 4), 5, (3,), batch_norm=False),
    "conv-decoder": lambda: ConvDecoder(48, (2, 5, 7), 3, (4, 3)),
    "conv-decoder-plain": lambda: ConvDecoder(48, (1, 8, 6), 1, (4,), batch_norm=False),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("lead", [(), (1,), (3,), (4, 3), (2, 4, 3)])
def test_any_leading_dimensions(network, generator, lead):
    network.eval()
    x = torch.randn(*lead, 48, generator=generator)
    y = network(x)
    assert y.shape == (*lead, network.out_features)
    rows = torch.stack([network(row) for row in x.reshape(-1, 48)])
    torch.testing.assert_close(y.reshape(-1, network.out_features), rows, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_parameter(network, generator):
    y = network(torch.randn(2, 6, 48, generator=generator))
    (y * torch.randn(y.shape, generator=generator)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 1e-6, name


def test_trains_on_one_row_and_in_float64(network, generator):
    y = network.double()(torch.randn(1, 48, dtype=torch.float64, generator=generator))
    assert y.dtype == torch.float64
    assert y.isfinite().all()


def test_rebuilt_from_its_description(network, generator):
    twin = rebuild(describe(network))
    assert {n: p.shape for n, p in twin.state_dict().items()} == {n: p.shape for n, p in network.state_dict().items()}
    twin.load_state_dict(network.state_dict())
    x = torch.randn(3, 48, generator=generator)
    assert torch.equal(twin.eval()(x), network.eval()(x))


def test_input_of_wrong_size(network):
    with pytest.raises(InputError, match=r"^input of \w+: expected last dimension 48; got \(32, 100\)$"):
        network(torch.zeros(32, 100))


# Shapes of parts that broadcast against each other: what all classes, or all data, have in common stands there once.
PARTS = [((6, 20), (6, 28)), ((5, 1, 28), (6, 20)), ((6, 20), (5, 1, 28)), ((2, 6, 20), (6, 20), (5, 1, 1, 8))]


@pytest.mark.parametrize("shapes", PARTS)
@pytest.mark.parametrize("name", ["mlp", "mlp-affine", "mlp-batch-norm"])
def test_several_inputs_are_their_concatenation(name, shapes, generator):
    network = NETWORKS[name]().double()
    twin = copy.deepcopy(network)
    parts = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    y = network(*parts)
    wanted = twin(torch.cat([part.expand(*leading, -1) for part in parts], -1))
    assert y.shape == (*leading, 5)
    torch.testing.assert_close(y, wanted, rtol=1e-10, atol=1e-10)
    weight = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((value * weight).sum(), [*module.parameters(), *parts])
        for value, module in ((y, network), (wanted, twin))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
    for (key, buffer), other in zip(network.named_buffers(), twin.buffers(), strict=True):  # running averages
        torch.testing.assert_close(buffer, other, msg=key)


@pytest.mark.parametrize(
    "compiled",
    [
        False,
        pytest.param(
            True,
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not recording.has_compiler(), reason="Inductor needs a C++ compiler"),
            ],
        ),
    ],
)
def test_several_inputs_recorded(compiled, generator):
    network = MLP(48, 5, (6, 4), "softplus")
    parts = [torch.randn(6, 20, generator=generator), torch.randn(5, 1, 28, generator=generator)]

    def compute(*values):
        leaves = [value.detach().requires_grad_() for value in values]
        with torch.enable_grad():
            y = network(*leaves)
            return [y.detach(), *torch.autograd.grad(y.sin().sum(), leaves)]

    torch.testing.assert_close(
        recording.record(compute, parts, compiled=compiled)(*parts), compute(*parts), rtol=1e-5, atol=1e-6
    )


def test_parts_of_wrong_size():
    with pytest.raises(InputError, match=r"^input of MLP: expected last dimension 48; got \(6, 20\), \(6, 20\)$"):
        MLP(48, 5)(torch.zeros(6, 20), torch.zeros(6, 20))


SIZES = [(8, 8), (28, 28), (28, 20), (64, 64), (32, 32), (7, 5), (4, 4), (5, 4), (15, 16), (1 + 28, 28)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_fit_any_picture(size, channels):
    shape = (channels, *size)
    encoder, decoder = ConvEncoder(shape, 7, (2, 3)), ConvDecoder(7, shape, 2, (3, 2))
    assert encoder(torch.zeros(2, math.prod(shape))).shape == (2, 7)
    assert decoder(torch.zeros(2, 7)).shape == (2, 2 * math.prod(shape))


def test_dcgan_layout():
    encoder, decoder = ConvEncoder((1, 64, 64), 10, (32, 64, 128)), ConvDecoder(10, (1, 64, 64), 1, (128, 64, 32))
    assert [type(layer).__name__ for layer in encoder.layers] == [
        *("Conv2d", "ReLU"),
        *("Conv2d", "BatchNorm", "ReLU") * 2,
        *("Flatten", "Linear"),
    ]
    assert [type(layer).__name__ for layer in decoder.layers] == [
        *("Linear", "Unflatten"),
        *("BatchNorm", "ReLU", "ConvTranspose2d") * 3,
    ]
    assert encoder.layers[-1].in_features == decoder.layers[0].out_features == 128 * 8 * 8
    # A bias stands exactly where no normalisation follows.
    assert encoder.layers[0].bias is not None
    assert encoder.layers[2].bias is None
    assert [layer.bias is not None for layer in decoder.layers if hasattr(layer, "output_padding")] == [
        False,
        False,
        True,
    ]


def test_decoder_parameters_are_laid_out_first():
    decoder = ConvDecoder(3, (2, 4, 4), 3, (4,))
    last = decoder.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(6.0))
    planes = decoder(torch.zeros(1, 3)).reshape(3, 2, 16)  # (P, C, H*W)
    assert torch.equal(planes, torch.arange(6.0).reshape(3, 2, 1).expand(3, 2, 16))


def test_mlp_against_numpy(generator):
    network = MLP(4, 2, (3,), "tanh")
    x = torch.randn(5, 4, generator=generator)
    first, _, second = network.layers
    W, b, V, c = (t.detach().numpy() for t in (first.weight, first.bias, second.weight, second.bias))
    np.testing.assert_allclose(
        network(x).detach().numpy(), np.tanh(x.numpy() @ W.T + b) @ V.T + c, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_bends(activation):
    network = MLP(1, 1, (5,), activation).double()
    y = network(torch.tensor([[-2.0], [0.0], [2.0]], dtype=torch.float64))
    assert (y[0] + y[2] - 2 * y[1]).abs() > 1e-4


def test_glorot_initialisation():
    layer = MLP(300, 10, (200,), init="glorot").layers[0]
    assert torch.equal(layer.bias, torch.zeros(200))
    bound = (6 / 500) ** 0.5  # uniform: variance bound^2 / 3, kurtosis 9/5, so the variance's standard error is known
    count = layer.weight.numel()
    standard_error = bound**2 / 3 * (0.8 / count) ** 0.5
    assert layer.weight.abs().max() <= bound
    assert abs(layer.weight.var() - bound**2 / 3) < 4 * standard_error


def test_batch_norm_normalises_over_particles_too(generator):
    x = 5 + 3 * torch.randn(40, 3, generator=generator)
    network = BatchNorm(3)
    y = network(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(0, unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
    stacked, flat = MLP(4, 2, (3,), batch_norm=True), torch.randn(12, 4, generator=generator)
    torch.testing.assert_close(stacked(flat.reshape(3, 4, 4)).reshape(12, 2), stacked(flat))


def test_batch_norm_of_one_row_uses_running_statistics():
    network = BatchNorm(2)
    network.running_mean.copy_(torch.tensor([1.0, 2.0]))
    network.running_var.copy_(torch.tensor([4.0, 9.0]))
    torch.testing.assert_close(network(torch.tensor([[3.0, 8.0]])), torch.tensor([[1.0, 2.0]]), atol=1e-5, rtol=0)
    assert torch.equal(network.running_mean, torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP(0, 1), "in_features: expected an integer >= 1; got 0"),
        (lambda: MLP(1, 2.5), "out_features: expected an integer >= 1; got 2.5"),
        (lambda: MLP(1, 1, (5, 0)), "hidden: expected an integer >= 1; got 0"),
        (lambda: MLP(1, 1, "200"), "hidden: expected an integer >= 1; got '200'"),
        (lambda: MLP(1, 1, activation="tahn"), "unknown activation: expected one of elu, "),
        (lambda: MLP(1, 1, activation="tahn"), "got 'tahn'; try 'tanh'"),
        (
            lambda: MLP(1, 1, init="glorott"),
            "unknown init: expected one of default, glorot; got 'glorott'; try 'glorot'",
        ),
        (lambda: ConvEncoder((28, 28), 1), "image_shape: expected (channels, height, width); got (28, 28)"),
        (
            lambda: ConvDecoder(1, (1, 8, 6), channels=(8, 4, 2)),
            "image_shape: expected height and width >= 8 for 3 strided convolutions; got (1, 8, 6); try fewer channels",
        ),
        (lambda: ConvEncoder((1, 8, 8), 1, ()), "channels: expected at least one dimension; got ()"),
        (lambda: ConvDecoder(1, (1, 8, 8), 0), "parameters_per_pixel: expected an integer >= 1; got 0"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build()
