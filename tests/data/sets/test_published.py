"""Published files: parsers on small fabricated ones, downloads from a server on this machine, and the real data."""

import gzip
import hashlib
import io
import os
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

import ppl_vae.data as data
from ppl_vae.core.errors import InputError
from ppl_vae.data import store
from ppl_vae.data.sets import images, omniglot

RANDOM = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return an empty folder that PPL_VAE_DATA names, with an empty cache beside it."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("PPL_VAE_DATA", str(root))
    monkeypatch.setattr(store, "cache", lambda: tmp_path / "cache")
    return root


# --- parsers


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


def test_idx(tmp_path):
    array = RANDOM.integers(0, 256, (3, 4, 5), dtype=np.uint8)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(images.read_idx(path, (3, 4, 5)), array)
    with pytest.raises(InputError, match=r"a.gz: expected a readable gzipped IDX file of bytes; got .*\(3, 4, 6\)"):
        images.read_idx(path, (3, 4, 6))
    path.write_bytes(gzip.compress(idx(array)[:-1]))
    with pytest.raises(InputError, match=r"a.gz: expected a readable gzipped IDX file .*; try removing the file"):
        images.read_idx(path, (3, 4, 5))
    path.write_bytes(gzip.compress(idx(array))[:-12])
    with pytest.raises(InputError, match=r"a.gz: expected a readable gzipped IDX file .*ended before"):
        images.read_idx(path, (3, 4, 5))
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match=r"a.gz: expected a readable gzipped IDX file .*Not a gzipped file"):
        images.read_idx(path, (3, 4, 5))


def test_amat(tmp_path):
    bits = RANDOM.integers(0, 2, (3, 784))
    path = tmp_path / "a.amat"
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in bits))
    np.testing.assert_array_equal(images.read_amat(path, 3).numpy(), bits)
    with pytest.raises(
        InputError, match=r"a.amat: expected a readable text file of 0 and 1, 784 a line; got .*reshape"
    ):
        images.read_amat(path, 4)
    path.write_bytes(b"MATLAB 5.0 MAT-file" + path.read_bytes())
    with pytest.raises(
        InputError, match=r"a.amat: expected a readable text file .*; got characters other than 0 and 1"
    ):
        images.read_amat(path, 3)


def test_frey_mat_and_npz_agree(folder):
    frames = RANDOM.integers(0, 256, (1965, 28, 20), dtype=np.uint8)
    (folder / "freyfaces").mkdir()
    savemat(folder / "freyfaces" / "frey_rawface.mat", {"ff": frames.reshape(1965, 560).T})
    from_mat = data.load("frey")
    np.savez(folder / "freyfaces" / "freyfaces.npz", images=frames)
    from_npz = data.load("frey")
    assert [split.size for split in from_mat.splits.values()] == [1565, 200, 200]
    for role, split in from_mat.splits.items():
        assert split.digest == from_npz.splits[role].digest
    rows = torch.cat([split["x"] for split in from_mat.splits.values()]).mul(255).round().byte().numpy()
    assert sorted(row.tobytes() for row in rows) == sorted(frame.tobytes() for frame in frames)
    np.savez(folder / "freyfaces" / "freyfaces.npz", images=frames[:5])
    with pytest.raises(
        InputError, match=r"freyfaces.npz: expected a readable file of 1965 Frey faces; got uint8 .*\(5, 28"
    ):
        data.load("frey")


def png(ink):
    buffer = io.BytesIO()
    Image.fromarray(~ink).save(buffer, format="PNG")  # ink is black on white, one bit a pixel
    return buffer.getvalue()


def test_omniglot_drawings(folder):
    ink = RANDOM.random((10, 20, 105, 105)) < 0.1
    (folder / "omniglot").mkdir()
    for name, characters in (("images_background", range(3, 10)), ("images_evaluation", range(3))):
        with zipfile.ZipFile(folder / "omniglot" / f"{name}.zip", "w") as archive:
            archive.writestr(f"{name}/", "")
            for character in characters:
                for drawer in range(20):
                    at = f"{name}/Alphabet{character // 5}/character{character:02}/{character:04}_{drawer + 1:02}.png"
                    archive.writestr(at, png(ink[character, drawer]))
    paths = [folder / "omniglot" / f"images_{part}.zip" for part in ("background", "evaluation")]
    small, alphabet, part = omniglot.read_drawings(paths)
    # the same mean by cutting each pixel into 4 x 4: a cell is then exactly 15 x 15
    fine = ink.reshape(200, 105, 105).repeat(4, 1).repeat(4, 2).reshape(200, 28, 15, 28, 15).mean((2, 4))
    np.testing.assert_allclose(small / 255, fine, atol=0.5001 / 255)
    np.testing.assert_array_equal(alphabet, np.repeat([0, 1], 100))
    assert np.bincount(part).tolist() == [150, 5, 45]
    assert all((part[20 * character :][:20] > 0).sum() == 5 for character in range(10))
    with pytest.raises(InputError, match=r"omniglot: expected 24345 train and 8070 test drawings; got 150 and 5; try"):
        data.load("omniglot")
    paths[0].write_bytes(paths[0].read_bytes()[:1000])
    with pytest.raises(
        InputError, match=r"images_background.zip: expected a readable zip file of OMNIGLOT drawings; got"
    ):
        data.load("omniglot")


