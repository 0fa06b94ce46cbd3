"""From grey values in [0, 1] to binary x, once (fixed) or with every batch (dynamic)."""

from __future__ import annotations

from dataclasses import replace

import torch

from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import InputError
from ppl_vae.data.seeding import generator
from ppl_vae.data.spec import BINARIZATIONS, Binarization
from ppl_vae.data.split import Dataset, Split, whole


def binarize(data: Dataset, binarization: str, seed: int = 0) -> Dataset:
    """Return `data` with x ~ Bernoulli(grey value), coordinate by coordinate.

    ``fixed`` keeps one draw for good. ``dynamic`` shows that same draw and keeps the grey values for `Split.batch`
    (Salakhutdinov & Murray 2008; Burda et al. 2016, sec. 5). Each part has a stream of its own under `seed`, but the
    test part's does not depend on it.

    Raises
    ------
    InputError
        If the name of the binarisation is unknown, or x does not lie in [0, 1], or is binarised already.
    """
    whole(data)
    how: Binarization = one_of("binarization", binarization, BINARIZATIONS)
    if binarization == "none":
        return data
    if data.spec.support in ("real", "count"):
        got = "real-valued x" if data.spec.support == "real" else "counts"
        raise InputError(f"binarization of {data.name}", expected="grey values in [0, 1]", got=got)
    if data.spec.binarization != "none":
        raise InputError(f"binarization of {data.name}", expected="grey values", got="x that is binarised already")
    spec = replace(data.spec, support="binary", binarization=how, levels=2)

    def drawn(split: Split) -> Split:
        grey = split["x"]
        # One draw of the test part for everyone, so that results on it compare whatever the seed.
        stream = generator(0 if split.role == "test" else seed, f"binarize {split.role}")
        x = torch.bernoulli(grey, generator=stream)
        return Split({**split, "x": x}, spec, role=split.role, intensities=grey if binarization == "dynamic" else None)

    parts = {role: drawn(split) for role, split in data.splits.items()}
    return Dataset(parts["train"], parts.get("validation"), parts["test"], data.truth)
