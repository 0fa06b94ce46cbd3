"""Figures: what is drawn is what was given, bad input is refused by message, and nothing outside is touched."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from numpy.testing import assert_allclose, assert_array_equal
from source_tree import imports, modules

from ppl_vae import plots
from ppl_vae.core.errors import InputError
from ppl_vae.plots import images

SHAPE = (1, 2, 3)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def scattered(ax):
    return [collection.get_offsets() for collection in ax.collections]


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def picture(figure):
    (image,) = figure.axes[0].images
    return np.asarray(image.get_array())


def tile(figure, row, column, *, shape=SHAPE, above=0):
    """The red channel of one tile; a gap of one pixel parts the tiles of these small images."""
    _, height, width = shape
    top, left = row * (above + height + 1) + above, column * (width + 1)
    return picture(figure)[top : top + height, left : left + width, 0]


# --- training ---------------------------------------------------------------------------------------------------------


def test_history_draws_the_columns_it_was_given():
    columns = {
        "epoch": [1, 2, 3],
        "train_bound": [-9.0, -8.0, -7.0],
        "validation_bound": [-9.5, -8.5, -8.0],
        "lr": [1, 1, 1],
    }
    figure = plots.history(columns, reference=-6.0, reference_label="the maximum")
    (ax,) = figure.axes
    drawn = lines(ax)
    assert set(drawn) == {"train bound", "validation bound", "the maximum"}
    assert_array_equal(drawn["train bound"].get_xdata(), [1, 2, 3])
    assert_array_equal(drawn["train bound"].get_ydata(), columns["train_bound"])
    assert_array_equal(drawn["validation bound"].get_ydata(), columns["validation_bound"])
    assert set(drawn["the maximum"].get_ydata()) == {-6.0}
    assert ax.get_ylabel() == "nats per datum"
    assert ax.get_xlabel() == "epoch"


def test_history_leaves_out_what_was_never_measured():
    figure = plots.history({"train_elbo": [-3.0, -2.0, -1.0], "validation_elbo": [-3.5, None, -1.5]})
    drawn = lines(figure.axes[0])
    assert_array_equal(drawn["validation ELBO"].get_xdata(), [1, 3])
    assert "not finite" not in texts(figure)


def test_history_shows_and_counts_what_is_not_finite():
    figure = plots.history({"epoch": [1, 2, 3, 4], "train_elbo": [-3.0, np.nan, -np.inf, -1.0]})
    assert "2 of 4 values of train ELBO not finite" in texts(figure)
    assert_array_equal(lines(figure.axes[0])["not finite"].get_xdata(), [2, 3])


@pytest.mark.parametrize(("weight", "panels"), [([1.0, 1.0], 1), ([0.5, 1.0], 2)])
def test_history_gives_a_kl_weight_its_own_panel_only_where_it_says_something(weight, panels):
    figure = plots.history({"train_bound": [-2.0, -1.0], "kl_weight": weight})
    assert len(figure.axes) == panels
    if panels == 2:
        assert_array_equal(figure.axes[1].get_lines()[0].get_ydata(), weight)


@pytest.mark.parametrize("capacity", [[2.0, 5.0], [1.0, 1.0]])
def test_history_draws_the_capacity_and_the_kl_that_should_follow_it(capacity):
    columns = {"train_bound": [-2.0, -1.0], "validation_rate": [1.5, 4.5], "kl_capacity": capacity}
    ax = plots.history(columns).axes[1]
    assert ax.get_ylabel() == "KL (nats)"
    drawn = lines(ax)
    assert_array_equal(drawn["capacity"].get_ydata(), capacity)
    assert_array_equal(drawn["validation KL"].get_ydata(), columns["validation_rate"])


def test_history_says_what_it_leaves_below_the_axis():
    values = [-900.0, -500.0, *np.linspace(-31, -30, 18)]
    figure = plots.history({"train_bound": values})
    assert "early epochs below the axis: 2 (lowest −900)" in texts(figure)
    assert figure.axes[0].get_ylim()[0] > -40
    assert_array_equal(lines(figure.axes[0])["train bound"].get_ydata(), values)  # cut by the axis, not from the data
    calm = plots.history({"train_bound": list(np.linspace(-31, -30, 20))})
    assert "below the axis" not in texts(calm)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "history: expected a column such as train_bound with at least one epoch; got none"),
        (
            {"epoch": [], "train_bound": []},
            "history: expected a column such as train_bound with at least one epoch; got epoch",
        ),
        ({"epoch": [1], "lr": [0.1]}, "at least one epoch; got epoch, lr"),
        ({"epoch": [1, 2], "train_bound": [-1.0]}, "history column 'epoch': expected 1 epochs; got 2"),
        ({"train_bound": ["a"]}, "history column 'train_bound': expected an array or tensor of numbers"),
    ],
)
def test_history_refuses(columns, message):
    with pytest.raises(InputError) as caught:
        plots.history(columns)
    assert message in str(caught.value)


# --- images -----------------------------------------------------------------------------------------------------------


def test_image_grid_puts_every_pixel_in_its_place(rng):
    x = rng.random((5, 6))
    figure = plots.image_grid(torch.tensor(x), SHAPE, columns=3)
    assert picture(figure).shape == (2 * 3 - 1, 3 * 4 - 1, 4)
    for index, row in enumerate(x):
        assert_allclose(tile(figure, index // 3, index % 3), row.reshape(2, 3), atol=1 / 255)
    assert not picture(figure)[3:5, 8:11].any()  # the sixth tile is empty and transparent
    assert len(figure.axes) == 1  # the scale from 0 to 1 needs no colour bar


def test_image_grid_puts_titles_over_their_images(rng):
    figure = plots.image_grid(rng.random((2, 6)), SHAPE, titles=["one", "two"])
    ax = figure.axes[0]
    assert [(text.get_text(), text.xy[0]) for text in ax.texts] == [("one", 1.0), ("two", 5.0)]
    assert_allclose(picture(figure)[: ax.texts[0].xy[1].__ceil__()], 0)  # what is above the tiles is empty


def test_colour_images_keep_their_channels(rng):
    x = rng.random((1, 3 * 2 * 2))
    assert_allclose(picture(plots.image_grid(x, (3, 2, 2)))[..., :3], np.moveaxis(x.reshape(3, 2, 2), 0, -1))


def test_images_beyond_zero_and_one_get_a_colour_bar():
    figure = plots.image_grid([[-1.0, 0, 0, 0, 0, 3.0]], SHAPE)
    assert len(figure.axes) == 2
    assert_allclose(tile(figure, 0, 0)[[0, 1], [0, 2]], [0, 1])
    clipped = plots.image_grid([[-1.0, 0, 0, 0, 0, 3.0]], SHAPE, limits=(0, 1))
    assert "2 of 6 values outside [0, 1]" in texts(clipped)


def test_pixels_that_are_not_finite_are_magenta_and_counted():
    figure = plots.image_grid([[0.0, np.nan, 0, 0, np.inf, 0]], SHAPE)
    assert_array_equal(picture(figure)[[0, 1], [1, 1]], [to_rgba(images.NOT_FINITE)] * 2)
    assert "2 of 6 pixels not finite" in texts(figure)


def test_reconstructions_stand_below_their_originals(rng):
    x, x_hat = rng.random((2, 5, 6))
    figure = plots.reconstructions(x, x_hat, SHAPE, columns=3)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["original", "rebuilt"] * 2
    for index in range(5):
        band, column = divmod(index, 3)
        assert_allclose(tile(figure, 2 * band, column), x[index].reshape(2, 3), atol=1 / 255)
        assert_allclose(tile(figure, 2 * band + 1, column), x_hat[index].reshape(2, 3), atol=1 / 255)


def test_latent_walk_has_a_row_per_coordinate_and_a_step_per_value(rng):
    walk = rng.random((2, 3, 6))
    figure = plots.latent_walk(walk, SHAPE, values=[-1.5, 0, 1.5])
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["−1.5", "0", "1.5"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["z[0]", "z[1]"]
    assert "standard deviations" in ax.get_xlabel()
    assert_allclose(tile(figure, 1, 2), walk[1, 2].reshape(2, 3), atol=1 / 255)


def test_weights_are_turned_towards_their_reference(rng):
    exact = rng.normal(size=(6, 4))
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    figure = plots.weights_as_images(exact @ rotation, SHAPE, reference=exact)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["SVI", "exact"]
    for column in range(4):
        assert_allclose(tile(figure, 0, column), tile(figure, 1, column), atol=2 / 255)
    plain = plots.weights_as_images(exact @ rotation, SHAPE, reference=exact, align=False)
    assert not np.allclose(tile(plain, 0, 0), tile(plain, 1, 0), atol=0.1)
    assert len(figure.axes) == 2  # with a colour bar


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: plots.image_grid(np.ones((2, 6)), (1, 3, 3)),
            "x: expected 9 values per image, for image_shape (1, 3, 3); got 6",
        ),
        (lambda: plots.image_grid(np.ones((2, 6)), (2, 3)), "image_shape: expected (channels, height, width)"),
        (lambda: plots.image_grid(np.ones((2, 8)), (2, 2, 2)), "with 1 or 3 channels; got (2, 2, 2)"),
        (lambda: plots.image_grid(np.ones((0, 6)), SHAPE), "x: expected at least one value; got an empty array"),
        (lambda: plots.image_grid(np.ones((2, 6)), SHAPE, titles=["a"]), "titles: expected 2 of them; got 1"),
        (lambda: plots.reconstructions(np.ones((2, 6)), np.ones((3, 6)), SHAPE), "x_hat: expected 2 of them; got 3"),
        (lambda: plots.latent_walk(np.ones((2, 6)), SHAPE), "images: expected shape (rows, steps, D); got (2, 6)"),
        (lambda: plots.latent_walk(np.ones((2, 3, 6)), SHAPE, values=[1]), "values: expected 3 of them; got 1"),
        (
            lambda: plots.latent_walk(np.ones((2, 3, 6)), SHAPE, row_labels=["z"]),
            "row_labels: expected 2 of them; got 1",
        ),
        (
            lambda: plots.weights_as_images(np.ones((6, 2)), SHAPE, reference=np.ones((6, 3))),
            "reference: expected shape (6, 2)",
        ),
    ],
)
def test_images_refuse(draw, message):
    with pytest.raises(InputError) as caught:
        draw()
    assert message in str(caught.value)


# --- latent space -----------------------------------------------------------------------------------------------------


def test_embed_returns_two_latents_as_they_are(rng):
    z = rng.normal(size=(7, 2))
    assert_array_equal(plots.embed(torch.tensor(z)), z)


def test_embed_finds_the_plane_of_largest_variance(rng):
    z = rng.normal(size=(200, 5)) * [1, 3, 0.1, 9, 0.1]
    points = plots.embed(z)
    assert abs(np.corrcoef(points[:, 0], z[:, 3])[0, 1]) > 0.99
    assert abs(np.corrcoef(points[:, 1], z[:, 1])[0, 1]) > 0.99


@pytest.mark.slow
def test_embed_by_tsne_is_seeded_and_keeps_clusters_apart(rng):
    z = rng.normal(size=(60, 4)) + 30 * (np.arange(60) % 2)[:, None]
    points = plots.embed(z, method="tsne", seed=3)
    assert_array_equal(points, plots.embed(z, method="tsne", seed=3))
    centres = points[0::2].mean(0), points[1::2].mean(0)
    assert np.linalg.norm(points[0::2] - centres[0], axis=1).max() < np.linalg.norm(centres[0] - centres[1])


def test_embed_hands_rows_that_are_not_finite_on(rng):
    z = rng.normal(size=(20, 4))
    z[3, 1] = np.inf
    points = plots.embed(z)
    assert_array_equal(np.isnan(points).all(axis=1), np.arange(20) == 3)
    assert "1 of 20 points not finite" in texts(plots.embedding(points))


def test_embedding_draws_each_class_once_and_names_it(rng):
    points, labels = rng.normal(size=(30, 2)), np.arange(30) % 3
    figure = plots.embedding(points, torch.tensor(labels), label_name="digit", axis_names=("a", "b"))
    ax = figure.axes[0]
    for value, offsets in enumerate(scattered(ax)):
        assert_array_equal(offsets, points[labels == value])
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2"]
    assert_allclose(ax.texts[1].xy, np.median(points[labels == 1], axis=0))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1", "2"]
    assert legend.get_title().get_text() == "digit"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("a", "b")


def test_no_two_of_fifty_classes_look_alike(rng):
    figure = plots.embedding(rng.normal(size=(50, 2)), np.arange(50))
    looks = {
        (tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes()) for dots in figure.axes[0].collections
    }
    assert len(looks) == 50


@pytest.mark.parametrize(("count", "named"), [(10, True), (50, False)])
def test_the_legend_fits_and_names_stand_among_the_points_only_where_there_is_room(rng, count, named):
    figure = plots.embedding(rng.normal(size=(100, 2)), np.arange(100) % count)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == count
    box, outer = legend.get_window_extent(), figure.bbox
    assert outer.x0 <= box.x0 <= box.x1 <= outer.x1
    assert outer.y0 <= box.y0 <= box.y1 <= outer.y1
    assert len(figure.axes[0].texts) == (count if named else 0)


def test_embeddings_stand_side_by_side_in_the_same_colours(rng):
    labels = np.array([3, 3, 1, 1, 2])
    panels = {name: rng.normal(size=(5, 2)) for name in ("AE, PCA", "VAE, PCA", "AE, t-SNE")}
    panels["AE, t-SNE"][0] = np.nan
    figure = plots.embeddings(panels, torch.tensor(labels), label_name="digit")
    drawn = [ax for ax in figure.axes if ax.collections]
    assert [ax.get_title() for ax in drawn] == list(panels)
    for ax, points in zip(drawn, panels.values(), strict=True):
        for dots, value in zip(ax.collections, (1, 2, 3), strict=True):
            assert dots.get_label() == str(value)
            assert_allclose(dots.get_offsets(), points[labels == value])
    colours = [[tuple(dots.get_facecolor()[0]) for dots in ax.collections] for ax in drawn]
    assert colours[0] == colours[1] == colours[2]
    assert "1 of 5 points not finite" in texts(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1", "2", "3"]


def test_embedding_gives_numbers_a_colour_bar(rng):
    scale = rng.random(30)
    scale[0] = np.nan
    figure = plots.embedding(rng.normal(size=(30, 2)), scale, label_name="scale")
    assert len(figure.axes) == 2
    assert_array_equal(np.ma.filled(figure.axes[0].collections[0].get_array(), np.nan), scale)
    assert "1 of 30 labels not finite" in texts(figure)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: plots.embed(np.ones((5, 3)), method="tnse"),
            "unknown embedding method: expected one of pca, tsne; got 'tnse'; try",
        ),
        (lambda: plots.embed(np.ones((5, 1))), "z: expected at least 2 latent dimensions; got 1; try plots.marginals"),
        (lambda: plots.embed(np.full((5, 3), np.nan)), "z: expected at least 4 finite rows to embed; got 0"),
        (lambda: plots.embed(np.ones(5)), "z: expected a matrix with a row per datum; got shape (5,)"),
        (lambda: plots.embedding(np.ones((5, 3))), "points: expected shape (N, 2); got (5, 3); try plots.embed"),
        (lambda: plots.embedding(np.ones((5, 2)), [1, 2]), "labels: expected shape (5,); got (2,)"),
        (lambda: plots.embeddings({}, [1]), "panels: expected at least one, in at least one column; got 0, 2"),
        (
            lambda: plots.embeddings({"AE": np.ones((5, 2))}, [1, 2]),
            "AE: expected shape (2, 2), a row per label; got (5, 2)",
        ),
    ],
)
def test_latent_space_refuses(draw, message):
    with pytest.raises(InputError) as caught:
        draw()
    assert message in str(caught.value)


# --- likelihoods ------------------------------------------------------------------------------------------------------


def test_log_likelihood_counts_every_value_and_states_the_mean(rng):
    values = rng.normal(-20, 3, size=100)
    figure = plots.log_likelihood({"VAE": values, "PPCA": values - 5})
    ax = figure.axes[0]
    counts = [patch.get_data().values.sum() for patch in ax.patches]
    assert counts == [100] * 4  # an area and an outline for each
    assert_allclose([line.get_xdata()[0] for line in ax.get_lines()], [values.mean(), values.mean() - 5])
    error = values.std(ddof=1) / 10
    assert f"VAE: mean {values.mean():.2f} ± {error:.2f}".replace("-", "−") in texts(figure)
    assert ax.get_xlabel() == "log p(x) (nats per datum)"


def test_log_likelihood_lets_an_infinite_value_spoil_the_mean():
    figure = plots.log_likelihood([-1.0, -2.0, -np.inf])
    assert "mean −inf" in texts(figure)
    assert "1 of 3 values of log p(x) not finite" in texts(figure)
    assert plots.log_likelihood([np.nan, np.nan]).axes[0].get_title(loc="left").startswith("2 of 2")


def test_pareto_k_sorts_by_the_thresholds():
    k = np.array([0.1, 0.5, 0.6, 0.7, 0.71, np.nan, np.inf])
    figure = plots.pareto_k(k)
    ax = figure.axes[0]
    assert [offsets[:, 1].tolist() for offsets in scattered(ax)] == [[0.1, 0.5], [0.6, 0.7], [0.71]]
    assert [offsets[:, 0].tolist() for offsets in scattered(ax)] == [[1, 2], [3, 4], [5]]
    assert {line.get_ydata()[0] for line in ax.get_lines() if line.get_linestyle() == "--"} == {0.5, 0.7}
    assert "2 of 7 values of k not finite" in texts(figure)
    assert "k ≤ 0.5, good: 2 of 7" in texts(figure)
    assert "k > 0.7, not to be trusted: 1 of 7" in texts(figure)


def test_estimate_comparison_draws_estimates_and_differences(rng):
    exact = rng.normal(-20, 3, size=50)
    estimate = exact + 0.5
    figure = plots.estimate_comparison(exact, torch.tensor(estimate))
    top, bottom = figure.axes
    assert_array_equal(scattered(top)[0], np.stack([exact, estimate], 1))
    assert_allclose(scattered(bottom)[0][:, 1], 0.5)
    identity = lines(top)["equal"]
    assert_array_equal(identity.get_xdata(), identity.get_ydata())
    assert "difference: mean +0.5 nats, largest 0.5 nats" in texts(figure)


def test_posterior_comparison_draws_every_coordinate_and_marks_what_is_not_finite(rng):
    exact = rng.normal(size=(10, 3))
    guide = exact.copy()
    guide[4, 2] = np.nan
    figure = plots.posterior_comparison(exact, guide)
    assert_array_equal(scattered(figure.axes[0])[0][:, 0], exact.ravel())
    assert "1 of 30 means not finite" in texts(figure)
    assert_array_equal(lines(figure.axes[0])["not finite"].get_xdata(), [exact[4, 2]])


def test_comparisons_refuse_shapes_that_differ():
    with pytest.raises(InputError, match=r"estimate: expected shape \(3,\); got \(2,\)"):
        plots.estimate_comparison(np.ones(3), np.ones(2))
    with pytest.raises(InputError, match=r"guide: expected shape \(3, 2\); got \(3, 1\)"):
        plots.posterior_comparison(np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(InputError, match=r"k: expected at least one value"):
        plots.pareto_k([])


# --- data other than images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [4, 300])
def test_marginals_of_counts_have_as_many_whole_numbers_in_each_bar(mean, rng):
    x, generated = rng.poisson(mean, size=(2, 400, 1))
    (ax,) = plots.marginals(x, generated).axes
    stairs = ax.patches[0].get_data()
    (width,) = set(np.diff(stairs.edges))
    assert width == int(width)
    assert stairs.edges[0] == min(x.min(), generated.min()) - 0.5
    assert stairs.edges[-1] > max(x.max(), generated.max())
    inside = [((x > low) & (x < high)).mean() for low, high in zip(stairs.edges[:-1], stairs.edges[1:], strict=True)]
    assert_allclose(stairs.values * width, inside)


def test_marginals_have_a_panel_per_feature_of_unit_area(rng):
    data, samples = rng.normal(size=(80, 4)), rng.normal(size=(50, 4))
    samples[0, 2] = np.nan
    figure = plots.marginals(data, samples, names=list("abcd"), most=3)
    panels = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_xlabel() for ax in panels] == ["a", "b", "c"]
    for patch in panels[0].patches:
        heights, edges, _ = patch.get_data()
        assert_allclose((heights * np.diff(edges)).sum(), 1)
    assert "1 of 50 model not finite" in panels[2].get_title(loc="left")


def test_feature_scatter_draws_the_two_features(rng):
    data, samples = rng.normal(size=(8, 3)), rng.normal(size=(6, 3))
    figure = plots.feature_scatter(data, samples, dims=(2, 0))
    drawn = scattered(figure.axes[0])
    assert_array_equal(drawn[0], data[:, [2, 0]])
    assert_array_equal(drawn[1], samples[:, [2, 0]])
    assert figure.axes[0].get_xlabel() == "x[2]"


def test_feature_reconstructions_draw_every_value(rng):
    x = rng.normal(size=(8, 3))
    figure = plots.feature_reconstructions(x, x - 1)
    assert_array_equal(scattered(figure.axes[0])[0], np.stack([x.ravel(), x.ravel() - 1], 1))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.marginals(np.ones((4, 2)), np.ones((4, 3))), "samples: expected 2 features, as in data; got 3"),
        (lambda: plots.marginals(np.ones((4, 2)), np.ones((4, 2)), names=["a"]), "names: expected 2 of them; got 1"),
        (
            lambda: plots.feature_scatter(np.ones((4, 2)), np.ones((4, 2)), dims=(0, 2)),
            "dims: expected two numbers from 0 to 1",
        ),
        (
            lambda: plots.feature_reconstructions(np.ones((4, 2)), np.ones((4, 3))),
            "x_hat: expected shape (4, 2); got (4, 3)",
        ),
    ],
)
def test_features_refuse(draw, message):
    with pytest.raises(InputError) as caught:
        draw()
    assert message in str(caught.value)


# --- nothing outside is touched ---------------------------------------------------------------------------------------


def test_plots_change_no_setting_and_obey_none():
    before = {"font.size": 31, "axes.grid": False, "axes.spines.top": True}
    with mpl.rc_context(before):
        figure = plots.history({"train_bound": [-2.0, -1.0]})
        assert {name: mpl.rcParams[name] for name in before} == before
    assert figure.axes[0].xaxis.label.get_size() == 10
    assert not figure.axes[0].spines["top"].get_visible()


PICTURES = [name for name in modules() if name.startswith(("ppl_vae.plots", "ppl_vae.report"))]


@pytest.mark.parametrize("module", PICTURES)
def test_no_figure_goes_through_pyplot(module):
    source = modules()[module].read_text("utf-8")
    assert not [name for _, name in imports(source) if "pyplot" in name]
    assert "matplotlib.use" not in source


# --- classes ----------------------------------------------------------------------------------------------------------


def test_calibration_draws_shares_where_there_are_data():
    rows = np.array([[np.nan, np.nan, 0], [0.45, 0.5, 20], [0.9, 0.8, 100]])
    figure = plots.calibration({"a": rows, "b": rows})
    upper, lower = figure.axes
    (points, _, (bars,)), _ = upper.containers
    assert_allclose(points.get_xdata(), [0.45, 0.9])
    assert_allclose(points.get_ydata(), [0.5, 0.8])
    half = [0.5 * np.ptp(segment[:, 1]) for segment in bars.get_segments()]
    shares = np.array([11 / 22, 81 / 102])
    assert_allclose(half, 2 * np.sqrt(shares * (1 - shares) / [22, 102]))
    assert [bar.get_height() for bar in lower.containers[0]] == [0, 20, 100]
    assert "probability of the predicted class" in texts(figure)


def test_calibration_of_none_is_refused():
    with pytest.raises(InputError, match="rows: expected 1 to 6 classifiers; got 0"):
        plots.calibration({})
