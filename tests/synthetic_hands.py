"""Files of made-up hands in the form of the real ones: a hand whose fingers bend and which turns, frame after frame."""

import numpy as np
from scipy.spatial.transform import Rotation

FINGERS = ("Thumb", "Index", "Mid", "Ring", "Pinky")
NYU = (
    "Pinky.T", "Pinky.R", "Ring.T", "Ring.R", "Mid.T", "Mid.R", "Index.T", "Index.R", "Thumb.T", "Thumb.R2",
    "Thumb.R1", "Wrist2", "Wrist1", "Palm",
)  # fmt: skip
ICVL = ("Palm", *(f"{finger}.{part}" for finger in FINGERS for part in "RMT"))
CAMERAS = {"nyu": (588.03, -587.07, 320.0, 240.0), "icvl": (240.99, 240.96, 160.0, 120.0)}


def bones_of(names):
    """Each joint's neighbour towards the palm, as pairs."""
    palm = names.index("Palm")
    pairs = []
    for index, name in enumerate(names):
        finger, _, part = name.partition(".")
        inner = {"T": ("M", "R2", "R"), "M": ("R",), "R2": ("R1",)}.get(part, ())
        near = [names.index(f"{finger}.{p}") for p in inner if f"{finger}.{p}" in names]
        if index != palm:
            pairs.append((index, near[0] if near else palm))
    return pairs


def positions(names, frames, random, size=1.0):
    """Joints (frames, J, 3) in mm in the camera's frame, of a hand of relative `size`."""
    time = np.arange(frames)[:, None] / 12
    waves = np.sin(time * random.uniform(0.5, 2, 8) + random.uniform(0, 6, 8))
    joints = np.zeros((frames, len(names), 3))
    for index, name in enumerate(names):
        finger, _, part = name.partition(".")
        if name.startswith("Wrist"):
            joints[:, index] = (15 if name == "Wrist1" else -15, -65, 0)
        elif name != "Palm":
            number = FINGERS.index(finger)
            reach = {"R": 50, "R1": 40, "M": 75, "R2": 70, "T": 95}[part]
            bend = (reach / 95) * (0.6 + 0.5 * waves[:, number])
            spread = 0.9 - 0.4 * number
            flat = reach * np.cos(bend)
            joints[:, index] = np.stack([flat * np.sin(spread), flat * np.cos(spread), -reach * np.sin(bend)], 1)
    turns = Rotation.from_rotvec(0.7 * waves[:, 5:8]).as_matrix()
    root = np.stack([40 * waves[:, 0], 30 * waves[:, 1], 600 + 80 * waves[:, 2]], 1)
    return size * np.einsum("nij,nkj->nki", turns, joints) + root[:, None]


def write(folder, name, frames=(150, 300), seed=0, sizes=(1.2, 1.0)):
    """Write hands/{name}_test.npz below `folder`: so many frames to test on and to train on. Return what it holds."""
    random = np.random.default_rng(seed)
    names = list(NYU if name == "nyu" else ICVL)
    counts = (2440, frames[1]) if name == "nyu" else frames
    xyz = np.concatenate([positions(names, n, random, size) for n, size in zip(counts, sizes, strict=True)])
    fx, fy, ux, uy = CAMERAS[name]
    x, y, z = np.moveaxis(xyz, -1, 0)
    held = {
        "uvd": np.stack([fx * x / z + ux, fy * y / z + uy, z], -1).astype(np.float32),
        "camera": np.array(CAMERAS[name]),
        "joint_names": np.array(names),
        "edges": np.array(bones_of(names), dtype=np.uint8),
    }
    if name == "icvl":
        held["sequence"] = np.repeat([0, 1], counts).astype(np.uint8)
    (folder / "hands").mkdir(exist_ok=True)
    np.savez(folder / "hands" / f"{name}_test.npz", **held)
    return held
