"""Random streams of the data package: each has its own generator, so the process-wide one is never touched."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from ppl_vae.core.checks import check_seed


def generator(seed: int, stream: str) -> torch.Generator:
    """Return a CPU generator for one named stream of `seed`.

    Streams of one seed are independent of each other, so that, say, the split does not change with the binarisation.

    Raises
    ------
    InputError
        If `seed` is not a whole number >= 0.
    """
    number = check_seed(seed, "a whole number >= 0")
    entropy = np.random.SeedSequence([number, zlib.crc32(stream.encode())])
    return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
