"""Pictures of skeletons, held against many balls along each bone."""

import pytest
import torch

from ppl_vae import InputError
from ppl_vae.data import draw_capsules

BONES = [(0, 1), (1, 2), (0, 3)]


def balls(joints, bones, size, half_width, radius, count=4000):
    """The picture of one skeleton: the nearest front of `count` balls along each bone."""
    t = torch.linspace(0, 1, count, dtype=torch.float64)[:, None]
    centres = torch.cat([joints[i] + t * (joints[j] - joints[i]) for i, j in bones])
    pixels = ((torch.arange(size, dtype=torch.float64) + 0.5) * (2 / size) - 1) * half_width
    y, x = torch.meshgrid(pixels, pixels, indexing="ij")
    room = radius**2 - (x[..., None] - centres[:, 0]) ** 2 - (y[..., None] - centres[:, 1]) ** 2
    front = torch.where(room > 0, centres[:, 2] - room.clamp_min(0).sqrt(), torch.inf).amin(-1)
    return torch.where(front < torch.inf, (half_width - front) / (2 * half_width), 0.0)


@pytest.mark.slow
def test_a_picture_is_that_of_many_balls():
    joints = torch.randn(6, 4, 3, dtype=torch.float64) * 40
    joints[5, 1, :2] = joints[5, 0, :2]  # a bone along the ray
    pictures = draw_capsules(joints, BONES, size=16, half_width=200.0, radius=15.0).view(6, 16, 16)
    for hand, picture in zip(joints, pictures, strict=True):
        expected = balls(hand, BONES, 16, 200.0, 15.0)
        # 4000 balls miss a capsule's outermost edge, where depth changes steeply; inside they agree to 0.01 mm
        edge = (picture > 0) != (expected > 0)
        assert edge.double().mean() < 0.01
        assert (picture - expected)[~edge].abs().max() < 1e-3
        assert (picture - expected)[~edge].abs().median() < 1e-6


def test_depth_is_read_off_a_flat_bone():
    joints = torch.tensor([[[-50.0, 0.0, 20.0], [50.0, 0.0, 20.0]]], dtype=torch.float64)
    picture = draw_capsules(joints, [(0, 1)], size=31, half_width=100.0, radius=10.0).view(31, 31)
    assert picture[15, 15] == pytest.approx((100 - (20 - 10)) / 200)
    assert picture[15, 10] == pytest.approx(float(picture[15, 15]))
    assert picture[0].max() == 0


@pytest.mark.parametrize(("y_up", "row"), [(False, 24), (True, 6)])
def test_y_points_down_or_up(y_up, row):
    joints = torch.tensor([[[0.0, 58.0, 0.0], [1.0, 58.0, 0.0]]])
    picture = draw_capsules(joints, [(0, 1)], size=31, half_width=100.0, radius=5.0, y_up=y_up).view(31, 31)
    assert int(picture.amax(1).argmax()) == row


def test_x_points_right():
    joints = torch.tensor([[[60.0, 0.0, 0.0], [70.0, 0.0, 0.0]]])
    picture = draw_capsules(joints, [(0, 1)], size=20, half_width=100.0, radius=9.0).view(20, 20)
    assert picture[:, :10].max() == 0
    assert picture[:, 10:].max() > 0


def test_many_rows_are_drawn_as_each_alone():
    joints = torch.randn(300, 4, 3) * 40
    together = draw_capsules(joints, BONES)
    assert together.shape == (300, 1024)
    assert together.min() == 0
    assert together.max() <= 1
    assert torch.equal(together[[0, 256, 299]], draw_capsules(joints[[0, 256, 299]], BONES))


@pytest.mark.parametrize(
    ("joints", "options", "message"),
    [
        (torch.zeros(2, 3), {}, r"joints: expected shape \(N, J, 3\); got \(2, 3\)"),
        (torch.full((1, 4, 3), torch.nan), {}, "joints: expected finite values; got NaN or an infinity"),
        (torch.zeros(1, 3, 3), {}, r"bones: expected pairs of joints 0..2"),
        (torch.zeros(1, 4, 3), {"size": 0}, "size: expected an integer >= 1; got 0"),
        (torch.zeros(1, 4, 3), {"radius": 0.0}, "radius: expected a finite number > 0; got 0.0"),
    ],
)
def test_bad_input_is_refused(joints, options, message):
    with pytest.raises(InputError, match=message):
        draw_capsules(joints, BONES, **options)
