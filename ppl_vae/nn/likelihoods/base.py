"""Base of likelihoods p(x|z): modules that turn a decoder's output into a Pyro distribution.

A likelihood takes P parameters per coordinate and maps (..., P, *x_shape) to a distribution of event shape x_shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ppl_vae.core.errors import InputError
from ppl_vae.core.shapes import check_last_dimension


class Likelihood(nn.Module):
    """Base: define `parameters_per_dim` = P and `distribution`, over single coordinates or over the last dimension.

    Parameters of the likelihood itself, such as one noise scale, are `nn.Parameter`s of it.
    """

    parameters_per_dim: int = 1

    def forward(self, parameters: Tensor, event_dim: int = 1) -> Any:
        """Return p(x|z) for `parameters` (..., P, *x_shape), where x_shape has `event_dim` dimensions.

        Returns
        -------
        pyro.distributions.TorchDistribution
            Batch shape (...), event shape x_shape.

        Raises
        ------
        InputError
            If there are not P parameters.
        """
        axis = -1 - event_dim
        if parameters.ndim < 1 + event_dim or parameters.shape[axis] != self.parameters_per_dim:
            raise InputError(
                f"parameters of {type(self).__name__}",
                expected=f"size {self.parameters_per_dim} at dimension {axis}",
                got=str(tuple(parameters.shape)),
            )
        fn = self.distribution(parameters.movedim(axis, -1))
        return fn.to_event(event_dim - fn.event_dim)

    def of_network(self, output: Tensor, x_shape: Sequence[int]) -> Any:
        """Return p(x|z) for a network's output (..., P*D), laid out (P, D): batch shape (...), event shape x_shape.

        Raises
        ------
        InputError
            If it has another size.
        """
        P = self.parameters_per_dim
        check_last_dimension("output of the decoder", output, P * math.prod(x_shape))
        return self(output.reshape(*output.shape[:-1], P, *x_shape), len(x_shape))

    def distribution(self, parameters: Tensor) -> Any:
        """Return the distribution of each coordinate, or of vectors along the last dimension of x.

        `parameters` (..., *x_shape, P); batch and event shape together (..., *x_shape).
        """
        raise NotImplementedError(f"{type(self).__name__}.distribution")