def test_omniglot_chardata(folder):
    pictures = RANDOM.random((8, 28, 28)).astype(np.float32)
    columns = pictures.transpose(0, 2, 1).reshape(8, 784).T  # MATLAB lays a picture out column by column
    labels = np.eye(50)[:, [4, 0, 49, 3, 3, 1, 2, 7]]
    (folder / "omniglot").mkdir()
    path = folder / "omniglot" / "chardata.mat"
    savemat(
        path, {"data": columns[:, :5], "target": labels[:, :5], "testdata": columns[:, 5:], "testtarget": labels[:, 5:]}
    )
    x, alphabet, part = omniglot.read_chardata(path)
    np.testing.assert_array_equal(x, pictures.reshape(8, 784))
    assert alphabet.tolist() == [4, 0, 49, 3, 3, 1, 2, 7]
    assert part.tolist() == [0] * 5 + [1] * 3
    savemat(path, {"data": columns})
    with pytest.raises(InputError, match=r"chardata.mat: expected a readable chardata.mat; got 'testdata'"):
        data.load("omniglot")


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("binarized-mnist", "binarized_mnist/binarized_mnist.npz"),
        ("omniglot", "omniglot/omniglot28.npz"),
        ("frey", "freyfaces/freyfaces.npz"),
    ],
)
def test_damaged_packed_files_get_one_line(folder, name, at):
    path = folder / at
    path.parent.mkdir()
    np.savez(path, something=np.zeros(3))
    with pytest.raises(
        InputError, match=rf"{path.name}: expected a readable .*; got no array '.*; try removing the file"
    ):
        data.load(name)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=rf"{path.name}: expected a readable .*; got .*; try removing the file"):
        data.load(name)


# --- where files come from


