"""Heads: modules that, called on tensors, return a distribution. A model or guide is its heads, put together.

A head checks the sizes of its inputs and of its network's output, so that a program need not. A network is an `MLP` by
default; any module that maps the last dimension may be given. With a `condition`, labels or numbers c, a head is called
with c too, and its network gets both: an `MLP` as two inputs, any other network concatenated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.shapes import as_shape, check_event, check_last_dimension
from ppl_vae.nn import likelihoods
from ppl_vae.nn.likelihoods import Likelihood
from ppl_vae.nn.mlp import MLP


class StandardNormal(nn.Module):
    """p(z) = N(0, I_L), for any arguments: the prior of a latent.

    Parameters
    ----------
    latent_dim : int
        L, at least 1.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = integer_at_least("latent_dim", latent_dim, 1)
        self.register_buffer("loc", torch.zeros(self.latent_dim))
        self.register_buffer("scale", torch.ones(self.latent_dim))

    def forward(self, *conditions: Tensor | None) -> Any:
        """Return N(0, I): batch shape (), event shape (L,)."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class Head(nn.Module):
    """Base: a network's output for a tensor of given shape and, if any, a condition.

    A subclass calls `add_network` at the end of its constructor, so that its other parameters come first.

    Parameters
    ----------
    event_shape : tuple of int
        Shape of one input, which is flattened for the network.
    name : str
        Name of the input, for errors.
    condition : Condition, optional
        Of the second argument, c.
    """

    def __init__(self, event_shape: tuple[int, ...], name: str, condition: Any = None) -> None:
        super().__init__()
        self.input_shape, self.name, self.condition = event_shape, name, condition

    def add_network(
        self,
        outputs: int,
        role: str,
        network: nn.Module | None,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool = False,
        init: str = "default",
    ) -> None:
        """Keep `network`, which errors call `role`, or an `MLP` from the inputs to `outputs` numbers."""
        size = math.prod(self.input_shape) + (0 if self.condition is None else self.condition.size)
        self.outputs, self.role = outputs, role
        self.network = MLP(size, outputs, hidden, activation, batch_norm, init) if network is None else network

    def through_network(self, value: Tensor, c: Tensor | None = None) -> Tensor:
        """Return what the network makes of `value` (..., *event_shape) and, with a condition, of c."""
        check_event(self.name, value, self.input_shape)
        flat = value.flatten(-len(self.input_shape))
        return self.network(flat) if self.condition is None else self.condition.through(self.network, flat, c)

    def output(self, value: Tensor, c: Tensor | None = None) -> Tensor:
        """Return the same, (..., outputs), once its size has been checked."""
        return check_last_dimension(f"output of {self.role}", self.through_network(value, c), self.outputs)


class LikelihoodHead(Head):
    """p(x|z) or p(x|z, c): a likelihood of a decoder's output.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    latent_dim : int
        L, of z.
    likelihood : Likelihood or str
        Or its name in `likelihoods.NAMES`.
    condition : Condition or Exposure, optional
        Of c.
    network : Module, optional
        Maps (..., L), or (..., L + C), to (..., P*D), laid out (P, D), with P the likelihood's `parameters_per_dim`.
    hidden, activation, batch_norm, init
        Of the default network, an `MLP`.
    name : str
        Name of the latent, for errors.

    Attributes
    ----------
    event_shape : tuple of int
        x_shape.
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dim: int,
        likelihood: Likelihood | str,
        *,
        condition: Any = None,
        network: nn.Module | None = None,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        batch_norm: bool = False,
        init: str = "default",
        name: str = "z",
    ) -> None:
        super().__init__((integer_at_least("latent_dim", latent_dim, 1),), name, condition)
        self.event_shape = as_shape("x_shape", x_shape)
        self.likelihood = likelihoods.of(likelihood)
        outputs = self.likelihood.parameters_per_dim * math.prod(self.event_shape)
        self.add_network(outputs, "the decoder", network, hidden, activation, batch_norm, init)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Any:
        """Return p(x|z, c) for z (..., L): batch shape (...), event shape x_shape."""
        return self.likelihood.of_network(self.through_network(z, c), self.event_shape)  # which checks its size


class CategoricalHead(Head):
    """q(y|x) = softmax of a classifier's output.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    num_classes : int
        C.
    network : Module, optional
        Maps (..., D) to (..., C).
    hidden, activation
        Of the default network, an `MLP`.
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        num_classes: int,
        *,
        network: nn.Module | None = None,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
    ) -> None:
        super().__init__(as_shape("x_shape", x_shape), "x")
        outputs = integer_at_least("num_classes", num_classes, 1)
        self.add_network(outputs, "the classifier", network, hidden, activation)

    def forward(self, x: Tensor) -> Any:
        """Return q(y|x) for x (..., *x_shape): batch shape (...), event shape ()."""
        return dist.Categorical(logits=self.output(x))


class DeltaHead(Head):
    """q(z|x) = Delta(z - encoder(x)), which has no density.

    Parameters
    ----------
    x_shape : int or tuple of int
        Shape of one datum; D is its product.
    latent_dim : int
        L.
    network : Module, optional
        Maps (..., D) to (..., L).
    hidden, activation
        Of the default network, an `MLP`.
    """

    def __init__(
        self,
        x_shape: int | Sequence[int],
        latent_dim: int,
        *,
        network: nn.Module | None = None,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
    ) -> None:
        super().__init__(as_shape("x_shape", x_shape), "x")
        outputs = integer_at_least("latent_dim", latent_dim, 1)
        self.add_network(outputs, "the encoder", network, hidden, activation)

    def forward(self, x: Tensor) -> Any:
        """Return q(z|x) for x (..., *x_shape): batch shape (...), event shape (L,)."""
        return dist.Delta(self.output(x), event_dim=1)
