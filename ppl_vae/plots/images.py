"""Figures of images: several laid out as one picture, each pixel in the colour that its value says.

Pixels that are not finite are magenta, and counted above the picture in red.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ppl_vae.core.errors import InputError
from ppl_vae.plots import canvas
from ppl_vae.plots.canvas import WIDTH, Floats, Values, styled

ImageShape = tuple[int, ...]
NOT_FINITE = "#ff00ff"  # in no greyscale or diverging picture


@styled
def image_grid(
    x: Values,
    image_shape: ImageShape,
    *,
    titles: Sequence[str] = (),
    columns: int | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Show images x (n, D) row by row, with their `titles` above them where given.

    `limits` are the values drawn black and white: by default 0 and 1, or the range of x where it goes beyond.
    """
    images = as_images(x, image_shape, "x")
    canvas.expect_count("titles", titles, len(images))
    across = columns or min(len(images), max(4, math.ceil(math.sqrt(len(images)))))
    tiles, used = _fill(images, math.ceil(len(images) / across), across)
    return _mosaic(tiles, used, limits=limits, titles=titles)


@styled
def reconstructions(
    x: Values,
    x_hat: Values,
    image_shape: ImageShape,
    *,
    labels: tuple[str, str] = ("original", "rebuilt"),
    columns: int = 10,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Show originals x (n, D), each above its reconstruction x_hat (n, D), in bands of `columns` images."""
    original = as_images(x, image_shape, "x")
    rebuilt = as_images(x_hat, image_shape, "x_hat")
    canvas.expect_count("x_hat", rebuilt, len(original))
    tiles, used = _bands([original, rebuilt], columns)
    return _mosaic(tiles, used, limits=limits, row_labels=list(labels) * (len(tiles) // 2))


@styled
def latent_walk(
    images: Values,
    image_shape: ImageShape,
    *,
    values: Sequence[float | str] = (),
    value_name: str = "value of the coordinate (standard deviations of the prior)",
    row_labels: Sequence[str] = (),
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Show images (rows, steps, D): a row per latent coordinate, a step per value of it.

    `values` (numbers, or words) stand below the columns, under them what they are.
    """
    walk = canvas.as_array(images, "images")
    if walk.ndim < 3:
        raise InputError("images", expected="shape (rows, steps, D)", got=str(walk.shape))
    rows, steps = walk.shape[:2]
    canvas.expect_count("values", values, steps)
    canvas.expect_count("row_labels", row_labels, rows)
    tiles = as_images(walk.reshape(rows * steps, -1), image_shape, "images")
    figure = _mosaic(
        *_fill(tiles, rows, steps),
        limits=limits,
        row_labels=row_labels or [f"z[{row}]" for row in range(rows)],
        column_labels=[v if isinstance(v, str) else f"{v:.3g}".replace("-", "−") for v in values],
    )
    if len(values):
        figure.axes[0].set_xlabel(value_name)
    return figure


@styled
def weights_as_images(
    weight: Values,
    image_shape: ImageShape,
    *,
    reference: Values | None = None,
    labels: tuple[str, str] = ("SVI", "exact"),
    align: bool = True,
) -> Figure:
    """Show the columns of W (D, L) as images, above those of `reference` (D, L) where given; zero is white.

    p(x) is the same for W and W R with any orthogonal R, so `align` first turns W towards the reference by the R that
    minimises |W R - reference| (Schönemann 1966).
    """
    W = canvas.as_matrix(weight, "weight")
    rows = [W]
    if reference is not None:
        exact = canvas.same_shape(W, reference, "reference")
        if align and np.isfinite(W).all() and np.isfinite(exact).all():
            from scipy.linalg import orthogonal_procrustes  # slow to import, and needed here only

            rows = [W @ orthogonal_procrustes(W, exact)[0]]
        rows.append(exact)
    tiles, used = _bands([as_images(row.T, image_shape, "weight") for row in rows], 8)
    largest = float(np.abs(tiles[np.isfinite(tiles)]).max(initial=0.0)) or 1.0
    return _mosaic(
        tiles,
        used,
        limits=(-largest, largest),
        cmap="RdBu_r",
        row_labels=list(labels[: len(rows)]) * (len(tiles) // len(rows)),
        unit="weight",
    )


def as_images(values: Values, image_shape: ImageShape, name: str) -> Floats:
    """Return rows of `values` (n, C*H*W) as images (n, C, H, W), C being 1 (grey) or 3 (red, green, blue)."""
    shape = tuple(image_shape)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError("image_shape", expected="(channels, height, width) with 1 or 3 channels", got=str(shape))
    flat = canvas.as_matrix(values, name)
    if flat.shape[1] != math.prod(shape):
        raise InputError(
            name,
            expected=f"{math.prod(shape)} values per image, for image_shape {shape}",
            got=f"{flat.shape[1]}",
            hint="the image_shape of the data",
        )
    return flat.reshape(-1, *shape)


def _bands(stacks: Sequence[Floats], columns: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Lay several stacks of n images out in turns: the first `columns` of each below one another, then the next."""
    across = min(columns, len(stacks[0]))
    filled = [_fill(stack, math.ceil(len(stack) / across), across) for stack in stacks]
    tiles = np.stack([tiles for tiles, _ in filled], axis=1)
    used = np.stack([used for _, used in filled], axis=1)
    return tiles.reshape(-1, *tiles.shape[2:]), used.reshape(-1, across)


def _fill(images: Floats, rows: int, columns: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Lay images (n, C, H, W) out as tiles (rows, columns, C, H, W), with a mask (rows, columns) of those in use."""
    tiles = np.zeros((rows * columns, *images.shape[1:]))
    tiles[: len(images)] = images
    used = np.arange(rows * columns) < len(images)
    return tiles.reshape(rows, columns, *images.shape[1:]), used.reshape(rows, columns)


def _mosaic(
    tiles: Floats,
    used: NDArray[np.bool_],
    *,
    limits: tuple[float, float] | None = None,
    cmap: str = "gray",
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    titles: Sequence[str] = (),
    unit: str = "pixel value",
) -> Figure:
    """Draw tiles (rows, columns, C, H, W) as one picture with gaps; pixels that are not finite are magenta.

    `limits` are the values at the ends of the colour scale: 0 and 1 where all pixels lie between them, else their
    range. Any other scale than 0 to 1 gets a colour bar, and pixels outside a given one are counted.
    """
    rows, columns, channels, height, width = tiles.shape
    shown = tiles[used]
    finite = shown[np.isfinite(shown)]
    if limits is None:
        within = len(finite) == 0 or (finite.min() >= 0 and finite.max() <= 1)
        limits = (0.0, 1.0) if within else (float(finite.min()), float(finite.max()))
    scale = Normalize(*limits)
    level = np.ma.filled(scale(np.where(np.isfinite(tiles), tiles, 0.0)), 0.0)
    colours = np.ones((rows, columns, height, width, 4))
    if channels == 1:
        colours = colormaps[cmap](level[:, :, 0])
    else:
        colours[..., :3] = np.moveaxis(np.clip(level, 0, 1), 2, -1)
    colours[~np.isfinite(tiles).all(axis=2)] = to_rgba(NOT_FINITE)
    colours[~used] = 0  # transparent

    gap = max(1, round(0.07 * max(height, width)))
    above = math.ceil(11 / 72 / WIDTH * columns * (width + gap)) if titles else 0  # room for a line of 8 points
    pitch = above + height + gap
    between = to_rgba("none" if cmap == "gray" else "#c8c8c8")  # a diverging scale has white inside the tiles
    sheet = np.full((rows, pitch, columns, width + gap, 4), between)
    sheet[:, above : above + height, :, :width] = colours.transpose(0, 2, 1, 3, 4)
    picture = sheet.reshape(rows * pitch, columns * (width + gap), 4)[:-gap, :-gap]

    bar = limits != (0.0, 1.0) and channels == 1
    inches = min(WIDTH * picture.shape[0] / picture.shape[1] + 0.3 * bool(column_labels) + 0.7 * bar, 9.0)
    figure = Figure((WIDTH, max(inches, 0.9)), layout="constrained")
    ax = figure.subplots()
    ax.imshow(picture)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    down = np.arange(rows) * pitch + above + (height - 1) / 2
    across = np.arange(columns) * (width + gap) + (width - 1) / 2
    ax.set_yticks(down[: len(row_labels)], row_labels)
    ax.set_xticks(across[: len(column_labels)], column_labels)
    for index, title in enumerate(titles):
        row, column = divmod(index, columns)
        ax.annotate(title, (across[column], row * pitch + 0.9 * above - 0.5), ha="center", va="bottom", fontsize=8)
    if bar:
        figure.colorbar(ScalarMappable(scale, cmap), ax=ax, label=unit, location="bottom", shrink=0.6, aspect=30)
    outside = ((finite < limits[0] - 1e-6) | (finite > limits[1] + 1e-6)).sum()
    if outside:
        title = f"{outside:,} of {finite.size:,} values outside [{limits[0]:g}, {limits[1]:g}], drawn as its ends"
        ax.set_title(title, fontsize=8, color=canvas.GREY)
    canvas.flag_not_finite(ax, "pixels", shown.reshape(-1))
    return figure