CONTENT = gzip.compress(b"the published file")
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture
def server(monkeypatch):
    """Yield the address of a server on this machine that has one file, and a list of what it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            found = self.path == "/file.gz"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(CONTENT) if found else 0))
            self.end_headers()
            self.wfile.write(CONTENT if found else b"")

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()
    running.server_close()


def test_a_download_lands_in_the_cache_once(folder, server):
    address, asked = server
    remote = store.Remote(f"{address}/file.gz", MD5)
    for _ in range(2):
        (path,) = store.fetch("some", [remote])
        assert path == store.cache() / "some" / "file.gz"
        assert path.read_bytes() == CONTENT
    assert asked == ["/file.gz"]
    mine = folder / "some" / "file.gz"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    assert store.fetch("some", [remote]) == [mine]  # PPL_VAE_DATA goes first


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing(folder, server):
    remote = store.Remote(f"{server[0]}/file.gz", "md5:" + "0" * 32)
    message = (
        "some/file.gz: expected the published file; got one with another checksum, refused; try putting file.gz from"
    )
    with pytest.raises(InputError, match=message) as caught:
        store.fetch("some", [remote])
    assert "\n" not in str(caught.value)
    assert [path for path in store.cache().rglob("*") if path.is_file()] == []


def test_no_download_gives_the_line_that_says_which_file_to_put_where(folder, server):
    address, _ = server
    where = f"{store.cache()}/some .or into some/ in the folder that PPL_VAE_DATA names."
    with pytest.raises(
        InputError, match=rf"got no answer \(HTTPError\); try putting gone.gz from {address}/gone.gz into {where}"
    ):
        store.fetch("some", [store.Remote(f"{address}/gone.gz", MD5)])
    with pytest.raises(
        InputError, match=r"some/gone.gz: expected a download; got no answer \(ConnectionError\); try putting"
    ):
        store.fetch("some", [store.Remote("http://127.0.0.1:9/gone.gz", MD5)])
    assert [path for path in store.cache().rglob("*") if path.is_file()] == []


def test_a_file_without_a_published_checksum_is_named_and_not_downloaded(folder):
    message = (
        "freyfaces/frey_rawface.mat: expected a file of this name; got none; try putting frey_rawface.mat from https"
    )
    with pytest.raises(InputError, match=message):
        data.load("frey")


def test_a_cache_that_cannot_be_written_gets_one_line(folder, server):
    store.cache().write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"file.gz: expected to write the download; got .*; try putting"):
        store.fetch("some", [store.Remote(f"{server[0]}/file.gz", MD5)])


def test_ppl_vae_data_must_be_a_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"PPL_VAE_DATA: expected a folder of data sets; got '.*nowhere'"):
        data.load("mnist")


def test_the_progress_bar_counts_bytes():
    with store._Progress("file") as progress:
        progress.total = 10
        progress.update(4)
        (task,) = progress._bar.tasks
        assert (task.completed, task.total) == (4, 10)
        progress.reset()
        progress.update(10)
        progress.close()
        assert task.finished


# --- the real data


def real(at):
    root = os.environ.get("PPL_VAE_DATA")
    if not root or not (Path(root) / at).exists():
        pytest.skip(f"needs {at} in PPL_VAE_DATA")
    return Path(root) / at


@pytest.fixture(scope="module")
def mnist():
    real("mnist")
    return data.load("mnist", binarization="none")


@pytest.mark.slow
def test_mnist(mnist):
    assert [split.size for split in mnist.splits.values()] == [50_000, 10_000, 10_000]
    x = torch.cat([mnist.train["x"], mnist.validation["x"]])
    assert abs(x.mean(dtype=torch.float64) - 0.1307) < 5e-5  # published to four digits, as is the deviation
    assert abs(x.double().std() - 0.3081) < 5e-5
    y = torch.cat([mnist.train["y"], mnist.validation["y"]])
    assert torch.bincount(y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.test["y"][:5].tolist() == [7, 2, 1, 0, 4]
    assert mnist.spec.levels == 256


def test_mnist_files_have_the_checksums_that_downloads_are_held_to():
    folder = real("mnist")
    for remote in images.MNIST:
        assert f"md5:{hashlib.md5((folder / remote.name).read_bytes()).hexdigest()}" == remote.checksum


@pytest.mark.slow
def test_dynamic_mnist_shows_a_draw_of_the_grey_values(mnist):
    dynamic = data.load("mnist")
    assert dynamic.spec.binarization == "dynamic"
    p = mnist.test["x"].double()
    standard_error = (p * (1 - p)).sum().sqrt()
    draw = dynamic.test.batch(generator=torch.Generator().manual_seed(0))["x"]
    for x in (dynamic.test["x"], draw):
        assert torch.isin(x, torch.tensor([0.0, 1.0])).all()
        assert abs(x.sum(dtype=torch.float64) - p.sum()) < 4 * standard_error
    assert data.load("mnist", binarization="fixed").test.digest != dynamic.test.digest


@pytest.mark.slow
def test_binarized_mnist(tmp_path):
    path = real("binarized_mnist/binarized_mnist.npz")
    loaded = data.load("binarized-mnist")
    assert [split.size for split in loaded.splits.values()] == [50_000, 10_000, 10_000]
    with np.load(path) as archive:
        published = archive["test"]
        assert loaded.train["x"].sum(dtype=torch.float64) == np.unpackbits(archive["train"]).sum(dtype=np.int64)
        assert torch.equal(loaded.train["y"], torch.from_numpy(archive["train_labels"]).long())
    # the published test part starts with 980 zeros; ours starts with a fair sample, the same for every seed
    assert loaded.test["y"][:980].unique().numel() == 10
    assert torch.equal(data.load("binarized-mnist", seed=1).test["x"], loaded.test["x"])
    ours = np.packbits(loaded.test["x"].numpy().astype(np.uint8), axis=1)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, published))
    # the text file, written from the packed bits, has the published checksum, and our parser reads it back
    bits = np.unpackbits(published, axis=1)
    text = np.full((10_000, 2 * 784), ord(" "), np.uint8)
    text[:, ::2] = bits + ord("0")
    text[:, -1] = ord("\n")
    (tmp_path / "test.amat").write_bytes(text.tobytes())
    assert f"md5:{hashlib.md5(text.tobytes()).hexdigest()}" == images.BINARIZED_MNIST[2].checksum
    np.testing.assert_array_equal(images.read_amat(tmp_path / "test.amat", 10_000).numpy(), bits)


@pytest.mark.slow
def test_omniglot():
    path = real("omniglot/omniglot28.npz")
    grey = data.load("omniglot", binarization="none")
    assert [split.size for split in grey.splits.values()] == [23_000, 1_345, 8_070]
    with np.load(path) as archive:
        split, characters, pictures = archive["split"], archive["character"], archive["images"]
    assert abs(grey.test["x"].mean(dtype=torch.float64) - pictures[split == 1].mean() / 255) < 1e-6
    total = sum(part["x"].sum(dtype=torch.float64) for part in grey.splits.values())
    assert abs(total - pictures[split < 2].sum(dtype=np.int64) / 255) < 1
    # our rule for the original drawings gives the very split that the packed file holds
    np.testing.assert_array_equal(omniglot.divide([f"{character:04}" for character in characters]), split)
    assert grey.spec.num_classes == 50
    assert grey.test["y"][:200].unique().numel() > 40  # sorted by character in the file, a fair sample here
    other = data.load("omniglot", binarization="none", seed=1)
    assert other.test.digest == grey.test.digest
    assert other.validation.digest != grey.validation.digest


def test_frey():
    path = real("freyfaces/freyfaces.npz")
    loaded = data.load("frey")
    assert [split.size for split in loaded.splits.values()] == [1565, 200, 200]
    assert (loaded.spec.support, loaded.spec.levels, loaded.spec.image_shape) == ("unit", 256, (1, 28, 20))
    with np.load(path) as archive:
        frames = archive["images"].reshape(1965, 560)
    rows = torch.cat([split["x"] for split in loaded.splits.values()]).mul(255).round().byte().numpy()
    assert sorted(map(bytes, rows)) == sorted(map(bytes, frames))
