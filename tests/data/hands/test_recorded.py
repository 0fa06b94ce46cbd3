"""Hands: camera, viewpoint, parts, units, and the way back to mm and pixels; on made-up hands, and on real ones."""

import os
from pathlib import Path

import numpy as np
import pytest
import synthetic_hands
import torch
from scipy.spatial.transform import Rotation

from ppl_vae import InputError, data
from ppl_vae.data import Camera, angle_between, join_viewpoint, rotation_matrix, split_viewpoint

SETS = ("nyu", "icvl")
CAMERA = Camera(588.03, -587.07, 320.0, 240.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture(params=SETS)
def made_up(request, folder):
    """The name of a set, and what its file of made-up hands holds."""
    return request.param, synthetic_hands.write(folder, request.param)


def real(name):
    path = Path(os.environ.get("PPL_VAE_DATA", "")) / "hands" / f"{name}_test.npz"
    if not path.is_file():
        pytest.skip(f"needs hands/{name}_test.npz in PPL_VAE_DATA")
    return np.load(path)


def by_hand(held):
    """Joints in mm, by the formulas that come with the data."""
    fx, fy, ux, uy = held["camera"]
    u, v, d = np.moveaxis(held["uvd"].astype(np.float64), -1, 0)
    return np.stack([(u - ux) * d / fx, (v - uy) * d / fy, d], -1)


# --- camera -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", [CAMERA, Camera(240.99, 240.96, 160.0, 120.0)])
def test_project_and_unproject_invert_each_other(camera):
    xyz = torch.randn(50, 14, 3, dtype=torch.float64) * 100 + torch.tensor([0.0, 0.0, 900.0])
    uvd = camera.project(xyz)
    assert torch.allclose(camera.unproject(uvd), xyz, rtol=1e-12, atol=1e-9)
    assert torch.allclose(camera.project(camera.unproject(uvd)), uvd, rtol=1e-12, atol=1e-9)
    homogeneous = torch.tensor([[camera.fx, 0, camera.ux], [0, camera.fy, camera.uy], [0, 0, 1]], dtype=torch.float64)
    seen = xyz @ homogeneous.T
    assert torch.allclose(seen[..., :2] / seen[..., 2:], uvd[..., :2])


def test_a_camera_with_negative_fy_sees_y_pointing_up():
    above, root = CAMERA.project(torch.tensor([[0.0, 50.0, 700.0], [0.0, 0.0, 700.0]]))
    assert above[1] < root[1]  # v grows downward
    assert CAMERA.y_up
    assert not Camera(240.99, 240.96, 160.0, 120.0).y_up


@pytest.mark.parametrize("way", ["project", "unproject"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            0.0,
            r"expected joints in front of the camera, depth above 0; got \[1\.0, 2\.0, 0\.0\] at \[1, 2\] \(1 such\)",
        ),
        (-5.0, "expected joints in front of the camera"),
        (float("nan"), r"expected finite values; got \[1\.0, 2\.0, nan\] at \[1, 2\]"),
        (float("inf"), "expected finite values"),
    ],
)
def test_joints_behind_the_camera_or_not_finite_are_refused(way, value, message):
    joints = torch.tensor([1.0, 2.0, 500.0]).repeat(3, 4, 1)
    joints[1, 2, 2] = value
    with pytest.raises(InputError, match=message):
        getattr(CAMERA, way)(joints)


@pytest.mark.parametrize(
    ("intrinsics", "message"),
    [
        ((0.0, 1.0, 0.0, 0.0), "camera's fx: expected a finite number, not 0; got 0.0"),
        ((1.0, 1.0, float("nan"), 0.0), "camera's ux: expected a finite number; got nan"),
    ],
)
def test_intrinsics_are_checked(intrinsics, message):
    with pytest.raises(InputError, match=message):
        Camera(*intrinsics)


# --- viewpoint --------------------------------------------------------------------------------------------------------

PALM = (0, 3, 1, 2)


def test_pose_and_viewpoint_invert_each_other():
    joints = torch.randn(20, 5, 6, 3, dtype=torch.float64)
    pose, rotation = split_viewpoint(joints, PALM)
    assert torch.allclose(join_viewpoint(pose, rotation), joints, atol=1e-12)
    again, same = split_viewpoint(join_viewpoint(pose, rotation), PALM)
    assert torch.allclose(again, pose, atol=1e-12)
    assert torch.allclose(same, rotation, atol=1e-12)
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(20, 5, 3, 3), atol=1e-12)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones((), dtype=torch.float64))


def test_the_palm_lies_in_its_own_frame():
    pose, _ = split_viewpoint(torch.randn(30, 6, 3, dtype=torch.float64), PALM)
    along, side = pose[:, 3] - pose[:, 0], pose[:, 2] - pose[:, 1]
    assert along[:, [0, 2]].abs().max() < 1e-12
    assert (along[:, 1] > 0).all()
    assert side[:, 2].abs().max() < 1e-12
    assert (side[:, 0] > 0).all()


