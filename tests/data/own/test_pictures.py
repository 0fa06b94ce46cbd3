"""What whole numbers and four dimensions are taken for: pictures of bytes, or counts, or the line that asks."""

import warnings

import numpy as np
import pytest
import torch

import ppl_vae.data as data
from ppl_vae.core.errors import InputError
from ppl_vae.data.own.pictures import layout

GENERATOR = torch.Generator().manual_seed(0)
BYTES = torch.randint(0, 256, (20, 6, 5, 3), generator=GENERATOR, dtype=torch.uint8)
BYTES[0, 0, 0, 0] = 255
DIVIDED = r"x: whole numbers 0 to 255 of pictures are divided by 255 \(levels=256\); support='count' keeps counts"


def rows(loaded):
    return torch.cat([split["x"] for split in loaded.splits.values()])


@pytest.mark.parametrize("kind", [torch.as_tensor, torch.Tensor.numpy, torch.Tensor.long, torch.Tensor.double])
def test_bytes_with_channels_last_are_pictures(kind):
    with pytest.warns(UserWarning, match=DIVIDED):
        loaded = data.from_tensors(kind(BYTES), shuffle=False)
    assert loaded.spec == data.Spec("own", (3, 6, 5), "unit", image_shape=(3, 6, 5), levels=256)
    expected = np.moveaxis(BYTES.numpy(), 3, 1) / 255.0
    np.testing.assert_allclose(rows(loaded), expected, atol=1e-7)


def test_what_was_said_is_done_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        levels = data.from_tensors(BYTES, levels=256, shuffle=False)
        counts = data.from_tensors(BYTES, support="count", shuffle=False)
        floats = data.from_tensors(BYTES.movedim(3, 1) / 255, levels=256, shuffle=False)
        whole = data.from_tensors(BYTES.double(), levels=256, shuffle=False)  # as read from a file of text
    torch.testing.assert_close(rows(levels), BYTES.movedim(3, 1) / 255)
    assert torch.equal(rows(counts), BYTES.movedim(3, 1).float())
    assert (counts.spec.support, counts.spec.levels) == ("count", None)
    torch.testing.assert_close(rows(floats), rows(levels))
    torch.testing.assert_close(rows(whole), rows(levels))


def test_rows_of_bytes_are_grey_pictures():
    with pytest.warns(UserWarning, match=DIVIDED):
        loaded = data.from_tensors(BYTES[..., 0], shuffle=False)
    assert loaded.spec.image_shape == (1, 6, 5)
    torch.testing.assert_close(rows(loaded), BYTES[..., 0] / 255)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 32, 32), "first"), ((32, 32, 3), "last"), ((1, 28, 28), "first"), ((28, 28, 1), "last"),
        ((4, 32, 32), "first"), ((32, 24, 4), "last"), ((1, 4, 4), "first"), ((4, 4, 1), "last"),
        ((2, 9, 9), "first"), ((3, 32, 3), None), ((3, 3, 3), None), ((9, 9, 2), None), ((8, 8, 8), None),
    ],
)  # fmt: skip
def test_layout(shape, expected):
    assert layout(shape) == expected


def test_channels_are_said_or_asked_for():
    x = torch.rand(20, 3, 8, 3, generator=torch.Generator().manual_seed(0))
    asked = r"x: expected pictures \(N, C, H, W\) or \(N, H, W, C\); got \(20, 3, 8, 3\), which may be either; try chan"
    with pytest.raises(InputError, match=asked):
        data.from_tensors(x)
    for options in ({"channels": "last"}, {"image_shape": (3, 3, 8)}):
        last = data.from_tensors(x, shuffle=False, **options)
        assert last.spec.x_shape == last.spec.image_shape == (3, 3, 8)
        assert torch.equal(rows(last), x.permute(0, 3, 1, 2))
    first = data.from_tensors(x, shuffle=False, channels="first")
    assert torch.equal(rows(first), x)
    flat = data.from_tensors(x.flatten(1), shuffle=False, channels="last", image_shape=(3, 3, 8))
    assert torch.equal(rows(flat), x.permute(0, 3, 1, 2).flatten(1))
    with pytest.raises(InputError, match="unknown channels: expected one of first, last; got 'lats'; try 'last'"):
        data.from_tensors(x, channels="lats")
    with pytest.raises(InputError, match=r"channels: expected pictures, x .* got x \(20, 72\); try leaving channels"):
        data.from_tensors(x.flatten(1), channels="last")


@pytest.mark.parametrize(
    ("x", "line"),
    [
        (BYTES.flatten(1), "got bytes 0 to 255; try levels=256, which divides by 255, or support='count'"),
        (BYTES.flatten(1).long(), "got whole numbers 0 to 255; try levels=256, which"),
        (BYTES.flatten(1) // 8, "got bytes 0 to 31; try levels=256, which"),
        (BYTES.long().movedim(3, 1) // 16, "got whole numbers 0 to 15; try levels=16, which divides by 15, or"),
        (BYTES.long() * 200, "got whole numbers 0 to 51000; try levels=51001, which"),
    ],
)
def test_whole_numbers_that_may_be_either_are_asked_about(x, line):
    with pytest.raises(
        InputError, match="x: expected a choice whether whole numbers are grey levels or counts; " + line
    ):
        data.from_tensors(x)


def test_counts():
    x = torch.poisson(torch.full((20, 4), 3.0), generator=torch.Generator().manual_seed(0))
    for source in (x, x.long(), x.double().numpy()):
        loaded = data.from_tensors(source, shuffle=False)
        assert (loaded.spec.support, loaded.spec.levels) == ("count", None)
        assert torch.equal(rows(loaded), x)
    assert data.as_split({"x": x}).spec.support == "count"
    assert data.from_tensors(x, support="real").spec.support == "real"
    assert data.from_tensors(x - 5).spec.support == "real"
    with pytest.raises(
        InputError, match=r"x: expected counts, whole numbers from 0 on; got 0.5 in row 3 .*; try support="
    ):
        data.from_tensors(torch.cat((x[:3], x[3:4] * 0 + 0.5, x[4:])), support="count")
    with pytest.raises(InputError, match=r"binarization of own: expected grey values in \[0, 1\]; got counts"):
        data.binarize(loaded, "fixed")


def test_a_split_of_bytes_is_refused():
    line = r"x: expected grey levels in \[0, 1\], or counts; got bytes 0 to 255; try x / 255 for pictures, x.float\(\)"
    with pytest.raises(InputError, match=line):
        data.as_split({"x": BYTES})
    assert data.as_split({"x": BYTES > 9}).spec.support == "binary"
    assert (
        data.as_split({"x": BYTES / 255}).spec.image_shape is None
    )  # its channels stand last, and it is kept as it is
