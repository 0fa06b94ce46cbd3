"""OMNIGLOT at 28 x 28: from a packed file, from the IWAE authors' file, or from the original drawings."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from ppl_vae.core.errors import InputError
from ppl_vae.data.readers import read_npz, reading
from ppl_vae.data.seeding import generator
from ppl_vae.data.sets.images import cut, grey
from ppl_vae.data.spec import Spec
from ppl_vae.data.split import Dataset, Split
from ppl_vae.data.store import Remote, fetch, locate

_LAKE = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
OMNIGLOT = (
    Remote(f"{_LAKE}/images_background.zip", "md5:68d2efa1b9178cc56df9314c21c6e718"),
    Remote(f"{_LAKE}/images_evaluation.zip", "md5:6b91aef0f799c5bb55b94e3f2daec811"),
)
_VALIDATION = 1345
_REMOVE = "removing the file and loading again"
# (28, 105): row r averages cell r, 105/28 = 3.75 pixels wide, by how much of each pixel lies before each cell's edges.
_CELLS = np.diff(np.clip(np.arange(29)[:, None] * 3.75 - np.arange(105), 0, 1), axis=0) / 3.75


def omniglot(seed: int = 0) -> Dataset:
    """Return OMNIGLOT in grey: 23000 train, 1345 validation (drawn by `seed`) and 8070 test drawings.

    Lake, Salakhutdinov & Tenenbaum (2015). x (N, 784), ink 1 on 0; y the alphabet, 0..49. The sizes are those of Burda
    et al. (2016): 15 and 5 drawers a character for training and test, less 45 drawings. Where the IWAE authors'
    ``chardata.mat`` lies in the folder, x and the test part are theirs; otherwise drawings are averaged over 3.75-pixel
    cells and the parts are drawn here, and log p(x) is near, but not equal, to what is published on theirs.
    Files are sorted by character, so the test part is shuffled, always in the same way whatever `seed`.
    """
    found = locate("omniglot", ["omniglot28.npz"], ["chardata.mat"])
    if found is None:
        images, alphabet, part = read_drawings(fetch("omniglot", OMNIGLOT))
    elif found[0].suffix == ".npz":
        with reading(found[0], "packed OMNIGLOT", _REMOVE):
            arrays = read_npz(found[0], "images", "alphabet", "split")
            images, alphabet, part = arrays["images"], arrays["alphabet"], arrays["split"]
    else:
        images, alphabet, part = read_chardata(found[0])
    sizes = np.bincount(part, minlength=2)[:2].tolist()
    if sizes != [24_345, 8_070]:
        got = f"{sizes[0]} and {sizes[1]}"
        raise InputError("omniglot", expected="24345 train and 8070 test drawings", got=got, hint=_REMOVE)
    levels = 256 if images.dtype == np.uint8 else None
    x = grey(images) if levels else torch.from_numpy(images)
    y = torch.from_numpy(alphabet.astype(np.int64))
    spec = Spec("omniglot", (784,), "unit", image_shape=(1, 28, 28), num_classes=50, levels=levels)
    train, test = (torch.from_numpy(np.flatnonzero(part == number)) for number in (0, 1))
    test = test[torch.randperm(len(test), generator=generator(0, "sorted test split"), device="cpu")]
    order = train[torch.randperm(len(train), generator=generator(seed, "split"), device="cpu")]
    parts = cut({"x": x, "y": y}, [len(train) - _VALIDATION, _VALIDATION], order, spec)
    return Dataset(parts["train"], parts["validation"], Split({"x": x[test], "y": y[test]}, spec, role="test"))


def read_drawings(paths: list[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return bytes (N, 28, 28), alphabet (N,) and part (N,) of the drawings in the published zip files.

    Rows are in the order of character and drawer. Part is 0 train, 1 test, 2 unused.

    Raises
    ------
    InputError
        If a file is damaged or holds something else.
    """
    # matplotlib's reader spares a dependency on an image library
    from matplotlib.image import imread

    rows: list[tuple[str, str, np.ndarray]] = []
    for path in paths:
        with reading(path, "zip file of OMNIGLOT drawings", _REMOVE), zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".png") and not name.startswith("__MACOSX"):
                    _, alphabet, _, file = name.split("/")
                    rows.append((file, alphabet, shrink(1 - imread(io.BytesIO(archive.read(name)), format="png"))))
    rows.sort(key=lambda row: row[0])
    names = sorted({alphabet for _, alphabet, _ in rows})
    alphabets = np.array([names.index(alphabet) for _, alphabet, _ in rows])
    return np.stack([image for *_, image in rows]), alphabets, divide([file[:4] for file, *_ in rows])


def shrink(ink: np.ndarray) -> np.ndarray:
    """Return a drawing (105, 105) in [0, 1] as bytes (28, 28): the exact mean ink of each cell."""
    return np.rint(255 * (_CELLS @ ink @ _CELLS.T)).astype(np.uint8)


def divide(characters: list[str]) -> np.ndarray:
    """Return the part of each row: 5 drawings of every character test (1), less 45 unused (2), the rest train (0)."""
    random = np.random.RandomState(0)  # a stream of its own whose numbers are frozen for good; always the same split
    part = np.zeros(len(characters), np.uint8)
    owner = np.array(characters)
    for character in np.unique(owner):
        rows = np.flatnonzero(owner == character)
        part[rows[random.permutation(len(rows))[:5]]] = 1
    part[random.choice(np.flatnonzero(part), 45, replace=False)] = 2
    return part


def read_chardata(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return floats (N, 784), alphabet (N,) and part (N,) of the IWAE authors' file (Burda et al. 2016).

    Raises
    ------
    InputError
        If the file is damaged or holds something else.
    """
    from scipy.io import loadmat

    with reading(path, "chardata.mat", _REMOVE):
        arrays = loadmat(path, variable_names=["data", "target", "testdata", "testtarget"])
        sizes = [arrays[name].shape[1] for name in ("data", "testdata")]
        columns = np.concatenate([arrays["data"], arrays["testdata"]], axis=1).T
        images = columns.reshape(-1, 28, 28).transpose(0, 2, 1).reshape(-1, 784)  # the file is column-major
        alphabet = np.concatenate([arrays["target"], arrays["testtarget"]], axis=1).argmax(axis=0)
        return np.ascontiguousarray(images, np.float32), alphabet, np.repeat([0, 1], sizes)
