"""Feed-forward networks that take any number of leading dimensions: MLP, DCGAN-style convolutions, inputs by logarithm.

Data are passed flat, (..., C*H*W), so that an MLP and a convolutional network are interchangeable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.core.checks import integer_at_least, one_of
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import as_widths

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}

INITS = ("default", "glorot")


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over all but dimension 1, of (N, C) or (N, C, H, W).

    A training batch with one value per channel has no variance of its own; the running statistics are used,
    so that a last batch of size one works too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised `x`, shape unchanged."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions."""


@configurable
class MLP(nn.Module):
    """Multi-layer perceptron: affine maps with a nonlinearity between them, (..., in_features) -> (..., out_features).

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last dimension before and after.
    hidden : sequence of int
        Widths of the hidden layers; empty makes one affine map.
    activation : str
        One of `ACTIVATIONS`.
    batch_norm : bool
        Normalise before each activation, over all leading dimensions together.
    init : {"default", "glorot"}
        PyTorch's own initialisation, or uniform weights (Glorot & Bengio 2010, eq. 16) with biases at zero.

    Raises
    ------
    InputError
        If a size is below one or a name is unknown; when called, if the last dimensions do not add up to `in_features`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        batch_norm: bool = False,
        init: str = "default",
    ) -> None:
        super().__init__()
        one_of("activation", activation, ACTIVATIONS)
        one_of("init", init, INITS)
        self.in_features = integer_at_least("in_features", in_features, 1)
        self.out_features = integer_at_least("out_features", out_features, 1)
        self.batch_norm = batch_norm
        widths = (self.in_features, *as_widths("hidden", hidden))
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers.append(nn.Linear(before, after, bias=not batch_norm))
            if batch_norm:
                layers.append(BatchNorm(after))
            layers.append(ACTIVATIONS[activation]())
        layers.append(nn.Linear(widths[-1], self.out_features))
        self.layers = nn.Sequential(*layers)
        if init == "glorot":
            for layer in self.layers:
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, *beside: Tensor) -> Tensor:
        """Map (..., in_features), as one input or several to be concatenated, to (..., out_features).

        Several inputs broadcast against each other, and each is multiplied by its own columns of the first weight,
        W(u, v) = W_u u + W_v v, so that an input common to all classes or particles is multiplied once.
        """
        parts = (x, *beside)
        if sum(part.shape[-1] if part.ndim else 0 for part in parts) != self.in_features:
            got = ", ".join(str(tuple(part.shape)) for part in parts)
            raise InputError("input of MLP", expected=f"last dimension {self.in_features}", got=got)
        layers: list[Any] = list(self.layers)
        first, *rest = layers
        if beside:
            weights = first.weight.split([part.shape[-1] for part in parts], 1)
            h = F.linear(x, weights[0], first.bias)
            for part, weight in zip(beside, weights[1:], strict=True):
                h = h + F.linear(part, weight)
        else:
            h = first(x)
        leading = h.shape[:-1]
        if self.batch_norm:
            h = h.reshape(-1, h.shape[-1])
        for layer in rest:
            h = layer(h)
        return h.reshape(*leading, self.out_features)


@configurable
class LogInputs(nn.Module):
    """A network of log(1 + x), so that counts of any size become numbers of order one (Lopez et al. 2018).

    Parameters
    ----------
    network : Module
        Maps (..., D) to (..., `out_features`).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., D), 0 or more, through the logarithm and the network."""
        return self.network(x.log1p())
