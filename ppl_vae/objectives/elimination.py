"""Variable elimination: the log of a sum over several enumerated latents of a product of factors.

    log sum_{k_1 … k_n} prod_i f_i(k_i1, k_i2, …)

Latents are summed out one after the other, each with the factors that depend on it, so that a Markov chain of T steps
costs T sums rather than one of C^T terms. Which latent a dimension stands for, Pyro's `enum` says: in `pyro.markov` a
dimension is used again once its latent is out of reach.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Factor(NamedTuple):
    """A log density: the latents it depends on, in rising order, and its values, with their dimensions first."""

    latents: tuple[int, ...]
    values: Tensor


def factor(values: Tensor, dims: Mapping[int, int], plates: int) -> Factor:
    """Return a log density, of enumerated dimensions to the left of its last `plates` dimensions, as a factor.

    Parameters
    ----------
    values : Tensor
        Of shape (…, K, B) or (…, B).
    dims : mapping of int to int
        Which latent each dimension stands for, dimensions counted from the right.
    plates : int
        1 or 2.
    """
    values = values[(None,) * (plates - values.dim())] if values.dim() < plates else values
    there = {dims.get(dim, dim): dim for dim in range(-values.dim(), -plates) if values.shape[dim] > 1}
    latents = tuple(sorted(there))
    last = range(values.dim() - plates, values.dim())
    kept = [values.dim() + there[latent] for latent in latents]
    others = [dim for dim in range(values.dim() - plates) if dim not in kept]
    values = values.permute(*others, *kept, *last)
    return Factor(latents, values.flatten(0, len(others)) if others and len(others) < values.dim() else values)


def log_sum(factors: Iterable[Factor], summed: Iterable[int]) -> Factor:
    """Return the log of the sum over the latents `summed` of the product of factors."""
    factors, left = list(factors), set(summed)
    while left:
        reached = {latent: set().union(*(f.latents for f in factors if latent in f.latents)) for latent in left}
        latent = min(reached, key=lambda one: (len(reached[one]), one))
        product = multiply([f for f in factors if latent in f.latents])
        dim = product.latents.index(latent)
        rest = (*product.latents[:dim], *product.latents[dim + 1 :])
        factors = [f for f in factors if latent not in f.latents] + [Factor(rest, torch.logsumexp(product.values, dim))]
        left.discard(latent)
    return multiply(factors)


def multiply(factors: Iterable[Factor]) -> Factor:
    """Return the product of factors: the sum of their logarithms."""
    factors = list(factors)
    latents = tuple(sorted(set().union(*(f.latents for f in factors))))
    aligned = (f.values[tuple(slice(None) if one in f.latents else None for one in latents)] for f in factors)
    return Factor(latents, functools.reduce(operator.add, aligned))


def at_dims(found: Factor, dims: Mapping[int, int], plates: int) -> Tensor:
    """Return a factor as a tensor whose latents stand at the dimensions that `dims` gives, counted from the right."""
    values = found.values
    where = {dims.get(latent, latent): i for i, latent in enumerate(found.latents)}
    order = sorted(where)
    values = values.permute(*(where[dim] for dim in order), *range(len(order), values.dim()))
    width = -min(order, default=-plates)
    shape = [values.shape[order.index(dim)] if dim in where else 1 for dim in range(-width, -plates)]
    return values.reshape(*shape, *values.shape[len(order) :])
