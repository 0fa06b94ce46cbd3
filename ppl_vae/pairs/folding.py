"""Plates of a program as the record of a run has them: the data at dim -1, particles at dim -2, and no others.

Particles are folded into the batch where a program takes no leading dimensions: it is run on K B rows, of which row
k B + b is particle k of datum b. Plates inside a datum (time steps, pixels) become event dimensions, over which log
probabilities are summed, and a plate of the data at another dim is moved to -1. The program sees its own plates;
handlers outside of it, and the record, see those of the others. Draws are made in the program's order, so that the
numbers are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae.core.errors import PairError
from ppl_vae.pairs.layout import Layout
from ppl_vae.pairs.plates import DATA, ParticlePlate

#: Layers that normalise by the mean and variance of a batch.
_OVER_BATCHES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Unfolded(TorchDistribution):
    """A distribution of a program's batch shape as one of batch shape (…, K, B), inner plates being events.

    Parameters
    ----------
    base : TorchDistribution
        The program's.
    layout : Layout
        Of the site.
    mask : Tensor, optional
        Which elements count, in the program's dimensions, where it has inner plates.
    scale : float or Tensor
        A factor of log probabilities, as the mask.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: Any, layout: Layout, mask: Any = None, scale: Any = 1.0) -> None:
        self.base_dist, self.layout, self.mask_within, self.scale_within = base, layout, mask, scale
        self._last: tuple[Any, Any] = None, None
        shape = layout.record(torch.empty(1, device="cpu").expand(base.batch_shape)).shape
        split = len(shape) - len(layout.inner)
        super().__init__(shape[:split], shape[split:] + base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the draws are reparameterised."""
        return self.base_dist.has_rsample

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        """Whether the values can be listed: not those of all elements of an inner plate."""
        return self.base_dist.has_enumerate_support and not self.layout.inner

    @property
    def support(self) -> Any:
        """The support of a datum."""
        inner = len(self.layout.inner)
        return constraints.independent(self.base_dist.support, inner) if inner else self.base_dist.support

    @property
    def mean(self) -> Tensor:
        """Mean, (…, K, B, …)."""
        return self.layout.record(self.base_dist.mean, self.base_dist.event_dim)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  (torch's signature)
        """Draw all rows."""
        return self._drawn(self.base_dist.sample(sample_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw all rows, reparameterised."""
        return self._drawn(self.base_dist.rsample(sample_shape))

    def _drawn(self, value: Tensor) -> Tensor:
        record = self.layout.record(value, self.base_dist.event_dim)
        self._last = record, value
        return record

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of each particle and datum, (…, K, B)."""
        # A flow without an inverse knows its own draw only, by identity.
        within = self._last[1] if value is self._last[0] else self.in_program(value)
        return self.summed(self.base_dist.log_prob(within))

    def in_program(self, value: Tensor) -> Tensor:
        """Return a value as the program has it, without dimensions that its own distribution would not have."""
        value = self.layout.program(value, self.base_dist.event_dim)
        while value.dim() > len(self.base_dist.batch_shape) + self.base_dist.event_dim and value.shape[0] == 1:
            value = value.squeeze(0)
        return value

    def summed(self, term: Tensor) -> Tensor:
        """Return a term of the program's batch shape, summed over the inner plates, (…, K, B)."""
        if not self.layout.inner:
            return self.layout.record(term)
        term = self.layout.record(scale_and_mask(term, self.scale_within, self.mask_within))
        return term.sum(list(range(-len(self.layout.inner), 0)))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return all values; without `expand`, of shape (C, 1, …, 1, …)."""
        values = self.base_dist.enumerate_support(expand)
        if expand:
            return self.layout.record(values, self.base_dist.event_dim)
        return values.reshape(len(values), *(1,) * len(self.batch_shape), *self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Unfolded:
        """Return the distribution of more batch dimensions on the left."""
        if tuple(batch_shape) == tuple(self.batch_shape):
            return self
        plates = self.base_dist.batch_shape[len(self.base_dist.batch_shape) - self.layout.depth :]
        left = tuple(batch_shape)[: len(batch_shape) - (1 if self.layout.particles is None else 2)]
        base = self.base_dist.expand(torch.Size([*left, *plates]))
        return Unfolded(base, self.layout, self.mask_within, self.scale_within)


class Folded(Messenger):
    """Handler between a program and the handlers outside of it.

    Parameters
    ----------
    layout : Layout
        Of the program; that of a site has its inner plates.
    names : frozenset of str
        Names of the plate of the data.
    """

    def __init__(self, layout: Layout, names: frozenset[str]) -> None:
        super().__init__()
        self.layout, self.names = layout, names

    def _pyro_sample(self, msg: Any) -> None:
        fn, particles = msg["fn"], self.layout.particles
        if not isinstance(fn, TorchDistributionMixin):  # a plate's own draw
            return
        frames = [frame for frame in msg["cond_indep_stack"] if frame.vectorized]
        if not any(frame.name in self.names for frame in frames):
            if particles is not None and particles > 1 and not msg["is_observed"]:
                raise PairError(
                    f"site {msg['name']!r}",
                    expected="one particle, for a latent shared by all data, where networks take no leading dimensions",
                    got=f"{particles} particles",
                    hint="num_particles=1, or networks that act on the last dimensions only, as nn.Linear does",
                )
            return
        inner = tuple(sorted(frame.dim for frame in frames if frame.name not in self.names))
        if inner and msg["infer"].get("enumerate") and not msg["is_observed"]:
            raise PairError(
                f"site {msg['name']!r}",
                expected="a latent to be enumerated in no plate but that of the data",
                got="one in a plate inside it",
                hint="pyro.infer.TraceEnum_ELBO() in a script of its own, or a site for each element",
            )
        layout = self.layout._replace(inner=inner)
        mask: Tensor | None = None
        scale: float | Tensor = 1.0
        if inner:
            mask, msg["mask"] = (msg["mask"], None) if isinstance(msg["mask"], Tensor) else (None, msg["mask"])
            if isinstance(msg["scale"], Tensor) and msg["scale"].dim():
                scale, msg["scale"] = msg["scale"], 1.0
        for name in ("mask", "scale"):
            if isinstance(msg[name], Tensor) and msg[name].dim():
                msg[name] = layout.record(msg[name])
        msg["fn"] = Unfolded(fn, layout, mask, scale)
        msg["cond_indep_stack"] = tuple(self._framed(msg["cond_indep_stack"]))
        if msg["value"] is not None:
            msg["value"] = layout.record(msg["value"], fn.event_dim)

    def _framed(self, frames: Any) -> Any:
        """Return the frames of a site: that of the data, and sequential ones."""
        for frame in frames:
            if frame.name in self.names and frame.vectorized:
                total = self.layout.rows * (self.layout.particles or 1)
                full = self.layout.rows if frame.full_size == total else frame.full_size
                size = self.layout.rows if frame.size == total else frame.size
                yield frame._replace(dim=-1, size=size, full_size=full)
            elif not frame.vectorized:
                yield frame

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], Unfolded):
            msg["value"] = msg["fn"].in_program(msg["value"])


@dataclass(frozen=True)
class Folding:
    """How programs run whose plates, or whose networks' dimensions, are others than those of a record.

    Attributes
    ----------
    why_not : str
        Why they cannot be run for more than one particle; empty where they can.
    names : frozenset of str
        Names of the plate of the data.
    depth, dim : int
        Dimensions that the plates take, and that of the data.
    """

    why_not: str = ""
    names: frozenset[str] = frozenset({DATA})
    depth: int = 1
    dim: int = -1

    @property
    def moves(self) -> bool:
        """Whether the program has other plates than that of the data at dim -1."""
        return (self.depth, self.dim) != (1, -1)

    def __call__(
        self, program: nn.Module, plate: ParticlePlate | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run a program inside a particle plate, or without one."""
        particles = None if plate is None else plate.size
        if particles is None and not self.moves:
            return program(*args, **kwargs)
        if self.why_not and (particles or 1) > 1:
            raise PairError(
                "pair",
                expected="for several particles, networks that act on the last dimensions only, or on each row alone",
                got=self.why_not,
                hint="one particle, or layers such as nn.Linear, which accept leading dimensions",
            )
        _check_statistics(program, particles or 1)
        given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        rows = next((len(value) for value in given.values() if isinstance(value, Tensor) and value.dim()), None)
        rows = given.get("size", 1) if rows is None else rows
        many = given if particles is None else _repeated(given, particles)
        hidden = nullcontext() if plate is None else plate.hidden()
        with hidden, Folded(Layout(particles, rows, self.depth, self.dim), self.names):
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
