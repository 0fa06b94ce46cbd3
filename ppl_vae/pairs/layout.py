"""Where the dimensions of a site stand: in its program, and in the record of a run."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Layout(NamedTuple):
    """Where the dimensions of a site stand in its program, and where in a record.

    In the program: (…, plates, event), the plates being the last `depth` batch dimensions, with K B rows at `dim`. In a
    record: (…, K, B, inner plates, event), without K where there is no particle plate.

    Attributes
    ----------
    particles : int, optional
        K.
    rows : int
        B.
    depth : int
        Dimensions that the program's plates take.
    dim : int
        That of the data, from the right.
    inner : tuple of int
        Those of the site's plates inside a datum.
    """

    particles: int | None
    rows: int
    depth: int = 1
    dim: int = -1
    inner: tuple[int, ...] = ()

    @property
    def unused(self) -> tuple[int, ...]:
        """Plates' dimensions that the site has not."""
        return tuple(dim for dim in range(-self.depth, 0) if dim != self.dim and dim not in self.inner)

    def record(self, value: Tensor, event_dim: int = 0) -> Tensor:
        """Return a tensor of the program as a record has it."""
        batch = value.dim() - event_dim
        if batch < self.depth:
            value = value.reshape(*(1,) * (self.depth - batch), *value.shape)
            batch = self.depth
        left = range(batch - self.depth)
        moved = [batch + dim for dim in (self.dim, *self.inner)]
        value = value.permute(*(batch + dim for dim in self.unused), *left, *moved, *range(batch, value.dim()))[
            (0,) * len(self.unused)
        ]
        if self.particles is None:
            return value
        data, total = len(left), self.particles * self.rows
        one = value.shape[data] == 1 and total > 1
        return value.unflatten(data, (1, 1) if one else (self.particles, value.shape[data] // self.particles))

    def program(self, value: Tensor, event_dim: int = 0) -> Tensor:
        """Return a tensor of a record as the program has it."""
        event = event_dim + len(self.inner)
        if self.particles is not None:
            dim = value.dim() - event
            if dim < 2:
                return value
            if value.shape[dim - 2 : dim] != (1, 1):
                value = value.expand(*value.shape[: dim - 2], self.particles, self.rows, *value.shape[dim:])
            value = value.flatten(dim - 2, dim - 1)
        left = value.dim() - event - 1
        value = value[(None,) * len(self.unused)]
        # Now (unused, left, data, inner, event): the place of each plate, in the program's order.
        now = {dim: i for i, dim in enumerate(self.unused)}
        now |= {dim: len(self.unused) + left + i for i, dim in enumerate((self.dim, *self.inner))}
        lefts = range(len(self.unused), len(self.unused) + left)
        plates = [now[dim] for dim in range(-self.depth, 0)]
        return value.permute(*lefts, *plates, *range(value.dim() - event_dim, value.dim()))
