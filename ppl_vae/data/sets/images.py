"""MNIST, fixed binarised MNIST and Frey faces, from their published files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data.readers import read_npz, reading
from ppl_vae.data.seeding import generator
from ppl_vae.data.spec import Spec
from ppl_vae.data.split import Dataset, Role, Split
from ppl_vae.data.store import Remote, fetch, locate

_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
MNIST = (
    Remote(f"{_MNIST}/train-images-idx3-ubyte.gz", "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    Remote(f"{_MNIST}/train-labels-idx1-ubyte.gz", "md5:d53e105ee54ea40749a09fcbcd1e9432"),
    Remote(f"{_MNIST}/t10k-images-idx3-ubyte.gz", "md5:9fb629c4189551a2d022fa330f9573f3"),
    Remote(f"{_MNIST}/t10k-labels-idx1-ubyte.gz", "md5:ec29112dd5afa0611ce80d1b7f02629c"),
)
_AMAT = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
BINARIZED_MNIST = (
    Remote(f"{_AMAT}/binarized_mnist_train.amat", "md5:db28b1a6ae0fe70cbd3da91acf46e477"),
    Remote(f"{_AMAT}/binarized_mnist_valid.amat", "md5:bf37822a04e94123630de6a7dfd9c9ef"),
    Remote(f"{_AMAT}/binarized_mnist_test.amat", "md5:14e41ae11040adba6ab8cb291eda0dd8"),
)
# No checksum of the original is published, so this one is never downloaded unseen.
FREY = (Remote("https://cs.nyu.edu/~roweis/data/frey_rawface.mat"),)

_ROLES: tuple[Role, Role, Role] = ("train", "validation", "test")
_REMOVE = "removing the file and loading again"


def grey(images: np.ndarray) -> Tensor:
    """Return bytes (N, H, W) or (N, H*W) as intensities (N, H*W) in {0, 1/255, .., 1}."""
    return torch.from_numpy(images.reshape(len(images), -1).astype(np.float32)).div_(255)


def cut(tensors: dict[str, Tensor], sizes: list[int], order: Tensor, spec: Spec) -> dict[Role, Split]:
    """Return consecutive parts of `tensors` taken in `order`: train, validation and, with three sizes, test."""
    parts = order.split(sizes)
    return {
        role: Split({name: tensor[index] for name, tensor in tensors.items()}, spec, role=role)
        for role, index in zip(_ROLES, parts, strict=False)
    }


def mnist(seed: int = 0) -> Dataset:
    """Return MNIST in grey: 50000 and 10000 of the training images, drawn by `seed`, and the 10000 test images.

    LeCun, Cortes & Burges (1998). x (N, 784) in {0, 1/255, .., 1}, y the digit.
    """
    paths = fetch("mnist", MNIST)
    shapes = ((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))
    x, y, x_test, y_test = (read_idx(path, shape) for path, shape in zip(paths, shapes, strict=True))
    spec = Spec("mnist", (784,), "unit", image_shape=(1, 28, 28), num_classes=10, levels=256)
    order = torch.randperm(len(x), generator=generator(seed, "split"), device="cpu")
    parts = cut({"x": grey(x), "y": torch.from_numpy(y).long()}, [50_000, 10_000], order, spec)
    test = Split({"x": grey(x_test), "y": torch.from_numpy(y_test).long()}, spec, role="test")
    return Dataset(parts["train"], parts["validation"], test)


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return the bytes of a gzipped IDX file: two zero bytes, type 8, rank, then big-endian sizes and the data.

    Raises
    ------
    InputError
        If the file is cut short, is not of this kind, or its array has another shape.
    """
    with reading(path, "gzipped IDX file of bytes", _REMOVE):
        with gzip.open(path) as file:
            content = file.read()
        header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
        if not content.startswith(header):
            raise ValueError(f"a header that is not that of bytes of shape {shape}")
        return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy()


