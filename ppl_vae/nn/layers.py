"""The layers of a hierarchy, z1 nearest the data first: their sizes, and a head for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ppl_vae.core.checks import check_kind
from ppl_vae.core.errors import InputError, shown
from ppl_vae.core.shapes import as_shape, as_widths, check_last_dimension
from ppl_vae.nn.mlp import MLP
from ppl_vae.nn.normals import LayerHead


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
    """Return the widths of the hidden layers of `count` networks, given for each, or once for all.

    Raises
    ------
    InputError
        If there are widths for another number of networks, or a width below one.
    """
    of_each = isinstance(hidden, list | tuple) and any(isinstance(widths, list | tuple) for widths in hidden)
    each = list(hidden) if of_each else [hidden] * count
    _check_count("hidden", each, count)
    return [as_widths("hidden", widths) for widths in each]


def check_layer(k: int, above: Tensor | None, latent_dims: Sequence[int]) -> None:
    """Raise `InputError` unless z_k is a layer given a z_{k+1} `above` it of the right size, or the top, given none."""
    top = len(latent_dims)
    if not 1 <= k <= top or (above is None) != (k == top):
        given = "none" if above is None else "one above it"
        raise InputError(
            f"layer {k}",
            expected=f"a layer from 1 to {top}, given the one above it, or the layer {top} alone",
            got=f"layer {k} given {given}",
            hint="a guide for as many layers as the model has",
        )
    if above is not None:
        check_last_dimension(f"z{k + 1}", above, latent_dims[k])


def layer_heads(
    what: str,
    given: Sequence[nn.Module] | None,
    inputs: Sequence[int],
    latent_dims: Sequence[int],
    hidden: Sequence[int] | Sequence[Sequence[int]],
    **options: Any,
) -> nn.ModuleList:
    """Return the head of each layer, a `LayerHead` of a network `given`, or of an `MLP` from so many `inputs`.

    The default networks get `hidden`, of each or of all, and the `options`, such as their activation.

    Raises
    ------
    InputError
        If `what` was given, or the widths, for another number of layers.
    """
    if given is None:
        widths = hidden_of_layers(hidden, len(latent_dims))
        sizes = zip(inputs, latent_dims, widths, strict=True)
        given = [MLP(before, 2 * size, inner, **options) for before, size, inner in sizes]
    _check_count(what, given, len(latent_dims))
    networks = [check_kind(what, network, nn.Module, "a module for each layer") for network in given]
    return nn.ModuleList([LayerHead(*each) for each in zip(networks, latent_dims, strict=True)])


def _check_count(what: str, given: Any, count: int) -> None:
    """Raise `InputError` unless there is one of `given` for each of `count` networks."""
    if not isinstance(given, Sequence | nn.ModuleList):
        raise InputError(what, expected=f"a sequence of {count}", got=shown(given))
    if len(given) != count:
        raise InputError(what, expected=f"{count}, as latent_dims asks for", got=str(len(given)))


def last_width(hidden: Sequence[int], inputs: int) -> int:
    """Return the width of the last hidden layer, or of the input without hidden layers."""
    return hidden[-1] if hidden else inputs
