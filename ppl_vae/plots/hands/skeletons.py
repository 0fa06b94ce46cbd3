"""Figures of skeletons: hands in two or three dimensions, predictions beside the truth, several for one input.

Three dimensions are seen along z, or turned about the vertical axis through the root: by 90 degrees, from the side. All
panels of a figure have one scale. A finger, what hangs together without the joint that most bones meet in, has one
colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from ppl_vae.core.errors import InputError, shown
from ppl_vae.plots import canvas
from ppl_vae.plots.canvas import PALETTE, Floats, Values, styled

Bones = Sequence[tuple[int, int]]
_FINGERS = [PALETTE[index] for index in (0, 1, 2, 4, 5, 6, 9, 7)]  # without the greys, which are the truth's
_TRUTH = "#c4c6ca"
_PANEL = 1.25  # inches


@styled
def skeletons(
    joints: Values,
    bones: Bones,
    *,
    images: Values | None = None,
    half_width: float | None = None,
    titles: Sequence[str] = (),
    turns: Sequence[float] = (0.0,),
    columns: int = 6,
    y_up: bool = False,
) -> Figure:
    """Show skeletons (n, J, 3) from each angle of `turns`, one below the other, or flat ones (n, J, 2).

    Parameters
    ----------
    joints : (n, J, 3) or (n, J, 2)
        Positions about the root.
    bones : sequence of pairs of int
        The joints that each bone joins.
    images : (n, size^2) or (n, size, size), optional
        Pictures to lay below those that are not turned, as `data.draw_capsules` makes them.
    half_width : float, optional
        Where a panel ends, in the unit of `joints`; by default at the outermost joint. A picture needs its own.
    titles : sequence of str, optional
        One per skeleton.
    turns : sequence of float
        Angles in degrees about the vertical axis.
    columns : int
        Skeletons in a row.
    y_up : bool
        Whether y points up.
    """
    hands, edges = _checked(joints, bones, "joints")
    canvas.expect_count("titles", titles, len(hands))
    below = None if images is None else _pictures(images, len(hands), half_width)
    angles = tuple(turns) if hands.shape[-1] == 3 else (0.0,)
    figure, panels = _panels(len(hands), len(angles), columns, _reach(half_width, hands), y_up)
    for n, hand in enumerate(hands):
        for ax, angle in zip(panels[n], angles, strict=True):
            if below is not None and angle == 0:
                _lay(ax, below[n], _reach(half_width, hands), 0.5)
            _draw(ax, hand, edges, angle)
        if len(titles):
            panels[n][0].set_title(titles[n], fontsize=8)
    _label(panels, [f"turned {angle:g}°" if angle else "" for angle in angles], columns)
    canvas.flag_not_finite(panels[0][0], "skeletons", hands)
    return figure


@styled
def skeleton_predictions(
    true: Values,
    predicted: Values,
    bones: Bones,
    *,
    titles: Sequence[str] = (),
    turns: Sequence[float] = (0.0, 90.0),
    columns: int = 6,
    y_up: bool = False,
) -> Figure:
    """Show true skeletons (n, J, 3), and below each the predicted one with the true one in grey, from each angle."""
    truth, edges = _checked(true, bones, "true joints")
    guess = canvas.same_shape(truth, predicted, "predicted joints")
    canvas.expect_count("titles", titles, len(truth))
    figure, panels = _panels(len(truth), 2 * len(turns), columns, _reach(None, truth, guess), y_up)
    for n in range(len(truth)):
        for turn, angle in enumerate(turns):
            above, below = panels[n][2 * turn : 2 * turn + 2]
            _draw(above, truth[n], edges, angle)
            _draw(below, truth[n], edges, angle, colour=_TRUTH)
            _draw(below, guess[n], edges, angle)
        if len(titles):
            panels[n][0].set_title(titles[n], fontsize=8)
    views = [f", turned {angle:g}°" if angle else "" for angle in turns]
    _label(panels, [f"{what}{view}".replace(", ", "\n") for view in views for what in ("true", "predicted")], columns)
    canvas.flag_not_finite(panels[0][0], "predicted skeletons", guess)
    return figure


@styled
def skeleton_hypotheses(
    given: Values,
    drawn: Values,
    bones: Bones,
    *,
    true: Values | None = None,
    turns: Sequence[float] = (0.0, 90.0),
    y_up: bool = False,
) -> Figure:
    """Show for each input, a flat skeleton (n, J, 2) or a picture (n, size, size), all those drawn for it (n, K, J, 3).

    A row has the input, then all K drawn over each other, from each angle, the `true` one (n, J, 3) in grey below.
    """
    draws = canvas.as_array(drawn, "drawn")
    if draws.ndim != 4 or draws.shape[-1] != 3:
        raise InputError("drawn", expected="shape (n, K, J, 3)", got=str(draws.shape))
    _, edges = _checked(draws[:, 0], bones, "drawn")
    inputs = canvas.as_array(given, "given")
    flat = inputs.ndim == 3 and inputs.shape[1:] == (draws.shape[2], 2)
    if len(inputs) != len(draws):
        raise InputError("given", expected=f"{len(draws)} of them", got=str(len(inputs)))
    truth = None if true is None else canvas.same_shape(draws[:, 0], true, "true joints")
    reach = _reach(None, draws, *([] if truth is None else [truth]))
    rows, wide = len(draws), 1 + len(turns)
    figure, columns = _panels(wide, rows, wide, reach, y_up)
    for n in range(rows):
        first = columns[0][n]
        if flat:
            _draw(first, inputs[n], edges, 0.0)
            own = _reach(None, inputs)
            first.set(xlim=(-own, own), ylim=(-own, own) if y_up else (own, -own))
        else:
            _lay(first, _pictures(inputs, rows, reach)[n], reach)
        for column, angle in zip(columns[1:], turns, strict=True):
            if truth is not None:
                _draw(column[n], truth[n], edges, angle, colour=_TRUTH)
            for hand in draws[n]:
                _draw(column[n], hand, edges, angle, width=0.8, alpha=max(0.25, 1 / math.sqrt(draws.shape[1])))
    names = ["given", *(f"{draws.shape[1]} drawn" + (f", turned {angle:g}°" if angle else "") for angle in turns)]
    for column, name in zip(columns, names, strict=True):
        column[0].set_title(name, fontsize=8)
    canvas.flag_not_finite(columns[1][0], "drawn skeletons", draws.reshape(-1, *draws.shape[2:]))
    return figure


def _checked(joints: Values, bones: Bones, name: str) -> tuple[Floats, NDArray[np.int64]]:
    """Return skeletons (n, J, 2 or 3) and their bones (E, 2)."""
    hands = canvas.as_array(joints, name)
    if hands.ndim != 3 or hands.shape[-1] not in (2, 3):
        raise InputError(name, expected="shape (n, J, 3) or (n, J, 2)", got=str(hands.shape))
    edges = np.asarray(bones, dtype=np.int64)
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.min() < 0 or edges.max() >= hands.shape[1]:
        raise InputError("bones", expected=f"pairs of joints 0..{hands.shape[1] - 1}", got=shown(bones))
    return hands, edges


def _pictures(images: Values, count: int, half_width: float | None) -> Floats:
    """Return pictures (n, size, size)."""
    pictures = canvas.as_matrix(images, "images")
    size = math.isqrt(pictures.shape[1])
    if len(pictures) != count or size**2 != pictures.shape[1]:
        raise InputError("images", expected=f"{count} square pictures", got=f"shape {pictures.shape}")
    if half_width is None:
        raise InputError("half_width", expected="that of the pictures", got="none", hint="Hands.half_width")
    return pictures.reshape(count, size, size)


def _reach(half_width: float | None, *joints: Floats) -> float:
    """Return half the edge of a panel: as given, else a little more than the outermost joint."""
    if half_width is not None:
        return half_width
    return 1.08 * max(float(np.abs(part[np.isfinite(part)]).max(initial=0.0)) for part in joints) or 1.0


def _panels(count: int, high: int, columns: int, reach: float, y_up: bool) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure and for each of `count` skeletons `high` panels below one another, `columns` skeletons a row."""
    across = min(columns, count)
    down = math.ceil(count / across)
    figure = Figure(
        (_PANEL * across + 0.7, _PANEL * down * high + 0.3), layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02)
    )
    grid = figure.subplots(down * high, across, squeeze=False)
    for ax in grid.flat:
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach) if y_up else (reach, -reach), xticks=[], yticks=[])
        ax.set_aspect("equal")
        ax.grid(False)
        ax.spines[:].set_visible(True)
        ax.spines[:].set_color("#d0d0d0")
    stacks = grid.reshape(down, high, across).transpose(0, 2, 1).reshape(-1, high)
    for ax in stacks[count:].flat:
        ax.set_axis_off()
    return figure, [list(stack) for stack in stacks[:count]]


