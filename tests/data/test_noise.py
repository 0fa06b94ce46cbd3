"""Bernoulli draws from 16 bits: exact probabilities, independent elements, a given generator."""

import pytest
import torch

from ppl_vae.data.noise import bernoulli


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities(dtype):
    p = torch.tensor([0.0, 1 / 255, 2.0**-17, 0.3, 0.5, 254 / 255, 1.0], dtype=dtype)
    draws = bernoulli(p.expand(400_000, -1), torch.Generator().manual_seed(0))
    assert draws.dtype == dtype
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    frequency, error = draws.double().mean(0), (p * (1 - p) / 400_000).double().sqrt()
    assert ((frequency - p).abs() <= 4 * error).all()


def test_probabilities_below_the_words_resolution():
    """2^-17 is half a step of 16 bits: the fraction that all elements have in common decides."""
    p, generator = torch.full((1000,), 2.0**-17), torch.Generator().manual_seed(0)
    ones = sum(float(bernoulli(p, generator).sum()) for _ in range(4000))
    expected = 4_000_000 * 2.0**-17
    assert abs(ones - expected) < 4 * expected**0.5


def test_elements_are_independent():
    draws = bernoulli(torch.full((50_000, 6), 0.3), torch.Generator().manual_seed(0))
    correlation = torch.corrcoef(torch.cat([draws[1:], draws[:-1]], 1).t()) - torch.eye(12)
    assert correlation.abs().max() < 4.5 / 50_000**0.5


def test_the_generator_decides_and_moves_on():
    p = torch.full((5, 7), 0.5)
    one, other = (torch.Generator().manual_seed(3) for _ in range(2))
    assert torch.equal(bernoulli(p, one), bernoulli(p, other))
    assert not torch.equal(bernoulli(p, one), bernoulli(p, torch.Generator().manual_seed(3)))
    torch.manual_seed(5)
    first = bernoulli(p)
    torch.manual_seed(5)
    assert torch.equal(bernoulli(p), first)


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 1), ()])
def test_shapes(shape):
    assert bernoulli(torch.full(shape, 0.5)).shape == shape
