"""Linear-Gaussian modalities as a cross-modal pair, whose log p `ppl_vae.exact.modalities` knows.

p(x_m|z) = N(W_m z + b_m, s^2);  the exact expert of x_m is h_m = W_m' (x_m - b_m) / s^2, A_m = W_m' W_m / s^2
"""

from __future__ import annotations

import torch

from ppl_vae import Pair
from ppl_vae.exact import Layer
from ppl_vae.guides import Experts
from ppl_vae.models import CrossModal
from ppl_vae.nn.likelihoods import Normal

SHAPES = {"a": 4, "b": 3, "c": 5}
L, SCALE = 2, 0.7
JOINS = ("product", "mixture", "mixture-of-products")


def layers(pair):
    """The modalities' parameters, as the exact answers take them."""
    affine = {name: decoder.network.layers[0] for name, decoder in pair.model.decoders.items()}
    return {name: Layer(map_.weight.detach(), map_.bias.detach(), SCALE) for name, map_ in affine.items()}


def exact_pair(join="product", names=("a", "b", "c"), trust=1.0):
    """A pair whose experts are exact, or their power `trust`: below one, guides are wider than the posteriors."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shapes = {name: SHAPES[name] for name in names}
        model = CrossModal(shapes, L, hidden=(), likelihood=Normal(SCALE))
        pair = Pair(model, Experts(shapes, L, join=join, covariance="full", hidden=())).double()
        for parameter in model.parameters():
            parameter.data.normal_()
    for name, (W, b, s) in layers(pair).items():
        encoder = pair.guide.posterior.experts[name].network.layers[0]
        T = torch.linalg.cholesky(trust * W.T @ W / s**2)
        encoder.weight.data.zero_()
        encoder.weight.data[:L] = trust * W.T / s**2
        encoder.bias.data[:L] = -trust * W.T @ b / s**2
        # For L = 2: the logarithm of the second entry of T's diagonal, what is below it, the logarithm of the first.
        encoder.bias.data[L:] = torch.stack((T[1, 1].log(), T[1, 0], T[0, 0].log()))
    return pair


def draws(pair, size, seed=1):
    """What the model draws, by modality."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = pair.generate(size)
    return {name: drawn[name] for name in pair.model.modalities.shapes}


def some_missing(names, size, seed=2):
    """Masks that leave each datum its first modality or its last, at least."""
    generator = torch.Generator().manual_seed(seed)
    masks = {f"{name}_present": torch.rand(size, generator=generator) < 0.6 for name in names}
    first, last = f"{names[0]}_present", f"{names[-1]}_present"
    masks[last] = masks[last] | ~masks[first]
    return masks


def only(data, names):
    """These modalities, with their masks."""
    return {name: data[name] for name in data if name.removesuffix("_present") in names}
