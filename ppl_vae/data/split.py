"""One part of a data set as a mapping of tensors, and the three parts together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ppl_vae.core.checks import check_kind, integer_at_least
from ppl_vae.core.errors import InputError
from ppl_vae.data.noise import bernoulli
from ppl_vae.data.seeding import generator as seeded
from ppl_vae.data.spec import Spec

Role = Literal["train", "validation", "test"]


class Split(Mapping[str, Tensor]):
    """Rows of a data set: a mapping from argument name to tensor, leading dimension N.

    ``split["x"]`` (N, *x_shape) always lies in the support that `spec` claims; ``split["y"]`` (N,) is int64 where there
    are labels. Under dynamic binarisation ``split["x"]`` is one seeded draw, the same for everyone who evaluates on it,
    and `batch` gives fresh ones.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        What one sees, all with the same leading dimension N. Tensors are shared, not copied.
    spec : Spec
        Description of the data.
    role : {"train", "validation", "test"}
        Which part this is.
    intensities : Tensor, optional
        Grey values (N, *x_shape) in [0, 1] behind x; present exactly under dynamic binarisation.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], spec: Spec, *, role: Role = "train", intensities: Tensor | None = None
    ) -> None:
        if (spec.binarization == "dynamic") != (intensities is not None):
            raise InputError("intensities", expected="grey values exactly under dynamic binarisation")
        self._tensors = dict(tensors)
        self._intensities = intensities
        self._digest: str | None = None
        self.spec = spec
        self.role: Role = role

    @property
    def size(self) -> int:
        """Number N of rows."""
        return len(next(iter(self._tensors.values())))

    @property
    def digest(self) -> str:
        """Twelve hexadecimal characters that identify the visible rows and their binarisation.

        Does not depend on the device or the floating type, so it can stand beside a result as the name of its data.
        """
        if self._digest is None:
            digest = hashlib.blake2b(self.spec.binarization.encode(), digest_size=6)
            for name in sorted(self._tensors):
                tensor = self._tensors[name].detach().cpu()
                tensor = tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64).flatten()
                digest.update(f"{name}{tuple(self._tensors[name].shape)}".encode())
                digest.update(tensor.contiguous().numpy().data)
            self._digest = digest.hexdigest()
        return self._digest

    def batch(
        self, index: Tensor | slice | Sequence[int] | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return a batch of rows to train on, with fresh x ~ Bernoulli(intensity) under dynamic binarisation.

        Parameters
        ----------
        index : Tensor of int64 (B,), slice or sequence of int, optional
            Which rows; all by default.
        generator : torch.Generator, optional
            Source of the fresh draw, on the device of the tensors; torch's own by default.
        """
        tensors = dict(self._tensors)
        if self._intensities is not None:
            tensors["x"] = self._intensities
        rows = tensors if index is None else {name: _rows(tensor, index) for name, tensor in tensors.items()}
        if self._intensities is not None:
            rows["x"] = bernoulli(rows["x"], generator)
        return rows

    draw = batch  # its former name

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Split:
        """Return the split on another device; `dtype` changes floating tensors only."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return self._with(moved)

    def take(self, n: int, seed: int | None = None) -> Split:
        """Return the first `n` rows, or a random `n` of them, without repeats, where `seed` is given.

        Raises
        ------
        InputError
            If there are fewer than `n` rows, or `n` < 1.
        """
        n = integer_at_least("n", n, 1, expected=f"1 to {self.size}, the rows of this split", maximum=self.size)
        if seed is None:
            return self._with(lambda tensor: tensor[:n])
        index = torch.randperm(self.size, generator=seeded(seed, "take"), device="cpu")[:n]
        return self._with(lambda tensor: tensor[index.to(tensor.device)])

    def _with(self, change: Any) -> Split:
        tensors = {name: change(tensor) for name, tensor in self._tensors.items()}
        intensities = None if self._intensities is None else change(self._intensities)
        return Split(tensors, self.spec, role=self.role, intensities=intensities)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    # A mapping compares its values, and `tensor == tensor` has no truth value: splits are equal by identity only.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self._tensors.items())
        spec = self.spec
        return f"Split({spec.name} {self.role}: {shapes}; {spec.support}, binarization {spec.binarization})"


def _rows(tensor: Tensor, index: Any) -> Tensor:
    """Return rows of `tensor`; where they are listed, in a third of the time that indexing takes on a CPU."""
    if isinstance(index, Tensor) and index.dtype == torch.int64 and index.ndim == 1 and index.device.type == "cpu":
        try:
            return tensor.index_select(0, index)
        except (IndexError, RuntimeError):  # negative numbers, which count from the end
            pass
    return tensor[index]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Train, validation and test part of a data set.

    Parameters
    ----------
    train, validation, test : Split
        The parts; `validation` is None only for a user's own data that asked for none.
    truth : object, optional
        What generated synthetic data, where that is known (`linear-gaussian`).
    """

    train: Split
    validation: Split | None
    test: Split
    truth: Any = None

    @property
    def spec(self) -> Spec:
        """Description shared by all parts."""
        return self.train.spec

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.spec.name

    @property
    def splits(self) -> dict[Role, Split]:
        """The parts there are, by role."""
        return {split.role: split for split in (self.train, self.validation, self.test) if split is not None}


def whole(data: Any) -> Dataset:
    """Return `data`, or raise `InputError` if it is not a whole data set."""
    return check_kind("data", data, Dataset, "a whole data set", "ppl_vae.data.from_tensors(…)")
