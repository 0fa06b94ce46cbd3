"""Which plate is that of the data: decided by structure, whatever its name.

It is the plate at dim -1 whose size is that of the batch and in which the model observes something. In the record of a
run it is renamed to ``data``; the particle plate, at dim -2, is called ``particles``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

DATA, PARTICLES = "data", "particles"

Site = dict[str, Any]


def in_data_plate(site: Site) -> bool:
    """Return whether a site of a record is local: inside the plate of the data."""
    return any(frame.name == DATA for frame in site["cond_indep_stack"])


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


def data_plates(model_sites: Mapping[str, Site], guide_sites: Mapping[str, Site], rows: int | None) -> frozenset[str]:
    """Return the names of the plate of the data in model and guide; empty where no plate has that many rows.

    The guide's may have another name than the model's: any plate of that size counts, unless it has the name of
    another plate of the model.
    """
    observed = [site for site in model_sites.values() if site["is_observed"]]
    names = _with_rows(observed, rows) or _with_rows(model_sites.values(), rows) & {DATA}
    others = {frame.name for site in model_sites.values() for frame in site["cond_indep_stack"]} - names
    return frozenset(names | (_with_rows(guide_sites.values(), rows) - others if names else set()))


def _with_rows(sites: Iterable[Site], rows: int | None) -> set[str]:
    frames = (frame for site in sites for frame in site["cond_indep_stack"])
    return {frame.name for frame in frames if frame.dim == -1 and frame.size == rows}


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


class DataPlate(Messenger):
    """Handler around a program: renames its plate of the data to ``data`` for the handlers outside of it.

    Parameters
    ----------
    names : frozenset of str
        Names of the plate of the data in the program.
    """

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        msg["cond_indep_stack"] = tuple(_renamed(msg["cond_indep_stack"], self.names))
