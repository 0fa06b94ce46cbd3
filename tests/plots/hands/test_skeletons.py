"""Figures of skeletons: every bone is drawn where its joints are, with the truth below in grey."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from numpy.testing import assert_allclose

from ppl_vae import plots
from ppl_vae.core.errors import InputError

BONES = [(0, 1), (1, 2), (0, 3), (0, 4)]
TRUTH = "#c4c6ca"


@pytest.fixture
def hands():
    return np.random.default_rng(0).normal(size=(5, 5, 3))


def drawn(ax):
    """Segments (E, 2, 2) and colours of each skeleton in a panel."""
    found = []
    for lines in ax.collections:
        colours = [to_hex(colour) for colour in lines.get_colors()]
        found.append((np.array(lines.get_segments()), colours))
    return found


def same_bones(segments, points):
    """Whether the segments are the bones between `points` (J, 2), in any order."""
    expected = points[np.array(BONES)]
    return sorted(map(str, np.round(segments, 9).tolist())) == sorted(map(str, np.round(expected, 9).tolist()))


def panels(figure, columns):
    """Axes in use, (rows, columns)."""
    return np.array(figure.axes).reshape(-1, columns)


def test_skeletons_stand_where_their_joints_are(hands):
    figure = plots.skeletons(hands, BONES, turns=(0, 90), columns=3, titles=list("abcde"), y_up=True)
    grid = panels(figure, 3)
    assert grid.shape == (4, 3)
    for n, hand in enumerate(hands):
        row, column = divmod(n, 3)
        front, side = grid[2 * row, column], grid[2 * row + 1, column]
        assert same_bones(drawn(front)[0][0], hand[:, :2])
        assert same_bones(drawn(side)[0][0], np.stack([hand[:, 2], hand[:, 1]], 1))
        assert front.get_title() == "abcde"[n]
        assert front.get_xlim() == side.get_xlim() == grid[0, 0].get_xlim()
    assert grid[1, 0].get_ylabel() == "turned 90°"
    assert not grid[2, 2].axison  # the sixth place is empty
    bottom, top = grid[0, 0].get_ylim()
    assert bottom < top
    down = plots.skeletons(hands, BONES).axes[0].get_ylim()
    assert down[0] > down[1]


def test_flat_skeletons_have_one_view(hands):
    figure = plots.skeletons(hands[..., :2], BONES, turns=(0, 90))
    assert len(figure.axes) == 5
    assert same_bones(drawn(figure.axes[4])[0][0], hands[4, :, :2])


def test_the_nearest_bone_is_drawn_last(hands):
    segments, _ = drawn(plots.skeletons(hands[:1], BONES).axes[0])[0]
    depth = hands[0, :, 2][np.array(BONES)].mean(1)
    nearest = hands[0, :, :2][np.array(BONES[int(depth.argmin())])]
    assert_allclose(segments[-1], nearest)


def test_a_finger_has_one_colour(hands):
    flat = hands[:1, :, :2]  # bones in the given order
    _, colours = drawn(plots.skeletons(flat, BONES).axes[0])[0]
    assert colours[0] == colours[1]
    assert len(set(colours)) == 3
    assert TRUTH not in colours


def test_pictures_lie_below_their_skeletons(hands):
    pictures = np.random.default_rng(1).uniform(size=(5, 16))
    figure = plots.skeletons(hands, BONES, images=pictures, half_width=4.0, turns=(0, 90), columns=5)
    for n, (front, side) in enumerate(zip(*panels(figure, 5), strict=True)):
        (image,) = front.images
        assert_allclose(image.get_array(), pictures[n].reshape(4, 4))
        assert image.get_extent() == [-4, 4, 4, -4]  # its first row on top, where y points down
        assert not side.images


def test_predictions_lie_over_the_truth(hands):
    guess = hands + 0.1
    figure = plots.skeleton_predictions(hands, guess, BONES, columns=5)
    grid = panels(figure, 5)
    assert grid.shape == (4, 5)
    assert [ax.get_ylabel() for ax in grid[:, 0]] == ["true", "predicted", "true\nturned 90°", "predicted\nturned 90°"]
    for n in range(5):
        (alone,) = drawn(grid[0, n])
        below, above = drawn(grid[1, n])
        assert same_bones(alone[0], hands[n, :, :2])
        assert same_bones(below[0], hands[n, :, :2])
        assert same_bones(above[0], guess[n, :, :2])
        assert set(below[1]) == {TRUTH}


@pytest.mark.parametrize("flat", [True, False])
def test_hypotheses_are_all_drawn_beside_their_input(hands, flat):
    draws = hands[:, None] + np.random.default_rng(1).normal(size=(5, 7, 5, 3))
    given = hands[..., :2] * 0.3 if flat else np.random.default_rng(2).uniform(size=(5, 8, 8))
    figure = plots.skeleton_hypotheses(given, draws, BONES, true=hands)
    grid = panels(figure, 3)
    assert [ax.get_title() for ax in grid[0]] == ["given", "7 drawn", "7 drawn, turned 90°"]
    for n in range(5):
        if flat:
            assert same_bones(drawn(grid[n, 0])[0][0], given[n])
        else:
            assert_allclose(grid[n, 0].images[0].get_array(), given[n])
        truth, *others = drawn(grid[n, 1])
        assert set(truth[1]) == {TRUTH}
        assert len(others) == 7
        for segments, hand in zip(others, draws[n], strict=True):
            assert same_bones(segments[0], hand[:, :2])


def test_what_is_not_finite_is_counted(hands):
    hands[2, 1, 0] = np.nan
    figure = plots.skeletons(hands, BONES)
    assert "1 of 5 skeletons not finite" in " ".join(t.get_text() for t in figure.findobj(mpl.text.Text))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: plots.skeletons(h[0], BONES), r"joints: expected shape \(n, J, 3\) or \(n, J, 2\); got \(5, 3\)"),
        (lambda h: plots.skeletons(h, [(0, 5)]), "bones: expected pairs of joints 0..4"),
        (lambda h: plots.skeletons(h, BONES, titles=["a"]), "titles: expected 5 of them; got 1"),
        (lambda h: plots.skeletons(h, BONES, images=np.ones((5, 15)), half_width=1), "images: expected 5 square"),
        (lambda h: plots.skeletons(h, BONES, images=np.ones((5, 16))), "half_width: expected that of the pictures"),
        (lambda h: plots.skeleton_predictions(h, h[:2], BONES), r"predicted joints: expected shape \(5, 5, 3\)"),
        (lambda h: plots.skeleton_hypotheses(h, h, BONES), r"drawn: expected shape \(n, K, J, 3\); got \(5, 5, 3\)"),
        (lambda h: plots.skeleton_hypotheses(h[:2], h[:, None], BONES), "given: expected 5 of them; got 2"),
    ],
)
def test_bad_input_is_refused(hands, call, message):
    with pytest.raises(InputError, match=message):
        call(hands)


@pytest.mark.slow
def test_the_callers_style_is_left_alone(hands):
    before = dict(mpl.rcParams)
    plots.skeletons(hands, BONES).canvas.draw()
    assert dict(mpl.rcParams) == before