def test_turning_a_hand_changes_its_viewpoint_alone():
    joints = torch.randn(30, 6, 3, dtype=torch.float64)
    pose, rotation = split_viewpoint(joints, PALM)
    vector = torch.randn(30, 3, dtype=torch.float64)
    turn = rotation_matrix(vector)
    turned, seen_from = split_viewpoint(join_viewpoint(joints, turn), PALM)
    assert torch.allclose(turned, pose, atol=1e-10)
    assert torch.allclose(seen_from, rotation @ turn, atol=1e-10)
    degrees = vector.norm(dim=-1).rad2deg()
    assert torch.allclose(angle_between(seen_from, rotation), torch.minimum(degrees, 360 - degrees), atol=1e-6)


def test_rotations_agree_with_scipy():
    vector = torch.randn(20, 3, dtype=torch.float64)
    expected = Rotation.from_rotvec(vector.numpy())
    joints = torch.randn(20, 4, 3, dtype=torch.float64)
    turned = join_viewpoint(joints, rotation_matrix(vector))
    for n in range(20):
        np.testing.assert_allclose(turned[n], expected[n].apply(joints[n]), atol=1e-12)
    angle = angle_between(rotation_matrix(vector), torch.eye(3, dtype=torch.float64).expand(20, 3, 3))
    np.testing.assert_allclose(angle, np.degrees(expected.magnitude()), rtol=1e-9)


def test_a_palm_without_a_plane_is_refused():
    joints = torch.randn(4, 6, 3)
    joints[2, 3] = joints[2, 0] + 2 * (joints[2, 2] - joints[2, 1])
    with pytest.raises(InputError, match=r"palm: expected two directions that span a plane; got none in row 2"):
        split_viewpoint(joints, PALM)
    with pytest.raises(InputError, match=r"joints: expected shape \(..., J, 3\); got \(4, 6\)"):
        split_viewpoint(joints[..., 0], PALM)


# --- the data sets ----------------------------------------------------------------------------------------------------


def check_the_way_back(found, held):
    """Every part leads back to the pixels and mm of the file, and its pictures show its joints."""
    hands, xyz = found.truth, by_hand(held)
    for split in found.splits.values():
        rows = split["frame"].numpy()
        positions = hands.positions(split["joints3d"], split["root"], split["unit"])
        np.testing.assert_allclose(positions, xyz[rows], atol=1e-3)  # mm, in float32
        pixels = hands.pixels(split["joints2d"], split["root"], split["scale"])
        np.testing.assert_allclose(pixels, held["uvd"][rows, :, :2], atol=1e-3)
        assert torch.equal(hands.draw(split["joints3d"]), split["depth"])
        assert torch.equal(split["silhouette"], (split["depth"] > 0).float())
        assert hands.whole(split["joints3d"])[:, hands.root].abs().max() == 0


def test_every_part_leads_back_to_the_file(made_up):
    name, held = made_up
    found = data.load(f"hands-{name}", image_size=16)
    joints = len(held["joint_names"])
    assert found.spec.x_shape == (joints - 1, 3)  # without the root
    assert found.train["joints2d"].shape == (found.train.size, joints - 1, 2)
    assert found.train["depth"].shape == (found.train.size, 256)
    assert found.truth.image_shape == (1, 16, 16)
    assert found.truth.joint_names[found.truth.root] == "Palm"
    check_the_way_back(found, held)


@pytest.mark.slow
def test_parts_are_whole_videos_with_a_gap_before_the_validation_part(made_up):
    name, held = made_up
    found = data.load(f"hands-{name}")
    trained = np.flatnonzero(held["sequence"] == 1) if name == "icvl" else np.arange(2440, len(held["uvd"]))
    train, validation, test = (found.splits[role]["frame"].numpy() for role in ("train", "validation", "test"))
    gap = {"nyu": 100, "icvl": 50}[name]
    assert np.array_equal(train, np.arange(trained[0], trained[0] + len(train)))
    assert np.array_equal(validation, np.arange(train[-1] + 1 + gap, trained[-1] + 1))
    assert len(validation) == round(0.15 * len(trained))
    assert np.array_equal(test, np.arange(trained[0]))


@pytest.mark.slow
def test_2d_joints_by_their_own_size_tell_neither_depth_nor_size(folder):
    """A hand three times as large and as far away makes the same 2D joints."""
    held = synthetic_hands.write(folder, "icvl")
    near = data.load("hands-icvl").test
    assert torch.allclose(near["joints2d"].square().sum(-1).mean(-1), torch.ones(near.size))
    held["uvd"][..., 2] *= 3
    np.savez(folder / "hands" / "icvl_test.npz", **held)
    far = data.load("hands-icvl").test
    assert torch.equal(far["joints2d"], near["joints2d"])
    assert torch.allclose(far["unit"], 3 * near["unit"])
    assert torch.allclose(far["joints3d"], near["joints3d"], atol=1e-5)