def _label(panels: list[list[Axes]], labels: Sequence[str], columns: int) -> None:
    """Write `labels` beside the panels of the first skeleton of each row."""
    for stack in panels[::columns]:
        for ax, label in zip(stack, labels, strict=True):
            ax.set_ylabel(label, fontsize=8)


def _lay(ax: Axes, picture: Floats, reach: float, alpha: float = 1.0) -> None:
    """Lay a picture, whose first row is the top one, over the square of half width `reach`."""
    bottom, top = ax.get_ylim()
    ax.imshow(picture, cmap="gray_r", vmin=0, vmax=1, extent=(-reach, reach, bottom, top), alpha=alpha, zorder=0)


def _draw(
    ax: Axes,
    hand: Floats,
    bones: NDArray[np.int64],
    angle: float,
    *,
    colour: str | None = None,
    width: float = 1.6,
    alpha: float = 1.0,
) -> None:
    """Draw one skeleton (J, 2 or 3), turned by `angle` degrees, the bones far away first."""
    turn = math.radians(angle)
    points = hand[:, :2]
    depth = np.zeros(len(hand))
    if hand.shape[1] == 3:
        x, y, z = hand.T
        points = np.stack([math.cos(turn) * x + math.sin(turn) * z, y], axis=1)
        depth = math.cos(turn) * z - math.sin(turn) * x
    order = np.argsort(-depth[bones].mean(1), kind="stable")
    colours = np.asarray([colour] * len(bones) if colour else _finger_colours(bones))
    lines = LineCollection(
        list(points[bones[order]]), colors=colours[order], linewidths=2.2 * width if colour else width, alpha=alpha,
        capstyle="round", zorder=2 if colour else 3,
    )  # fmt: skip
    ax.add_collection(lines, autolim=False)


def _finger_colours(bones: NDArray[np.int64]) -> list[str]:
    """Return a colour for each bone: bones that hang together without the hub, where most bones meet, have the same."""
    hub = int(np.bincount(bones.ravel()).argmax())
    finger = np.arange(bones.max() + 1)  # of each joint
    for _ in bones:
        for i, j in bones:
            if hub not in (i, j):
                finger[[i, j]] = finger[[i, j]].min()
    names = [int(finger[j if i == hub else i]) for i, j in bones]
    order = list(dict.fromkeys(names))
    return [_FINGERS[order.index(name) % len(_FINGERS)] for name in names]
