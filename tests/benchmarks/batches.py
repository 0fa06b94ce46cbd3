"""Where the batches of a benchmark come from: the same one at each step, or grey pictures binarised afresh.

Grey pictures are drawn, so that nothing is downloaded: bytes over 255, four of five zero, about as MNIST's are.
"""

from itertools import cycle

import torch

import ppl_vae

D = 784


def grey_pictures(rows):
    """Return grey values (rows, 784) in [0, 1]."""
    level = torch.randint(0, 256, (rows, D), dtype=torch.uint8)
    return level.masked_fill_(torch.rand(rows, D) < 0.8, 0).float() / 255


def split_of(grey):
    """Return grey pictures as a split of the library's, binarised dynamically; no validation."""
    pictures = {"x": torch.cat((grey, grey[:1]))}  # from_tensors keeps a row for the test
    return ppl_vae.data.from_tensors(
        pictures, splits=(len(grey), 0, 1), shuffle=False, levels=256, binarization="dynamic"
    ).train


class Batches:
    """Batches of `size` data: an index of rows, and what stands at it."""

    size: int

    def __call__(self):
        """Return the next batch."""
        return self.at(self.index())


class Repeated(Batches):
    """The same batch at each step."""

    def __init__(self, batch):
        self.batch = batch
        first = next(iter(batch.values()))
        self.size, self._index = len(first), torch.arange(len(first), device=first.device)

    def index(self):
        return self._index

    def at(self, index):
        return self.batch

    def take(self, step):
        """Take one `TrainingStep`."""
        return step(self.batch)


class Shuffled(Batches):
    """Rows of grey pictures by index, x ~ Bernoulli(grey) drawn afresh at each step.

    Parameters
    ----------
    size : int
        B.
    rows : int
        Pictures there are, as many as MNIST has for training.
    """

    def __init__(self, size, rows=50_000, device="cpu"):
        self.size = size
        grey = grey_pictures(rows // size * size)
        self.grey, self.split = grey.to(device), split_of(grey).to(device)
        self._indices = cycle(torch.randperm(len(grey), device=device).split(size))

    def index(self):
        return next(self._indices)

    def at(self, index):
        return {"x": torch.bernoulli(self.grey[index])}

    def take(self, step):
        """Take one `TrainingStep`, as `fit` does."""
        return step.on(self.split, self.index())


class Held(Batches):
    """What stands at an index that is written to in place, as a captured step needs it."""

    def __init__(self, batches):
        self.size, self.at, self._index = batches.size, batches.at, batches.index().clone()

    def index(self):
        return self._index
