"""Semi-supervised data: of the training data, a few have labels (Kingma et al. 2014, section 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.errors import InputError
from ppl_vae.data.seeding import generator
from ppl_vae.data.split import Dataset, Split, whole


def with_few_labels(data: Dataset, labels: int, *, seed: int = 0, repeats: int = 1) -> Dataset:
    """Return `data` with a mask of the training data whose label a program may see: ``labelled``, (N,) boolean.

    The true y stands in every split all the same, to evaluate by: what the mask hides has no part in any objective.
    All of validation and test data is masked, so that their bounds are of log p(x), as for a model without labels.

    Parameters
    ----------
    data : Dataset
        With labels y.
    labels : int
        How many there are, as many of each class, up to one; 0 for none, N for all.
    seed : int
        Of the draw of labels.
    repeats : int
        How often each labelled datum stands in the training data: the weight of labelled against unlabelled data.

    Raises
    ------
    InputError
        If the data have no labels, or fewer of a class than are to be drawn.
    """
    whole(data)
    if data.spec.num_classes is None or "y" not in data.train:
        raise InputError(f"labels of {data.name}", expected="a whole-numbered y", got="none", hint='{"x": x, "y": y}')
    y, size = data.train["y"], data.train.size
    labels = integer_at_least("labels", labels, 0)
    if labels > size:
        raise InputError("labels", expected=f"0 to {size:,}, the training data", got=str(labels))
    chosen = _balanced(y, labels, data.spec.num_classes, seed)
    mask = torch.zeros(size, dtype=torch.bool, device=y.device).index_fill(0, chosen, True)
    rows = torch.cat((torch.arange(size, device=y.device), chosen.repeat(integer_at_least("repeats", repeats, 1) - 1)))
    parts = {
        role: _masked(split, torch.zeros_like(split["y"], dtype=torch.bool)) for role, split in data.splits.items()
    }
    train = _masked(data.train, mask)._with(lambda tensor: tensor[rows])
    return Dataset(train, parts.get("validation"), parts["test"], data.truth)


def _balanced(y: Tensor, labels: int, num_classes: int, seed: int) -> Tensor:
    """Return the rows of a random draw of so many labels, as many of each class, up to one."""
    if labels == len(y):
        return torch.arange(labels, device=y.device)
    random = generator(seed, "labels")
    counts = torch.full((num_classes,), labels // num_classes, device="cpu")
    counts[torch.randperm(num_classes, generator=random, device="cpu")[: labels % num_classes]] += 1
    order = torch.randperm(len(y), generator=random, device="cpu").to(y.device)
    rows = [order[y[order] == k][: int(counts[k])] for k in range(num_classes)]
    for k, row in enumerate(rows):
        if len(row) < counts[k]:
            raise InputError(
                "labels",
                expected=f"{int(counts[k])} data of class {k}, for {labels:,} labels in all",
                got=str(len(row)),
                hint="fewer labels",
            )
    return torch.cat(rows)


def _masked(split: Split, labelled: Tensor) -> Split:
    return Split({**split, "labelled": labelled}, split.spec, role=split.role, intensities=split._intensities)
