"""Likelihoods p(x|z): what a decoder's output means, as modules that turn it into a Pyro distribution.

A likelihood asks for P parameters per coordinate and maps (..., P, *x_shape) to a distribution of event shape x_shape.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.config import configurable
from ppl_vae.distributions import DiscretizedLogistic as DiscretizedLogisticDistribution
from ppl_vae.distributions import GridCategorical
from ppl_vae.errors import InputError, unknown_name
from ppl_vae.shapes import check_last_dimension, integer_at_least, positive


class Likelihood(nn.Module):
    """Base: give `parameters_per_dim` = P and `distribution`, of each coordinate by itself or of the last dimension.

    What a likelihood learns itself, such as one noise scale, is an `nn.Parameter` of its own.
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


@configurable
class Bernoulli(Likelihood):
    """p(x = 1) = sigmoid(h) for x in {0, 1}."""

    def distribution(self, parameters: Tensor) -> Any:
        """Return Bernoulli by logits (..., *x_shape, 1)."""
        return dist.Bernoulli(logits=parameters.squeeze(-1))


@configurable
class Normal(Likelihood):
    """N(h, s^2) for real x, with s fixed, learned, or from the decoder.

    Parameters
    ----------
    scale : float or {"learned", "decoder"}
        A number fixes s: log p(x|z) is then the squared error times -1/(2 s^2), plus a constant. ``"learned"`` is one s
        for all coordinates, or for each (see `shape`), a parameter of this module. ``"decoder"`` is one per coordinate
        and datum, from the second half of the decoder's output: s = softplus(h') + minimum_scale (Kingma & Welling
        2014, appendix C.2, but for the softplus).
    initial_scale : float
        Where a learned s starts.
    shape : tuple of int
        Of a learned s: one for all coordinates, or x_shape for one each.
    minimum_scale : float
        Floor of a decoder's s: without one, the likelihood has no upper bound once a coordinate is reproduced exactly.

    Raises
    ------
    InputError
        If a scale is not above zero, or its name unknown.
    """

    def __init__(
        self,
        scale: float | str = 0.1,
        *,
        initial_scale: float = 0.1,
        minimum_scale: float = 1e-3,
        shape: Sequence[int] = (),
    ) -> None:
        super().__init__()
        initial_scale = positive("initial_scale", initial_scale)
        self.minimum_scale = positive("minimum_scale", minimum_scale)
        if isinstance(scale, str) and scale not in ("learned", "decoder"):
            raise unknown_name("scale of Normal", scale, ("learned", "decoder"))
        self.scale = scale if isinstance(scale, str) else positive("scale", scale)
        if scale == "decoder":
            self.parameters_per_dim = 2
        elif scale == "learned":
            self.log_scale = nn.Parameter(torch.full(tuple(shape), initial_scale).log())

    def distribution(self, parameters: Tensor) -> Any:
        """Return Normal for (..., *x_shape, P): the mean, then, where P = 2, the scale before softplus."""
        if self.scale == "decoder":
            loc, raw_scale = parameters.unbind(-1)
            return dist.Normal(loc, F.softplus(raw_scale) + self.minimum_scale)
        loc = parameters.squeeze(-1)
        if self.scale == "learned":
            return dist.Normal(loc, self.log_scale.exp())
        # Filled on the device: a number handed to Normal would be copied there from the host at every call.
        return dist.Normal(loc, torch.full((), float(self.scale), dtype=loc.dtype, device=loc.device))


@configurable
class Categorical(Likelihood):
    """p(x = k/(n-1)) = softmax(h)_k: one logit per grey level, with no order among them (van den Oord et al. 2016).

    Parameters
    ----------
    levels : int
        n, at least 2; 256 for bytes.

    Raises
    ------
    InputError
        If there are fewer than two levels.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.levels = self.parameters_per_dim = integer_at_least("levels", levels, 2)

    def distribution(self, parameters: Tensor) -> Any:
        """Return the categorical over grey levels for logits (..., *x_shape, n)."""
        return GridCategorical(parameters)


@configurable
class OneHot(Likelihood):
    """p(x = e_k) = softmax(h)_k for x in {e_1, ..., e_C}, unit vectors along its last dimension: labels as numbers."""

    def distribution(self, parameters: Tensor) -> Any:
        """Return the categorical over unit vectors for logits (..., C, 1)."""
        return dist.OneHotCategorical(logits=parameters.squeeze(-1))


@configurable
class DiscretizedLogistic(Likelihood):
    """A logistic with mean h and log scale from h', binned to n grey levels (Salimans et al. 2017, no mixture).

    The scale stays above a fiftieth of a bin, f, softly: log s = log f + softplus(h' - log f). A logistic as narrow has
    all but 1e-10 of its mass in the bin it is centred on; narrower ones would only make gradients larger.

    Parameters
    ----------
    levels : int
        n, at least 2; 256 for bytes.

    Raises
    ------
    InputError
        If there are fewer than two levels.
    """

    parameters_per_dim = 2

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.levels = integer_at_least("levels", levels, 2)
        self.log_floor = -math.log(50 * (self.levels - 1))

    def distribution(self, parameters: Tensor) -> Any:
        """Return the discretised logistic for (..., *x_shape, 2): location, then log scale above its floor."""
        loc, raw_log_scale = parameters.unbind(-1)
        log_scale = self.log_floor + F.softplus(raw_log_scale - self.log_floor)
        return DiscretizedLogisticDistribution(loc, log_scale, self.levels)


NAMES = {
    "bernoulli": "binary x, by logits",
    "normal": "real x, standard deviation fixed at 0.1 (squared error)",
    "normal-learned": "real x, one learned standard deviation",
    "normal-decoder": "real x, mean and standard deviation from the decoder",
    "one-hot": "unit vectors: labels, one logit per class",
    "categorical": "grey levels, one logit each",
    "discretized-logistic": "grey levels, a logistic binned to them",
}


def for_each(names: Iterable[str], given: Mapping[str, Likelihood | str]) -> nn.ModuleDict:
    """Return a likelihood for each name, as `given` or of that name in `NAMES`: a copy, with parameters of its own.

    Raises
    ------
    InputError
        If one is not given, or its name unknown.
    """
    found = nn.ModuleDict()
    for name in names:
        if name not in given:
            raise InputError(f"likelihood of {name}", expected="one", got="none", hint="'normal-learned'")
        law = given[name]
        found[name] = get(law) if isinstance(law, str) else copy.deepcopy(law)
    return found


def get(name: str, *, levels: int | None = None) -> Likelihood:
    """Return the likelihood called `name`, one of `NAMES`.

    Parameters
    ----------
    name : str
        Such as ``"bernoulli"``.
    levels : int, optional
        How many grey levels the data have (`Spec.levels`); the two likelihoods over grey levels need it.

    Raises
    ------
    InputError
        For an unknown name, or one that needs `levels` where there are none.
    """
    if name not in NAMES:
        raise unknown_name("likelihood", name, NAMES)
    if name == "bernoulli":
        return Bernoulli()
    if name == "normal":
        return Normal()
    if name == "one-hot":
        return OneHot()
    if name.startswith("normal-"):
        return Normal(name.removeprefix("normal-"))
    if levels is None:
        raise InputError(
            f"likelihood {name!r}",
            expected="data with grey levels",
            got="no number of levels",
            hint="grey data (binarization='none'), or Categorical(levels=...) itself",
        )
    return Categorical(levels) if name == "categorical" else DiscretizedLogistic(levels)
