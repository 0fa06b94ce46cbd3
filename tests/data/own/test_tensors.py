"""A user's own data: every source gives the same tensors, every mistake one line."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import ppl_vae.data as data
from ppl_vae.core.errors import InputError

X = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 4


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(x, int(y)) for x, y in zip(X, Y, strict=True)])


@pytest.fixture
def sources(tmp_path):
    np.savez(tmp_path / "a.npz", x=X.numpy(), y=Y.numpy())
    table = np.concatenate([X.numpy()[:, :1], Y.numpy()[:, None], X.numpy()[:, 1:]], 1)
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", header="u,y,v,w", comments="", fmt="%.9g")
    return {
        "mapping of tensors": {"x": X, "y": Y},
        "mapping of arrays": {"x": X.double().numpy(), "y": Y.numpy().astype(np.uint8)},
        "mapping of lists": {"x": X.tolist(), "y": Y.tolist()},
        "big-endian": {"x": X.numpy().astype(">f4"), "y": Y.numpy().astype(">i2")},
        "npz": tmp_path / "a.npz",
        "npz as text": str(tmp_path / "a.npz"),
        "csv": tmp_path / "a.csv",
        "TensorDataset": TensorDataset(X, Y),
        "tuples": Items([(x, y) for x, y in zip(X, Y, strict=True)]),
        "mappings": Items([{"x": x, "y": y} for x, y in zip(X, Y, strict=True)]),
        "stream": Stream(),
    }


def test_every_source_gives_the_same_data(sources):
    reference = data.from_tensors({"x": X, "y": Y})
    assert reference.spec == data.Spec("own", (3,), "unit", num_classes=4)
    for kind, source in sources.items():
        loaded = data.from_tensors(source)
        assert loaded.spec == reference.spec, kind
        for role, split in loaded.splits.items():
            assert torch.equal(split["x"], reference.splits[role]["x"]), kind
            assert torch.equal(split["y"], reference.splits[role]["y"]), kind


def test_sources_of_x_alone(tmp_path):
    np.save(tmp_path / "a.npy", X.numpy())
    np.savez(tmp_path / "one.npz", anything=X.numpy())
    np.savetxt(tmp_path / "bare.csv", X.numpy(), delimiter=",", fmt="%.9g")
    (tmp_path / "header.csv").write_text("\ufeffa, b,c\n" + (tmp_path / "bare.csv").read_text() + "\n")
    for source in (
        X,
        X.numpy(),
        Items(list(X)),
        *map(tmp_path.joinpath, ("a.npy", "one.npz", "bare.csv", "header.csv")),
    ):
        loaded = data.from_tensors(source, shuffle=False, splits=(14, 3, 3))
        assert torch.equal(torch.cat([split["x"] for split in loaded.splits.values()]), X)
        assert "y" not in loaded.train


def test_splits(tmp_path):
    loaded = data.from_tensors({"x": X, "y": Y}, splits=(0.5, 0.25, 0.25))
    assert [split.size for split in loaded.splits.values()] == [10, 5, 5]
    rows = torch.cat([split["x"] for split in loaded.splits.values()])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, X.tolist()))
    assert not torch.equal(rows, X)
    assert torch.equal(loaded.test["x"], data.from_tensors({"x": X}, splits=(0.5, 0.25, 0.25)).test["x"])
    assert loaded.test.digest != data.from_tensors({"x": X, "y": Y}, splits=(0.5, 0.25, 0.25), seed=1).test.digest
    without = data.from_tensors(X, splits=(0.9, 0, 0.1))
    assert without.validation is None
    assert set(without.splits) == {"train", "test"}
    tiny = data.from_tensors(X[:3])
    assert [split.size for split in tiny.splits.values()] == [1, 1, 1]


def test_binarisation_of_own_data():
    grey = data.from_tensors(X, binarization="none").test
    fixed, dynamic = (data.from_tensors(X, binarization=how).test for how in ("fixed", "dynamic"))
    assert fixed.spec == data.Spec("own", (3,), "binary", "fixed", levels=2)
    assert torch.isin(dynamic["x"], torch.tensor([0.0, 1.0])).all()
    assert len({split.digest for split in (grey, fixed, dynamic)}) == 3


def test_spec_is_inferred():
    def spec(x, **options):
        return data.from_tensors(x, **options).spec

    assert spec((X > 0.5).int()).support == "binary"
    assert spec(X > 0.5).levels == 2
    assert spec(X).support == "unit"
    assert spec(X * 2).support == "real"
    assert spec(X, support="real").support == "real"
    images = torch.randint(0, 256, (20, 1, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    loaded = data.from_tensors(images, levels=256, shuffle=False)
    assert loaded.spec == data.Spec("own", (1, 4, 5), "unit", image_shape=(1, 4, 5), levels=256)
    torch.testing.assert_close(loaded.train["x"] * 255, images[:16].float())
    assert spec(images.flatten(1), levels=256, image_shape=(1, 4, 5)).image_shape == (1, 4, 5)
    assert spec(images / 255, levels=256).levels == 256
    assert spec(X, dtype=torch.float64) == spec(X)
    assert data.from_tensors(X, dtype=torch.float64).train["x"].dtype == torch.float64


def test_whole_numbers_are_labels_and_others_are_not():
    assert data.from_tensors({"x": X, "y": Y.float()}).train["y"].dtype == torch.int64
    targets = data.from_tensors({"x": X, "y": X[:, 0]})
    assert targets.train["y"].dtype == torch.float32
    assert targets.spec.num_classes is None
    one_hot = data.from_tensors({"x": X, "y": torch.nn.functional.one_hot(Y).float()})
    assert one_hot.train["y"].dtype == torch.float32
    assert one_hot.train["y"].shape == (16, 4)


def test_own_data_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    data.from_tensors(X, binarization="dynamic", seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_as_split():
    split = data.load("digits").test
    assert data.as_split(split) is split
    made = data.as_split({"x": X.double(), "c": Y})
    assert made["x"].dtype == torch.float64
    assert made.spec == data.Spec("own", (3,), "unit")
    assert made["x"].data_ptr() != X.data_ptr()
    shared = data.as_split({"x": X})
    assert shared["x"].data_ptr() == X.data_ptr()
    assert data.as_split({"obs": X[:, 0]}).spec.x_shape == ()
    with pytest.raises(
        InputError, match=r"data: expected one split; got the whole data set 'digits'; try data.train or"
    ):
        data.as_split(data.load("digits"))
    with pytest.raises(InputError, match=r"data: expected a split or a mapping of tensors; got Tensor; try"):
        data.as_split(X)


def bad(value, row=7):
    x = X.clone()
    x[row, 1] = value
    x[row + 3, 2] = value
    return x


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (bad(math.nan), {}, r"x: expected finite values; got nan in row 7 \(of 20, counted from 0; 2 such\); try"),
        ({"x": X, "c": bad(-math.inf, 2)}, {}, r"c: expected finite values; got -inf in row 2"),
        ({"x": X.double() * 1e300}, {}, "x: expected finite values; got inf in row 0"),
        (torch.zeros(0, 3), {}, r"x: expected at least one row; got shape \(0, 3\)"),
        (torch.zeros(4, 0), {}, r"x: expected at least one row; got shape \(4, 0\)"),
        (torch.tensor(1.0), {}, r"x: expected at least one row; got shape \(\)"),
        ({}, {}, "data: expected a tensor named 'x'; got nothing"),
        ({"z": X}, {}, "data: expected a tensor named 'x'; got 'z'"),
        ({"x": X, "y": Y[:-1]}, {}, "y: expected 20 rows, as in x; got 19"),
        ({"x": X, "y": Y - 1}, {}, "y: expected labels 0..C-1; got -1 in row 0"),
        (X[:, 0], {}, r"x: expected shape \(N, D\) or \(N, ...\); got \(20,\); try x\[:, None\]"),
        (bad(1.5), {"binarization": "fixed"}, r"x: expected values in \[0, 1\] for binarisation; got 1.5 in row 7"),
        (bad(-0.5), {"binarization": "dynamic"}, r"x: expected values in \[0, 1\] for binarisation; got -0.5 in row 7"),
        (X, {"binarization": "fixd"}, "unknown binarization: expected one of .*; got 'fixd'; try 'fixed'"),
        (X, {"support": "unti"}, "unknown support: expected one of .*; got 'unti'; try 'unit'"),
        (bad(2), {"support": "unit"}, r"x: expected values in \[0, 1\] for support 'unit'; got 2 in row 7"),
        (X, {"support": "binary"}, "x: expected the 2 levels 0, 1/1, .., 1; got .* in row 0"),
        (X, {"levels": 4}, "x: expected the 4 levels 0, 1/3, .., 1; got .* in row 0"),
        (X, {"levels": 1}, "levels: expected a whole number >= 2; got 1"),
        (
            X,
            {"image_shape": (1, 2, 2)},
            r"image_shape: expected \(channels, height, width\) with 3 values, as x \(3,\) has",
        ),
        (X, {"splits": (0.8, 0.1)}, "splits: expected three shares"),
        (X, {"splits": (0.8, 0.1, 0.2)}, "splits: expected three shares .* sum to 1"),
        (X, {"splits": (1.0, 0.0, 0.0)}, "splits: expected three shares .* train and test above 0"),
        (X, {"splits": (15, 5, 5)}, r"splits: expected at most the 20 rows of the data; got \(15, 5, 5\)"),
        (X[:2], {}, "x: expected more rows than 2 to split; got 2; try fewer splits"),
        ({"x": np.array(["a", "b"])}, {}, "x: expected an array of numbers; got values of type <U1"),
        ({"x": [[1, 2], [3]]}, {}, "x: expected a rectangular array of numbers; got rows of unequal length"),
        ({"x": X + 1j}, {}, "x: expected real numbers; got values of type torch.complex64"),
        ({1: X, "x": X}, {}, "data: expected names as keys; got 1"),
        (
            np.ma.masked_equal(np.where(np.arange(20) == 3, -999.0, 1.0)[:, None], -999.0),
            {},
            "x: expected values that are all there; got a masked array, 1 of 20 values hidden; try leaving those rows",
        ),
        (X.to("meta"), {}, "x: expected a tensor with values; got one on the device 'meta', which has none"),
        (
            X.to(torch.float8_e4m3fn),
            {},
            "x: expected real numbers; got values of type torch.float8_e4m3fn; try x.float",
        ),
        (
            torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
            {},
            "x: expected a dense tensor; got a nested one; try",
        ),
        (
            np.full((20, 2), 2**63, np.uint64),
            {},
            "x: expected whole numbers up to 9223372036854775807; got 9223372036854775808",
        ),
        (
            {"x": X, "y": torch.full((20,), 10**12)},
            {},
            r"y: expected labels 0..C-1 below 1,000,000; got 1e\+12 in row 0 .*; try counting classes from 0",
        ),
        (X, {"dtype": torch.int64}, "dtype: expected a floating type of torch; got torch.int64; try torch.float32"),
        (X, {"dtype": "float32"}, "dtype: expected a floating type of torch; got 'float32'; try torch.float32"),
        (X, {"name": 3}, "name: expected a name; got 3"),
        (X, {"seed": True}, "seed: expected a whole number >= 0; got True"),
        (
            object(),
            {},
            "source: expected a mapping of tensors, a tensor, an array, a DataFrame, a path or a torch Dataset; "
            "got object",
        ),
        (Items([]), {}, "source: expected at least one item; got an empty torch Dataset"),
        (Items([X[0], X[1, :2]]), {}, r"x of item 1: expected shape \(3,\), as in item 0; got \(2,\)"),
        (Items([(X[0], Y[0]), X[1]]), {}, "item 1: expected x, y, as in item 0; got x"),
        (Items([("a picture", 1)]), {}, "x of item 0: expected a tensor; got str; try a transform"),
        (Items([(1, 2, 3)]), {}, r"item 0: expected x, \(x, y\) or a mapping; got a tuple of 3"),
    ],
)
def test_bad_data_get_one_line(source, options, message):
    with pytest.raises(InputError, match=message) as caught:
        data.from_tensors(source, **options)
    assert "\n" not in str(caught.value)


def test_what_can_be_read_without_loss_is_read():
    for source in (X.to_sparse(), X.to_sparse_csr(), np.ma.masked_array(X.numpy()), X.numpy().astype(np.longdouble)):
        assert torch.equal(data.from_tensors(source, shuffle=False).train["x"], X[:16])
    assert data.from_tensors({"x": X, "y": Y}, splits=(np.int64(16), 2, np.int64(2))).train.size == 16


def test_only_a_whole_data_set_gets_few_labels():
    for change in (
        data.given_labels,
        lambda given: data.with_few_labels(given, 3),
        lambda g: data.binarize(g, "fixed"),
    ):
        with pytest.raises(InputError, match=r"data: expected a whole data set; got .*; try ppl_vae.data.from_tensors"):
            change({"x": X, "y": Y})


def test_a_data_set_is_not_made_twice():
    with pytest.raises(
        InputError, match=r"source: expected the user's own numbers; got 'digits'; try using it as it is"
    ):
        data.from_tensors(data.load("digits").train)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,y\n1,2,0\n3,cat,1\n", "a.csv line 3, column b: expected a number; got 'cat'"),
        ("1,2,3\n4,5,6\n7,oops,9\n", "a.csv line 3, column 2: expected a number; got 'oops'"),
        ("1,two,3\n4,5,6\n", "a.csv line 1, column 2: expected a number; got 'two'"),
        ("a,b\n1,\n", "a.csv line 2, column b: expected a number; got ''"),
        ("a,b\n1,2\n\n1,2,3\n", "a.csv line 4: expected 2 cells; got 3"),
        ("a,b\n", "a.csv: expected at least one row; got a header only"),
        ("", "a.csv: expected at least one row; got an empty file"),
        ("a,b\n1,2\n3,nan\n", "x: expected finite values; got nan in row 1"),
    ],
)
def test_bad_csv_gets_one_line(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        data.from_tensors(tmp_path / "a.csv")


def test_bad_files_get_one_line(tmp_path):
    np.savez(tmp_path / "whole.npz", x=X.numpy())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:200])
    np.save(tmp_path / "whole.npy", X.numpy())
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:150])
    np.save(tmp_path / "objects.npy", np.array([{"code": "not data"}]))
    np.savez(tmp_path / "objects.npz", x=np.array([{"code": "not data"}]))
    np.savez(tmp_path / "names.npz", a=X.numpy(), b=Y.numpy())
    (tmp_path / "latin.csv").write_bytes(b"a,b\n1,\xff\n")
    (tmp_path / "a.txt").write_text("1 2 3")
    messages = {
        "missing.npz": r"missing.npz: expected .npz file; got no such file",
        "cut.npz": r"cut.npz: expected a readable .npz file; got ",
        "cut.npy": r"cut.npy: expected a readable .npy file; got ",
        "objects.npy": r"objects.npy: expected a readable .npy file; got .*allow_pickle",
        "objects.npz": r"objects.npz: expected a readable .npz file; got .*allow_pickle",
        "names.npz": "data: expected a tensor named 'x'; got 'a', 'b'",
        "latin.csv": r"latin.csv: expected a readable .csv file; got .*decode",
        "a.txt": "a.txt: expected a file ending in .npz, .npy, .csv; got '.txt'",
    }
    for name, message in messages.items():
        with pytest.raises(InputError, match=message) as caught:
            data.from_tensors(tmp_path / name)
        assert "\n" not in str(caught.value)
