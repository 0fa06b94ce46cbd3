"""Sizes of the layers of a hierarchy, z1 nearest the data first, and the Normal that a layer's network describes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.core.checks import check_kind
from ppl_vae.core.errors import InputError, shown
from ppl_vae.core.shapes import as_shape, as_widths, check_last_dimension

#: What every layer's scale is at least, well above the rounding error of a mean of order one.
MINIMUM_SCALE = 1e-4


def as_latent_dims(latent_dims: int | Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of z1, ..., zL as a tuple; one integer means one layer.

    Raises
    ------
    InputError
        If there is no layer, or a size below one.
    """
    if isinstance(latent_dims, Sequence) and not len(latent_dims):
        raise InputError("latent_dims", expected="the size of at least one layer", got="none", hint="latent_dims=(32,)")
    return as_shape("latent_dims", latent_dims)


def hidden_of_layers(hidden: Sequence[int] | Sequence[Sequence[int]], count: int) -> list[tuple[int, ...]]:
    """Return the widths of the hidden layers of `count` networks, from those of each or those that all share.

    Raises
    ------
    InputError
        If there are widths for another number of networks, or a width below one.
    """
    of_each = isinstance(hidden, list | tuple) and any(isinstance(widths, list | tuple) for widths in hidden)
    each = list(hidden) if of_each else [hidden] * count
    _check_count("hidden", each, count)
    return [as_widths("hidden", widths) for widths in each]


def normal_networks(
    what: str,
    given: Sequence[nn.Module] | None,
    inputs: Sequence[int],
    latent_dims: Sequence[int],
    hidden: Sequence[int] | Sequence[Sequence[int]],
    build: Callable[[int, int, tuple[int, ...]], nn.Module],
) -> nn.ModuleList:
    """Return the network below each layer's Normal: those `given`, or from so many `inputs` by `build`.

    Raises
    ------
    InputError
        If `what` was given, or the widths, for another number of layers.
    """
    if given is None:
        widths = hidden_of_layers(hidden, len(latent_dims))
        sizes = zip(inputs, latent_dims, widths, strict=True)
        given = [build(before, 2 * size, inner) for before, size, inner in sizes]
    _check_count(what, given, len(latent_dims))
    return nn.ModuleList([check_kind(what, network, nn.Module, "a module for each layer") for network in given])


def _check_count(what: str, given: Any, count: int) -> None:
    """Raise `InputError` unless there is one of `given` for each of `count` networks."""
    if not isinstance(given, Sequence | nn.ModuleList):
        raise InputError(what, expected=f"a sequence of {count}", got=shown(given))
    if len(given) != count:
        raise InputError(what, expected=f"{count}, as latent_dims asks for", got=str(len(given)))


def last_width(hidden: Sequence[int], inputs: int) -> int:
    """Return how many numbers a network of these hidden layers hands its last affine map."""
    return hidden[-1] if hidden else inputs


def as_normal(parameters: Tensor, size: int) -> Any:
    """Return N(m, diag(s)^2) for `parameters` (..., 2 `size`), m and then a, where s = softplus(a) + MINIMUM_SCALE.

    Sønderby et al. (2016) have a softplus too, of the variance. Layer upon layer, an exponential overflows too easily.
    A unit that only hands on what the layer above says has no noise at its best, so that s falls without end; below
    the rounding error of m, the KL between two such units is noise.
    """
    check_last_dimension("output of a layer's network", parameters, 2 * size)
    loc, a = parameters.chunk(2, -1)
    return dist.Normal(loc, softplus(a) + MINIMUM_SCALE).to_event(1)
