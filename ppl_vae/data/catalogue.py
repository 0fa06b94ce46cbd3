"""Data sets by name. One is read by a module of its own, which is imported for it."""

from __future__ import annotations

import inspect
import os
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import InputError, shown, unknown_name

if TYPE_CHECKING:
    from ppl_vae.data.spec import Binarization
    from ppl_vae.data.split import Dataset


@dataclass(frozen=True)
class _Entry:
    description: str
    reader: str  # "module:function" of ppl_vae.data
    binarizations: tuple[Binarization, ...]  # the default first


_ENTRIES = {
    "digits": _Entry(
        "1797 handwritten digits, 8x8, from scikit-learn; no download",
        "sets.synthetic:digits",
        ("fixed", "dynamic", "none"),
    ),
    "sprites": _Entry("binary shapes with five known factors, drawn on the fly", "sets.sprites:sprites", ("none",)),
    "dsprites": _Entry("real images of dSprites with five known factors, 64x64", "sets.dsprites:dsprites", ("none",)),
    "linear-gaussian": _Entry("synthetic, with the exact log p(x) known", "sets.synthetic:linear_gaussian", ("none",)),
    "mnist": _Entry("70000 handwritten digits, 28x28, grey", "sets.images:mnist", ("dynamic", "fixed", "none")),
    "binarized-mnist": _Entry(
        "MNIST binarised once and for all (Larochelle)", "sets.images:binarized_mnist", ("fixed",)
    ),
    "omniglot": _Entry(
        "32415 handwritten characters of 50 alphabets, 28x28, grey",
        "sets.omniglot:omniglot",
        ("dynamic", "fixed", "none"),
    ),
    "frey": _Entry("1965 grey video frames of one face, 28x20", "sets.images:frey", ("none",)),
    "hands-nyu": _Entry(
        "joints and pictures of 8252 real hands, 14 joints, two subjects", "hands.recorded:hands_nyu", ("none",)
    ),
    "hands-icvl": _Entry(
        "joints and pictures of 1596 real hands, 16 joints, two sequences", "hands.recorded:hands_icvl", ("none",)
    ),
}


def names() -> dict[str, str]:
    """Return the names of the data sets, each with one line on what it is."""
    return {name: entry.description for name, entry in _ENTRIES.items()}


def binarizations(name: str) -> tuple[Binarization, ...]:
    """Return the binarisations that the data set called `name` offers, its default first.

    Raises
    ------
    InputError
        If the name is unknown.
    """
    return _entry(name).binarizations


def load(name: str = "digits", *, binarization: str | None = None, seed: int = 0, **options: Any) -> Dataset:
    """Return a data set by name.

    Files are read from the folder that ``PPL_VAE_DATA`` names or from the user's cache, else downloaded into the cache.

    Parameters
    ----------
    name : str
        One of `names`.
    binarization : {"none", "fixed", "dynamic"}, optional
        How grey values become binary. By default digits are ``fixed``, mnist and omniglot ``dynamic``.
    seed : int
        Seed of the split, of the draws and of what is synthetic. Published test parts do not depend on it.
    **options
        ``num_rows`` of dsprites; ``num_rows`` and ``size`` of sprites; ``num_rows``, ``x_dim``, ``latent_dim`` and
        ``scale`` of linear-gaussian; ``image_size``, ``scale_2d`` and ``hand_size`` of hands.

    Raises
    ------
    InputError
        If the name, the binarisation or an option is unknown or does not go with the data set, or a file is missing,
        damaged or refused.
    """
    from ppl_vae.data.binarization import binarize
    from ppl_vae.data.spec import BINARIZATIONS

    entry = _entry(name)
    how = entry.binarizations[0] if binarization is None else binarization
    one_of("binarization", how, BINARIZATIONS)
    if how not in entry.binarizations:
        possible = " or ".join(map(repr, entry.binarizations))
        raise InputError(f"binarization of {name}", expected=possible, got=shown(how))
    read = pkgutil.resolve_name(f"ppl_vae.data.{entry.reader}")
    known = [option for option in inspect.signature(read).parameters if option != "seed"]
    for option in options.keys() - set(known):
        if not known:
            raise InputError(f"options of {name}", expected="none", got=shown(option))
        raise unknown_name(f"option of {name}", option, known)
    data = read(seed, **options)
    return data if data.spec.binarization == how else binarize(data, how, seed)


def _entry(name: Any) -> _Entry:
    """Return the data set of that name; for what looks like a path, raise with what reads one."""
    path = str(name) if isinstance(name, str | os.PathLike) and name not in _ENTRIES else ""
    if os.sep in path or Path(path).suffix:
        hint = f"data.from_tensors({shown(path)})"
        raise InputError("data set", expected=f"one of {', '.join(_ENTRIES)}", got=shown(name), hint=hint)
    return _ENTRIES[one_of("data set", name, _ENTRIES)]
