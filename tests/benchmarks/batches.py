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


class Repeated:
    """The same batch at each step."""

    def __init__(self, batch):
        self.batch = batch
        self.size = len(next(iter(batch.values())))

    def __call__(self):
        return self.batch

    def take(self, step):
        """Take one `TrainingStep`."""
        return step(self.batch)


class Shuffled:
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
        self.grey = grey_pictures(rows // size * size)
        self.split = split_of(self.grey).to(device)
        self.grey = self.grey.to(device)
        self._indices = cycle(torch.randperm(len(self.grey), device=device).split(size))

    def index(self):
        """Return the next rows."""
        return next(self._indices)

    def __call__(self):
        return {"x": torch.bernoulli(self.grey[self.index()])}

    def take(self, step):
        """Take one `TrainingStep`, as `fit` does."""
        return step.on(self.split, self.index())
