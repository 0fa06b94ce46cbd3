"""Real images of dSprites (Matthey, Higgins, Hassabis & Lerchner 2017; Apache-2.0), with their five factors.

Either the published file, or a smaller one of distinct images: bits packed by row, ``grid_images`` (a factorial grid)
and ``random_images``, each with ``…_original_index``, the row in the published file.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from ppl_vae.core.errors import InputError
from ppl_vae.data.readers import read_npz, reading
from ppl_vae.data.seeding import generator
from ppl_vae.data.sets.sprites import FACTORS
from ppl_vae.data.sets.synthetic import check_count, eighty_ten_ten
from ppl_vae.data.spec import Spec
from ppl_vae.data.split import Dataset
from ppl_vae.data.store import VARIABLE, locate

FULL = "dsprites_ndarray_co1sh3sc6or40x32x32_64x64.npz"
SMALL = "dsprites_small.npz"


def dsprites(seed: int = 0, *, num_rows: int = 10_000) -> Dataset:
    """Return real dSprites images, so many of those there are chosen by `seed`, 80/10/10.

    x (N, 4096) in {0, 1}, y the shape (N,), ``factors`` (N, 5) float: the values of `FACTORS`, column by column.

    Raises
    ------
    InputError
        If there is no file, or it is damaged, or has fewer images.
    """
    found = locate("dsprites", [FULL], [SMALL])
    if found is None:
        raise InputError(
            f"dsprites/{FULL}",
            expected="a file of this name",
            got="none",
            hint=f"putting it into dsprites/ in the folder that {VARIABLE} names",
        )
    (path,) = found
    with reading(path, "dSprites file"):
        images, index = _small(path) if path.name == SMALL else _full(path)
        num_rows = check_count("num_rows", num_rows, 10, len(index))
        chosen = torch.randperm(len(index), generator=generator(seed, "dsprites"), device="cpu")[:num_rows].numpy()
        x, index = images[chosen], index[chosen]
        x = x.reshape(num_rows, -1) if x[0].size == 64 * 64 else np.unpackbits(x, axis=1)
    counts = [len(values) for values in FACTORS.values()]
    columns = zip(FACTORS.values(), torch.unravel_index(torch.from_numpy(index), counts), strict=True)
    factors = torch.stack([torch.tensor(values, device="cpu")[column] for values, column in columns], dim=1)
    tensors = {"x": torch.from_numpy(x).float(), "y": factors[:, 0].long(), "factors": factors}
    spec = Spec("dsprites", (64 * 64,), "binary", image_shape=(1, 64, 64), num_classes=3, levels=2)
    return eighty_ten_ten(tensors, spec)


def _small(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct images, packed, and their rows in the published file."""
    names = [f"{part}_{what}" for part in ("grid", "random") for what in ("images", "original_index")]
    held = read_npz(path, *names)
    index = np.concatenate([held["grid_original_index"], held["random_original_index"]]).astype(np.int64)
    rows, first = np.unique(index, return_index=True)
    return np.concatenate([held["grid_images"], held["random_images"]])[first], rows


def _full(path: Path) -> tuple[np.ndarray, np.ndarray]:
    images = read_npz(path, "imgs")["imgs"]
    if len(images) != math.prod(len(values) for values in FACTORS.values()):
        raise ValueError(f"{len(images)} images")
    return images, np.arange(len(images))
