"""Builders of pairs of two classes: what they take, what they make, and what they say."""

from __future__ import annotations

import inspect

import pytest
import torch

from ppl_vae import InputError
from ppl_vae.data import Spec
from ppl_vae.guides import AmortizedNormal, LinearGaussian
from ppl_vae.models import PPCA, VAE
from ppl_vae.pairs.family import family


def test_options_are_those_of_both():
    build = family("ppl_vae.models.vae:VAE", "ppl_vae.guides.amortized_normal:AmortizedNormal")
    names = list(inspect.signature(build).parameters)
    assert names[0] == "spec"
    assert set(names[1:]) == {"latent_dim", "hidden", "activation", "likelihood", "covariance", "decoder", "encoder"}
    pair = build(Spec("pictures", (4, 2)), latent_dim=3, hidden=(5,), covariance="full")
    assert isinstance(pair.model, VAE)
    assert isinstance(pair.guide, AmortizedNormal)
    assert pair.model.x_shape == (4, 2)
    assert pair.model.latent_dim == pair.guide.latent_dim == 3
    assert pair.guide.posterior.covariance == "full"
    assert [layer.out_features for layer in pair.model.decode.network.layers if hasattr(layer, "weight")] == [5, 8]


def test_the_size_of_the_data_is_theirs():
    build = family("ppl_vae.models.ppca:PPCA", "ppl_vae.guides.linear_gaussian:LinearGaussian")
    pair = build(Spec("numbers", (6,)))
    assert isinstance(pair.model, PPCA)
    assert isinstance(pair.guide, LinearGaussian)
    assert (pair.model.x_dim, pair.model.latent_dim) == (6, 8)
    pair.check({"x": torch.randn(5, 6)})
    assert build.__doc__.startswith("Linear-Gaussian latent variable model")


def test_a_bad_option_is_the_constructor_s_line():
    build = family("ppl_vae.models.ppca:PPCA", "ppl_vae.guides.linear_gaussian:LinearGaussian")
    with pytest.raises(InputError, match="latent_dim: expected an integer >= 1; got 0"):
        build(Spec("numbers", (6,)), latent_dim=0)
