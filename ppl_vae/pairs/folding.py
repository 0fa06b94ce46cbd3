"""Particles folded into the batch: a program that takes no leading dimensions is run on K B rows, for K particles.

Row k B + b is particle k of datum b. The program sees K times as many data; handlers outside of it, and the record of
the run, see a particle plate at dim -2 and the data at dim -1, as with a program that takes leading dimensions. Draws
are made in the same order, so that the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ppl_vae.core.errors import PairError

#: Layers that normalise by the mean and variance of a batch.
_OVER_BATCHES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Unfolded(TorchDistribution):
    """A distribution of batch shape (…, K B) as one of batch shape (…, K, B).

    Parameters
    ----------
    base : TorchDistribution
        The distribution of all rows.
    particles : int
        K.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: Any, particles: int) -> None:
        self.base_dist = base
        self.particles = particles
        *left, rows = base.batch_shape
        super().__init__(torch.Size([*left, particles, rows // particles]), base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the draws are reparameterised."""
        return self.base_dist.has_rsample

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        """Whether the values can be listed."""
        return self.base_dist.has_enumerate_support

    @property
    def support(self) -> Any:
        """The support of the distribution of all rows."""
        return self.base_dist.support

    @property
    def mean(self) -> Tensor:
        """Mean, (…, K, B, …)."""
        return self.unfold(self.base_dist.mean, self.event_dim)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  (torch's signature)
        """Draw all rows."""
        return self.unfold(self.base_dist.sample(sample_shape), self.event_dim)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw all rows, reparameterised."""
        return self.unfold(self.base_dist.rsample(sample_shape), self.event_dim)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of each particle and datum, (…, K, B)."""
        return self.unfold(self.base_dist.log_prob(folded(value, self.event_dim, self.batch_shape[-2:])))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return all values; without `expand`, of shape (C, 1, …, 1, …)."""
        values = self.base_dist.enumerate_support(expand)
        return self.unfold(values, self.event_dim) if expand else values.unsqueeze(1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Unfolded:
        """Return the distribution of more batch dimensions on the left."""
        *left, particles, rows = batch_shape
        if tuple(batch_shape) == tuple(self.batch_shape):
            return self
        return Unfolded(self.base_dist.expand(torch.Size([*left, particles * rows])), self.particles)

    def unfold(self, value: Tensor, event_dim: int = 0) -> Tensor:
        """Return a tensor (…, K B, …) as (…, K, B, …)."""
        return unfolded(value, event_dim, self.particles)


def unfolded(value: Tensor, event_dim: int, particles: int) -> Tensor:
    """Return a tensor (…, K B, …) as (…, K, B, …), or (…, 1, …) as (…, 1, 1, …)."""
    dim = value.dim() - event_dim - 1
    rows = value.shape[dim]
    return value.unflatten(dim, (1, 1) if rows == 1 and particles > 1 else (particles, rows // particles))


def folded(value: Tensor, event_dim: int, rows: torch.Size) -> Tensor:
    """Return a tensor (…, K, B, …) as (…, K B, …), broadcast to K and B unless both are 1."""
    dim = value.dim() - event_dim
    if dim < 2:
        return value
    if value.shape[dim - 2 : dim] != (1, 1):
        value = value.expand(*value.shape[: dim - 2], *rows, *value.shape[dim:])
    return value.flatten(dim - 2, dim - 1)


class Folded(Messenger):
    """Handler between a program that runs on K B rows and the handlers outside of it.

    Parameters
    ----------
    particles, rows : int
        K and B.
    """

    def __init__(self, particles: int, rows: int) -> None:
        super().__init__()
        self.particles, self.rows = particles, rows

    def _pyro_sample(self, msg: Any) -> None:
        fn, total = msg["fn"], self.particles * self.rows
        if not isinstance(fn, TorchDistributionMixin):  # a plate's own draw
            return
        if tuple(fn.batch_shape[-1:]) != (total,):
            if self.particles > 1 and not msg["is_observed"]:
                raise PairError(
                    f"site {msg['name']!r}",
                    expected="one particle, for a latent shared by all data, where networks take no leading dimensions",
                    got=f"{self.particles} particles",
                    hint="num_particles=1, or networks that act on the last dimensions only, as nn.Linear does",
                )
            return
        msg["fn"] = Unfolded(fn, self.particles)
        msg["cond_indep_stack"] = tuple(map(self._of_datum, msg["cond_indep_stack"]))
        for name in ("mask", "scale"):
            if isinstance(msg[name], Tensor) and msg[name].dim():
                msg[name] = unfolded(msg[name], 0, self.particles)
        if msg["value"] is not None:
            msg["value"] = unfolded(msg["value"], fn.event_dim, self.particles)

    def _of_datum(self, frame: Any) -> Any:
        total = self.particles * self.rows
        if frame.size == total and frame.vectorized:
            return frame._replace(size=self.rows, full_size=self.rows if frame.full_size == total else frame.full_size)
        return frame

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], Unfolded):
            msg["value"] = folded(msg["value"], msg["fn"].event_dim, torch.Size([self.particles, self.rows]))


@dataclass(frozen=True)
class Folding:
    """How programs that take no leading dimensions run inside a particle plate: on K times the rows of their arguments.

    Attributes
    ----------
    why_not : str
        Why they cannot be run so for more than one particle; empty where they can.
    """

    why_not: str = ""

    def __call__(self, program: nn.Module, particles: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run a program for K particles."""
        if self.why_not and particles > 1:
            raise PairError(
                "pair",
                expected="for several particles, networks that act on the last dimensions only, or on each row alone",
                got=self.why_not,
                hint="one particle, or layers such as nn.Linear, which accept leading dimensions",
            )
        _check_statistics(program, particles)
        given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        rows = next((len(value) for value in given.values() if isinstance(value, Tensor) and value.dim()), 1)
        many = _repeated(given, particles)
        with Folded(particles, rows):
            return program(*(many.pop(i) for i in range(len(args))), **many)


def _repeated(arguments: Mapping[Any, Any], particles: int) -> dict[Any, Any]:
    """Return the arguments of K B rows: those of all data, K times."""
    found = {}
    for name, value in arguments.items():
        if isinstance(value, Tensor) and value.dim():
            value = value.expand(particles, *value.shape).flatten(0, 1)
        found[name] = value * particles if name == "size" and isinstance(value, int) else value
    return found


def _check_statistics(program: nn.Module, particles: int) -> None:
    """Raise for batch norm in training, whose statistics would be over the particles of all data."""
    for module in program.modules() if particles > 1 else ():
        if isinstance(module, _OVER_BATCHES) and module.training:
            raise PairError(
                "pair",
                expected="one particle in training, for programs that take no leading dimensions and normalise a batch",
                got=f"{particles} particles and {type(module).__name__}, whose statistics would be over particles too",
                hint="num_particles=1, or LayerNorm",
            )