@pytest.mark.slow
def test_2d_joints_by_depth_are_those_of_a_flat_hand(folder):
    """Moved along their rays to the depth of the root, joints lie at the 2D ones."""
    held = synthetic_hands.write(folder, "nyu")
    split = data.load("hands-nyu", scale_2d="depth").train
    xyz = by_hand(held)[split["frame"].numpy()]
    xyz, root = xyz[:, :-1], xyz[:, -1:]
    flat = xyz[..., :2] * root[..., 2:] / xyz[..., 2:] - root[..., :2]
    np.testing.assert_allclose(split["joints2d"] * split["unit"][:, None, None], flat, atol=1e-3)


@pytest.mark.slow
def test_a_known_size_makes_hands_of_all_sizes_alike(folder):
    synthetic_hands.write(folder, "icvl", sizes=(1.3, 1.0))
    known, unknown = (data.load("hands-icvl", hand_size=size) for size in ("known", "unknown"))

    def bone(split):
        i, j = known.truth.bones[0]
        joints = known.truth.whole(split["joints3d"])
        return (joints[:, i] - joints[:, j]).norm(dim=-1).mean()

    assert bone(known.test) / bone(known.train) == pytest.approx(1, abs=0.05)  # fingers bend differently
    assert bone(unknown.test) / bone(unknown.train) == pytest.approx(1.3, abs=0.05)
    assert len(unknown.test["unit"].unique()) == 1
    assert torch.equal(unknown.test["unit"][0], unknown.train["unit"][0])
    assert torch.equal(known.train["joints3d"], unknown.train["joints3d"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale_2d": "dept"}, "unknown scale_2d: expected one of depth, own; got 'dept'; try 'depth'"),
        ({"hand_size": "knwon"}, "unknown hand_size: .* try 'known'"),
        ({"image_size": 3}, "image_size: expected a whole number >= 4; got 3"),
        ({"image": 3}, "unknown option of hands-icvl: .* try 'image_size'"),
        ({"binarization": "fixed"}, "binarization of hands-icvl: expected 'none'; got 'fixed'"),
    ],
)
def test_options_are_checked(folder, options, message):
    synthetic_hands.write(folder, "icvl")
    with pytest.raises(InputError, match=message):
        data.load("hands-icvl", **options)


def test_what_is_missing_or_damaged_is_reported_in_one_line(folder, monkeypatch):
    monkeypatch.setattr("ppl_vae.data.store.cache", lambda: folder / "nowhere")
    with pytest.raises(InputError, match=r"hands/nyu_test.npz: expected a file of this name; got none; try putting"):
        data.load("hands-nyu")
    held = synthetic_hands.write(folder, "icvl", frames=(20, 50))
    with pytest.raises(InputError, match="frames to train on and to test on: expected more than 50 and some; got 50"):
        data.load("hands-icvl")
    for change, message in (
        ({"uvd": held["uvd"][:, :-1]}, r"icvl_test.npz: expected a readable file of hand joints; got joints of shape"),
        ({"uvd": np.where(held["uvd"] == held["uvd"][0, 0, 2], np.nan, held["uvd"])}, "expected finite values; got"),
        ({"uvd": -held["uvd"]}, "expected joints in front of the camera"),
        ({"joint_names": np.char.replace(held["joint_names"], "Palm", "Heel")}, "'Palm' is not in list|not in tuple"),
    ):
        np.savez(folder / "hands" / "icvl_test.npz", **(held | change))
        with pytest.raises(InputError, match=message):
            data.load("hands-icvl")


def test_a_whole_hand_has_its_root(folder):
    synthetic_hands.write(folder, "nyu")
    hands = data.load("hands-nyu", image_size=4).truth
    joints = torch.randn(2, 5, 13, 2)
    assert torch.equal(hands.whole(joints)[..., :13, :], joints)  # NYU's root is the last
    with pytest.raises(
        InputError, match=r"joints: expected shape \(..., 13, 2 or 3\), without the root; got \(4, 14, 3\)"
    ):
        hands.draw(torch.zeros(4, 14, 3))


# --- the real ones ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_real_hands_lead_back_to_the_file(name):
    held = real(name)
    found = data.load(f"hands-{name}")
    check_the_way_back(found, {key: held[key] for key in ("uvd", "camera")})
    sizes = {role: split.size for role, split in found.splits.items()}
    expected = {"nyu": (4840, 872, 2440), "icvl": (710, 134, 702)}[name]
    assert sizes == dict(zip(("train", "validation", "test"), expected, strict=True))
    for split in found.splits.values():
        assert split["joints3d"].abs().max() < found.truth.half_width  # none is cut off


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_real_palms_have_a_plane(name):
    real(name)
    found = data.load(f"hands-{name}")
    joints = found.truth.whole(found.train["joints3d"].double())
    pose, rotation = split_viewpoint(joints, found.truth.palm)
    assert torch.allclose(join_viewpoint(pose, rotation), joints, atol=1e-12)
    # The palm's own joints move less in its frame than in the camera's, by far.
    palm = list(set(found.truth.palm) - {found.truth.root})
    assert pose[:, palm].std(0).norm() < 0.5 * joints[:, palm].std(0).norm()