def binarized_mnist(seed: int = 0) -> Dataset:
    """Return MNIST binarised once and for all: 50000, 10000 and 10000 images (Larochelle & Murray 2011).

    The published test part is sorted by digit; it is shuffled here, always in the same way whatever `seed`, so that its
    first rows are a fair sample. The published text files carry no labels, the packed ``.npz`` carries derived ones.
    """
    del seed  # every part is as published
    packed = locate("binarized_mnist", ["binarized_mnist.npz"])
    if packed is not None:
        tensors = _unpack(packed[0])
    else:
        paths = fetch("binarized_mnist", BINARIZED_MNIST)
        rows = (50_000, 10_000, 10_000)
        tensors = {role: {"x": read_amat(path, n)} for role, path, n in zip(_ROLES, paths, rows, strict=True)}
    classes = 10 if "y" in tensors["train"] else None
    spec = Spec("binarized-mnist", (784,), "binary", "fixed", (1, 28, 28), classes, levels=2)
    order = torch.randperm(len(tensors["test"]["x"]), generator=generator(0, "sorted test split"), device="cpu")
    tensors["test"] = {name: tensor[order] for name, tensor in tensors["test"].items()}
    train, validation, test = (Split(tensors[role], spec, role=role) for role in _ROLES)
    return Dataset(train, validation, test)


def read_amat(path: Path, rows: int) -> Tensor:
    """Return the 0s and 1s (rows, 784) of a text file with one image a line.

    Raises
    ------
    InputError
        If there is anything but 0, 1 and white space, or the number of rows is another.
    """
    with reading(path, "text file of 0 and 1, 784 a line", _REMOVE):
        characters = np.fromfile(path, np.uint8)
        bits = characters[characters > ord(" ")] - ord("0")
        if bits.max(initial=0) > 1:
            raise ValueError("characters other than 0 and 1")
        return torch.from_numpy(bits.reshape(rows, 784).astype(np.float32))


def _unpack(path: Path) -> dict[Role, dict[str, Tensor]]:
    with reading(path, "packed binarised MNIST", _REMOVE):
        names = {"train": "train", "validation": "valid", "test": "test"}
        arrays = read_npz(path, *(f"{name}{part}" for name in names.values() for part in ("", "_labels")))
        return {
            role: {
                "x": torch.from_numpy(np.unpackbits(arrays[names[role]], axis=1, count=784).astype(np.float32)),
                "y": torch.from_numpy(arrays[f"{names[role]}_labels"]).long(),
            }
            for role in _ROLES
        }


def frey(seed: int = 0) -> Dataset:
    """Return the Frey faces: 1965 grey video frames of one face, shuffled by `seed`, 1565, 200 and 200.

    B. Frey and S. Roweis. x (N, 560) in {0, 1/255, .., 1}; no labels. Neighbouring frames are near copies, so the parts
    are not independent of each other.
    """
    found = locate("freyfaces", ["freyfaces.npz"]) or fetch("freyfaces", FREY)
    images = read_frey(found[0])
    spec = Spec("frey", (560,), "unit", image_shape=(1, 28, 20), levels=256)
    order = torch.randperm(len(images), generator=generator(seed, "split"), device="cpu")
    parts = cut({"x": grey(images)}, [len(images) - 400, 200, 200], order, spec)
    return Dataset(parts["train"], parts["validation"], parts["test"])


def read_frey(path: Path) -> np.ndarray:
    """Return the frames (1965, 28, 20) as bytes, from ``.npz`` or from the original ``.mat``.

    Raises
    ------
    InputError
        If the file is damaged or holds something else.
    """
    from scipy.io import loadmat

    with reading(path, "file of 1965 Frey faces", _REMOVE):
        images = read_npz(path, "images")["images"] if path.suffix == ".npz" else loadmat(path)["ff"].T
        if images.size != 1965 * 560 or images.dtype != np.uint8:
            raise ValueError(f"{images.dtype} values of shape {images.shape}")
        return images.reshape(1965, 28, 20)
