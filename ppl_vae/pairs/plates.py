"""Which plate is that of the data: decided by structure, whatever its name.

It is the plate whose size is that of the batch and in which the model observes something, at dim -1 or, where there is
none, at another (other plates: `ppl_vae.pairs.folding`); a sequential plate
(``for i in pyro.plate(…)``) of that size; or one without a size, whose sites have a row for each datum. In the record
of a run it is renamed to ``data``; the particle plate, at dim -2, is called ``particles``.

A program may draw mini-batches itself, by ``subsample_size``. Where the batch is what its plate holds of a larger data
set, ``pyro.plate("data", N, subsample_size=len(x))``, the plate's factor N/B is taken back: a fit has its own. Where
the plate holds a part of the batch, ``pyro.plate("data", len(x), subsample_size=100)``, its factor stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyro
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _DIM_ALLOCATOR
from torch import Tensor

DATA, PARTICLES = "data", "particles"

Site = dict[str, Any]


def in_data_plate(site: Site) -> bool:
    """Return whether a site of a record is local: inside the plate of the data."""
    return any(frame.name == DATA for frame in site["cond_indep_stack"])


def is_sequential(site: Site) -> bool:
    """Return whether a site belongs to one datum in a sequential plate of the data."""
    return any(frame.name == DATA and not frame.vectorized for frame in site["cond_indep_stack"])


def other_plates(site: Site) -> list[str]:
    """Return the vectorised plates of a site other than those of data and particles."""
    return [f.name for f in site["cond_indep_stack"] if f.vectorized and f.name not in (DATA, PARTICLES)]


def undeclared(programs: Mapping[str, Mapping[str, Site]]) -> list[tuple[str, str]]:
    """Return program and name of sites with a batch dimension of neither a plate nor an enumerated latent."""
    found = []
    for program, sites in programs.items():
        summed = frozenset(site["infer"].get("_enumerate_dim") for site in sites.values())
        found += [(program, name) for name, site in sites.items() if is_undeclared(site, summed)]
    return found


def is_undeclared(site: Site, summed: frozenset[int | None] = frozenset()) -> bool:
    """Return whether a site has a batch dimension of neither a plate nor a latent that is `summed` out."""
    shape = tuple(site["fn"].batch_shape)
    known = summed | {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
    return any(shape[dim] > 1 and dim not in known for dim in range(-len(shape), 0))


def rows_of(args: Iterable[Any], kwargs: Mapping[str, Any]) -> int | None:
    """Return the length of the first argument that is a tensor with rows; None without one."""
    tensors = (value for value in [*args, *kwargs.values()] if isinstance(value, Tensor) and value.dim())
    return next((len(value) for value in tensors), None)


@dataclass(frozen=True)
class DataPlates:
    """The plate of the data in the two programs.

    Attributes
    ----------
    names : frozenset of str
        Its names; empty where no plate has the rows of the batch.
    drawn : dict of str to int
        Sizes of those plates that are of a larger data set, of which the batch is a sample.
    parts : frozenset of str
        Those of a plate that holds a part of the batch, which the program draws.
    dim, depth : int
        Its dimension, and the number of dimensions that all plates of the programs take.
    """

    names: frozenset[str] = frozenset({DATA})
    drawn: dict[str, int] = field(default_factory=dict)
    parts: frozenset[str] = frozenset()
    dim: int = -1
    depth: int = 1


def data_plates(model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site], rows: int | None) -> DataPlates:
    """Return the plate of the data in model and guide.

    The guide's may have another name than the model's: any plate of that size counts, unless it has the name of
    another plate of the model.
    """
    observed = [site for site in model_sites.values() if site["is_observed"]]
    found = _with_rows(observed, rows) or _with_rows(observed, rows, anywhere=True)
    if not found:
        found = {name: frame for name, frame in _with_rows(model_sites.values(), rows).items() if name == DATA}
    if found:
        others = {frame.name for site in model_sites.values() for frame in site["cond_indep_stack"]} - found.keys()
        anywhere = any(frame.vectorized and frame.dim != -1 for frame in found.values())
        of_guide = _with_rows(guide_sites.values(), rows, anywhere=anywhere)
        found |= {name: frame for name, frame in of_guide.items() if name not in others and name not in found}
    parts = {name for name, frame in found.items() if _is_part(frame, rows)}
    drawn = {name: frame.full_size for name, frame in found.items() if frame.full_size not in (None, frame.size)}
    drawn = {name: size for name, size in drawn.items() if name not in parts}
    dim = next((frame.dim for frame in found.values() if frame.vectorized), -1)
    sites = [*model_sites.values(), *guide_sites.values()]
    depth = max((-f.dim for site in sites for f in site["cond_indep_stack"] if f.vectorized), default=1)
    return DataPlates(frozenset(found), drawn, frozenset(parts), dim, depth)


def _with_rows(sites: Iterable[Site], rows: int | None, *, anywhere: bool = False) -> dict[str, Any]:
    """Return the plates of that many rows, by name: at dim -1, or `anywhere`."""
    found: dict[str, Any] = {}
    for site in sites:
        for frame in site["cond_indep_stack"]:
            if frame.dim != -1 and frame.vectorized and not anywhere:
                continue
            unsized = frame.size == -1 and frame.vectorized and _size_at(site, frame.dim) == rows
            if frame.size == rows or unsized or _is_part(frame, rows):
                found.setdefault(frame.name, frame)
    return found


def _size_at(site: Site, dim: int) -> int | None:
    shape = tuple(site["fn"].batch_shape)
    return shape[dim] if len(shape) >= -dim else None


def _is_part(frame: Any, rows: int | None) -> bool:
    return frame.full_size == rows and frame.size != rows


def rename(sites: Mapping[str, Site], names: frozenset[str]) -> None:
    """Rename the plates of these names to ``data`` in a record."""
    for site in sites.values():
        site["cond_indep_stack"] = tuple(_renamed(site["cond_indep_stack"], names))


def _renamed(frames: Iterable[Any], names: frozenset[str]) -> Iterator[Any]:
    for frame in frames:
        if frame.name in names:
            yield frame._replace(name=DATA)
        elif frame.name == DATA:  # some other plate of that name
            yield frame._replace(name=f"{DATA} (not of the batch)")
        else:
            yield frame


class ParticlePlate(pyro.plate):
    """The plate of K particles. It does not change the scale of a site: a product with 1 would be a new tensor."""

    #: The plates that are open, the innermost last.
    open: ClassVar[list[ParticlePlate]] = []

    def __init__(self, particles: int) -> None:
        super().__init__(PARTICLES, particles, dim=-2)

    def __enter__(self) -> Any:
        """Open the plate."""
        self.open.append(self)
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        """Close it."""
        self.open.pop()
        return super().__exit__(*raised)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Leave the plate's dimension to the plates of a program, which has no particle dimension of its own."""
        _DIM_ALLOCATOR.free(self.name, -2)
        try:
            yield
        finally:
            _DIM_ALLOCATOR.allocate(self.name, -2)

    def _process_message(self, msg: Any) -> None:
        scale = msg["scale"]
        super()._process_message(msg)
        msg["scale"] = scale


class DataPlate(Messenger):
    """Handler around a program: renames its plate of the data to ``data`` for the handlers outside of it.

    Where the plate is of a larger data set, it also takes back the plate's factor.
    """

    def __init__(self, plates: DataPlates) -> None:
        super().__init__()
        self.plates = plates

    def _pyro_sample(self, msg: Any) -> None:
        frames = msg["cond_indep_stack"]
        for frame in frames:
            if frame.name in self.plates.drawn and frame.full_size != frame.size:
                factor = frame.full_size / frame.size
                msg["scale"] = 1.0 if alike(msg["scale"], factor) else msg["scale"] / factor
                frames = tuple(f._replace(full_size=f.size) if f is frame else f for f in frames)
        msg["cond_indep_stack"] = tuple(_renamed(frames, self.plates.names))


def alike(a: float | Tensor, b: float | Tensor) -> bool:
    """Return whether two scales are equal.

    Two tensors count as equal only if they are the same object: comparing values would read them back from the device.
    """
    return a is b or (isinstance(a, int | float) and isinstance(b, int | float) and a == b)
