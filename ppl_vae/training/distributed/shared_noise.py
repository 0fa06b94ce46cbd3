"""Shared noise: together, several workers draw what one process would draw for the whole batch.

A worker has some rows of a batch. From the common random state every worker draws the noise of all rows, and keeps that
of its own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.compile.dispatch import DispatchMode, arguments_of, map_tensors
from ppl_vae.pairs.plates import in_data_plate
from ppl_vae.training.distributed.workers import Shard


class SharedNoise(Messenger):
    """Handler around a program that is run on some rows of a batch: each random operation draws for all of them.

    At a sample site inside the plate ``data`` the rows are found by the batch shape of its distribution; elsewhere
    (dropout in an encoder) the leftmost dimension whose size is the worker's number of rows is taken. Draws
    without rows, such as global latents, are the same on all workers.

    Parameters
    ----------
    shard : Shard
        The worker's rows; at least one.

    Notes
    -----
    The draws equal those of one process wherever the number of random numbers that an operation consumes does not
    depend on its parameters: normal, uniform, exponential, Bernoulli, categorical and all transforms of them. A
    rejection sampler (gamma, beta, Dirichlet, Poisson, binomial, von Mises) does not know the parameters of the other
    workers' rows. Its draws have the right distribution but differ from those of one process, and the workers' random
    states differ until they are next synchronised. (On a GPU all but von Mises equal those of one process, because
    there each element has a random stream of its own.)
    """

    def __init__(self, shard: Shard) -> None:
        super().__init__()
        self.start, self.size, self.total = shard.start, shard.size, shard.total
        self.site: Any = None

    def __enter__(self) -> SharedNoise:
        """From here on, draw for all rows."""
        self.site = None
        super().__enter__()
        self._mode = _Drawing(self)
        self._mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Draw as usual again."""
        self._mode.__exit__(*error)
        super().__exit__(*error)

    def _pyro_sample(self, msg: Any) -> None:
        self.site = msg  # its distribution is read when it draws: outer handlers may still expand it

    def _pyro_post_sample(self, msg: Any) -> None:
        self.site = None

    def draw(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the random operation `func` for all rows and return the worker's; unchanged where there are no rows."""
        arguments = arguments_of(func)
        named = dict(zip((argument.name for argument in arguments), args, strict=False)) | kwargs
        tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
        shape = named["size"] if "size" in named else torch.broadcast_shapes(*(t.shape for t in tensors.values()))
        layout = self._layout(tuple(shape)) if tensors or "size" in named else None
        if layout is None:
            return func(*args, **kwargs)
        dim, folded = layout
        whole: dict[str, Any] = {name: self._widen(t.expand(shape), dim, folded) for name, t in tensors.items()}
        if "size" in named:
            whole["size"] = self._whole_shape(shape, dim, folded)
        result = func(
            *(whole.get(argument.name, value) for argument, value in zip(arguments, args, strict=False)),
            **{name: whole.get(name, value) for name, value in kwargs.items()},
        )
        written = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
        for name in written:
            named[name].copy_(self._own(whole[name], dim, folded))
        if len(written) == 1 and result is whole[written[0]]:
            return named[written[0]]
        return map_tensors(lambda t: self._own(t, dim, folded), result)

    def _layout(self, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]] | None:
        """Return the dimension of a random tensor that holds the rows, and the sizes its first one is flattened from.

        A draw from a distribution of batch shape (K, B) has shape (K, B, …), or (K B T, …) as the sampler of a
        categorical flattens it.
        """
        if self.site is None or not hasattr(self.site["fn"], "batch_shape"):
            return next(((dim, ()) for dim, n in enumerate(shape) if n == self.size), None)
        batch = tuple(self.site["fn"].batch_shape)
        if not in_data_plate(self.site) or not batch or batch[-1] != self.size:
            return None
        if shape[: len(batch)] == batch:
            return len(batch) - 1, ()
        times, left = divmod(shape[0] if shape else 0, math.prod(batch))
        return (1, (math.prod(batch[:-1]), self.size, times)) if times and not left else None

    def _whole_shape(self, shape: tuple[int, ...], dim: int, folded: tuple[int, ...]) -> list[int]:
        if folded:
            return [shape[0] // self.size * self.total, *shape[1:]]
        return [*shape[:dim], self.total, *shape[dim + 1 :]]

    def _widen(self, tensor: Tensor, dim: int, folded: tuple[int, ...]) -> Tensor:
        """Return `tensor` for all rows: those of other workers are copies of the nearest own row."""
        index = (torch.arange(self.total, device=tensor.device) - self.start).clamp(0, self.size - 1)
        if not folded:
            return tensor.index_select(dim, index)
        return tensor.unflatten(0, folded).index_select(dim, index).flatten(0, 2)

    def _own(self, tensor: Tensor, dim: int, folded: tuple[int, ...]) -> Tensor:
        """Return the worker's rows of `tensor`."""
        if not folded:
            return tensor.narrow(dim, self.start, self.size).clone()
        rows = tensor.unflatten(0, (folded[0], self.total, folded[2]))
        return rows.narrow(dim, self.start, self.size).flatten(0, 2).clone()


class _Drawing(DispatchMode):
    """Dispatch every random operation to a `SharedNoise`."""

    def __init__(self, noise: SharedNoise) -> None:
        super().__init__()
        self.noise = noise

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one tensor operation."""
        if torch.Tag.nondeterministic_seeded in func.tags:
            return self.noise.draw(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))
