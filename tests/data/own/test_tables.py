"""DataFrames, sparse matrices, AnnData: their numbers and the names of their columns, or a line that names the call."""

import types

import numpy as np
import pytest
import scipy.sparse
import torch

import ppl_vae.data as data
from ppl_vae.core.errors import InputError

X = np.random.default_rng(0).normal(size=(20, 3))
Y = np.arange(20) % 4
COUNTS = np.random.default_rng(1).poisson(0.7, size=(20, 5))
COUNTS[0, 0] = 9


class StandIn:
    """What `ppl_vae` looks at in a polars DataFrame: its module, `columns`, and columns by place."""

    def __init__(self, **columns):
        self.columns = list(columns)
        self._values = columns

    def to_numpy(self):
        raise AssertionError("a table of mixed columns would become objects")

    def __getitem__(self, place):
        rows, column = place
        array = list(self._values.values())[column]
        return types.SimpleNamespace(to_numpy=lambda: array[rows], dtype=array.dtype)


StandIn.__module__ = "polars.dataframe.frame"


def stand_in(columns):
    return StandIn(**columns)


def pandas_frame(columns):
    return pytest.importorskip("pandas").DataFrame(columns)


def polars_frame(columns):
    return pytest.importorskip("polars").DataFrame(columns)


FRAMES = pytest.mark.parametrize("frame", [stand_in, pandas_frame, polars_frame])
COLUMNS = {"u": X[:, 0], "y": Y, "v": X[:, 1], "w": X[:, 2].astype(np.float32)}


def rows(loaded, name="x"):
    return torch.cat([split[name] for split in loaded.splits.values()])


@FRAMES
def test_a_frame_is_x_and_y_with_the_names_of_its_columns(frame):
    loaded = data.from_tensors(frame(COLUMNS), shuffle=False)
    np.testing.assert_allclose(rows(loaded), X, rtol=1e-6)
    assert torch.equal(rows(loaded, "y"), torch.from_numpy(Y))
    assert loaded.spec.columns == ("u", "v", "w")
    assert loaded.spec.num_classes == 4
    assert data.Spec.from_json(loaded.spec.to_json()).columns == ("u", "v", "w")
    within = {name: value for name, value in COLUMNS.items() if name != "y"}
    mapping = data.from_tensors({"x": frame(within), "y": Y}, shuffle=False)
    assert mapping.train.digest == loaded.train.digest
    assert mapping.spec.columns == ("u", "v", "w")
    split = data.as_split({"x": frame(within)})
    assert split.spec.columns == ("u", "v", "w")
    np.testing.assert_allclose(split["x"], X, rtol=1e-6)


@FRAMES
def test_a_column_that_is_no_number_is_named(frame):
    words = COLUMNS | {"v": np.array(["a", "b"] * 10, dtype=object)}
    with pytest.raises(
        InputError, match=r"column 'v': expected numbers; got values of type .*; try .*df.astype\(float\)"
    ):
        data.from_tensors(frame(words))
    gaps = COLUMNS | {"v": np.where(np.arange(20) == 7, np.nan, X[:, 1])}
    with pytest.raises(InputError, match=r"column 'v': expected finite values; got nan in row 7 \(of 20, counted"):
        data.from_tensors(frame(gaps))
    with pytest.raises(InputError, match="x: expected columns beside y; got none"):
        data.from_tensors(frame({"y": Y}))


def test_pandas_with_gaps_columns_of_one_name_and_an_index_of_its_own():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, index=np.arange(20)[::-1] * 3, columns=["a", "a", 7])
    loaded = data.from_tensors(frame, shuffle=False)
    np.testing.assert_allclose(rows(loaded), X, rtol=1e-6)
    assert loaded.spec.columns == ("a", "a", "7")
    whole = pandas.DataFrame({"n": pandas.array([1, 2, 3] * 6, dtype="Int64")})
    assert data.from_tensors(whole).spec.support == "count"
    whole.iloc[3, 0] = pandas.NA
    with pytest.raises(InputError, match=r"column 'n': expected (numbers|finite values); got "):
        data.from_tensors(whole)


def test_names_in_the_first_line_of_a_file(tmp_path):
    (tmp_path / "named.csv").write_text(
        "a,y,b\n" + "\n".join(f"{a},{y},{b}" for (a, b, _), y in zip(X, Y, strict=True))
    )
    np.savetxt(tmp_path / "bare.csv", X, delimiter=",")
    assert data.from_tensors(tmp_path / "named.csv").spec.columns == ("a", "b")
    assert data.from_tensors(tmp_path / "bare.csv").spec.columns is None


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_matrix"])
def test_sparse_matrices(kind, tmp_path):
    sparse = getattr(scipy.sparse, kind)(COUNTS)
    for source in (sparse, {"x": sparse}):
        loaded = data.from_tensors(source, shuffle=False)
        np.testing.assert_array_equal(rows(loaded), COUNTS)
        assert loaded.spec.support == "count"
    np.testing.assert_array_equal(data.as_split({"x": sparse})["x"], COUNTS)
    scipy.sparse.save_npz(tmp_path / "s.npz", sparse)
    np.testing.assert_array_equal(rows(data.from_tensors(tmp_path / "s.npz", shuffle=False)), COUNTS)


def test_sparse_tensors_of_torch():
    sparse = torch.from_numpy(COUNTS).float().to_sparse()
    np.testing.assert_array_equal(rows(data.from_tensors(sparse, shuffle=False)), COUNTS)


def test_a_sparse_matrix_that_does_not_fit_is_refused():
    line = r"x: expected a matrix that memory can hold as a dense one; got 10,000,000 rows and 1,000,000 columns, .* GB"
    with pytest.raises(InputError, match=line):
        data.from_tensors(scipy.sparse.csr_matrix((10_000_000, 1_000_000), dtype=np.float32))


def test_anndata_and_files_of_other_kinds_get_the_call(tmp_path):
    class AnnData:
        X = scipy.sparse.csr_matrix(COUNTS)

    AnnData.__module__ = "anndata._core.anndata"
    line = r"expected an array of numbers; got an AnnData; try \{'x': adata.X\}, or \{'x': adata.layers\['counts'\]\}"
    for source, name in ((AnnData(), "source"), ({"x": AnnData()}, "x")):
        with pytest.raises(InputError, match=f"{name}: {line}"):
            data.from_tensors(source)
    for ending, call in {
        ".h5ad": r"adata = anndata.read_h5ad\(path\), then data.from_tensors\(\{'x': adata.X\}\)",
        ".parquet": r"data.from_tensors\(pandas.read_parquet\(path\)\)",
        ".mtx": r"data.from_tensors\(scipy.io.mmread\(path\)\)",
    }.items():
        (tmp_path / f"a{ending}").write_bytes(b"")
        with pytest.raises(
            InputError, match=rf"expected a file ending in .npz, .npy, .csv; got '{ending}'; try {call}"
        ):
            data.from_tensors(tmp_path / f"a{ending}")
