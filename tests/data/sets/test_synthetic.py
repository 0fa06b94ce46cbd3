"""Sprites against geometry and real dSprites; linear-Gaussian data against SciPy."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Polygon
from scipy.stats import multivariate_normal

import ppl_vae.data as data
from ppl_vae.core.errors import InputError

HEART = np.linspace(0, 2 * np.pi, 4000)
OUTLINES = [
    9.6 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]),
    np.stack([12.764 * np.cos(HEART), 7.2155 * np.sin(HEART)], 1),
    np.stack(
        [
            9.595 * np.sin(HEART) ** 3,
            -0.662 * (13 * np.cos(HEART) - 5 * np.cos(2 * HEART) - 2 * np.cos(3 * HEART) - np.cos(4 * HEART)) - 1.4378,
        ],
        1,
    ),
]
# of the square, of the ellipse (pi a b), of the heart (180 pi for x = 16 sin^3 a and the same cosines, scaled)
AREAS = [19.2**2, math.pi * 12.764 * 7.2155, 180 * math.pi * (9.595 / 16) * 0.662]


@pytest.fixture(scope="module")
def sprites():
    return data.load("sprites", num_rows=3000, size=64)


@pytest.mark.slow
def test_sprites_have_the_shape_that_the_spec_claims(sprites):
    small = data.load("sprites", num_rows=100)
    assert small.spec.x_shape == (1024,)
    assert small.spec.image_shape == (1, 32, 32)
    assert [split.size for split in small.splits.values()] == [80, 10, 10]
    assert torch.isin(sprites.train["x"], torch.tensor([0.0, 1.0])).all()
    factors = sprites.train["factors"]
    assert torch.equal(factors[:, 0].long(), sprites.train["y"])
    for column, values in enumerate(data.FACTORS.values()):
        assert torch.isin(factors[:, column], torch.tensor(values)).all()
    everything = torch.cat([split["factors"] for split in sprites.splits.values()])
    assert len(everything.unique(dim=0)) == 3000


@pytest.mark.slow
def test_factors_alone_determine_a_sprite(sprites):
    train = sprites.train
    rows = torch.randperm(train.size, generator=torch.Generator().manual_seed(0))[:600]
    assert torch.equal(data.draw_sprites(train["factors"][rows], 64), train["x"][rows])


@pytest.mark.slow
def test_ink_has_the_area_of_the_shape():
    # positions uniform over whole pixels: the expected number of pixel centres inside is the area itself
    uniform = torch.rand(3000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for shape, area in enumerate(AREAS):
        factors = uniform * torch.tensor([0, 0.5, 2 * math.pi, 1, 1]) + torch.tensor([shape, 0.5, 0, 0, 0])
        ratio = data.draw_sprites(factors, 64).double().sum(1) / (area * factors[:, 1] ** 2)
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / 3000**0.5
        assert ratio.std() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("shape", [0, 1, 2])
def test_sprites_agree_with_their_outlines_as_polygons(sprites, shape):
    train = sprites.train
    rows = (train["y"] == shape).nonzero()[:40, 0]
    i, j = np.mgrid[:64, :64] + 0.5
    for row in rows:
        _, scale, turn, x, y = train["factors"][row].tolist()
        u, v = OUTLINES[shape].T * scale
        # from the shape's frame back to the canvas: the transpose of the rotation in the module's text
        across, down = math.cos(turn) * u + math.sin(turn) * v, -math.sin(turn) * u + math.cos(turn) * v
        polygon = Polygon(np.stack([across + 16 + 32 * x, down + 16 + 32 * y], 1))
        inside = polygon.contains_points(np.stack([j.ravel(), i.ravel()], 1))
        ink = train["x"][row].bool().numpy()
        # only pixels whose centre lies on the outline to rounding may differ
        doubtful = inside ^ ink
        centres = np.stack([j.ravel(), i.ravel()], 1)[doubtful]
        edge = np.concatenate([polygon.vertices, polygon.vertices[:1]])
        assert all(_distance(edge, centre) < 1e-3 for centre in centres)


def _distance(edge, point):
    start, step = edge[:-1], np.diff(edge, axis=0)
    along = np.clip(((point - start) * step).sum(1) / (step**2).sum(1).clip(1e-12), 0, 1)
    return np.linalg.norm(start + along[:, None] * step - point, axis=1).min()


def test_moving_a_sprite_moves_its_middle():
    factors = torch.tensor([[1.0, 1.0, 0.3, x, y] for x in (0.0, 1.0) for y in (0.0, 1.0)])
    images = data.draw_sprites(factors, 64).view(-1, 64, 64)
    centres = torch.arange(64) + 0.5
    across = (images.sum(1) * centres).sum(1) / images.sum((1, 2))
    down = (images.sum(2) * centres).sum(1) / images.sum((1, 2))
    torch.testing.assert_close(across, torch.tensor([16.0, 16, 48, 48]), atol=0.1, rtol=0)
    torch.testing.assert_close(down, torch.tensor([16.0, 48, 16, 48]), atol=0.1, rtol=0)


@pytest.mark.slow
def test_sprites_agree_with_real_dsprites():
    path = Path(os.environ.get("PPL_VAE_DATA", "")) / "dsprites" / "dsprites_small.npz"
    if "PPL_VAE_DATA" not in os.environ or not path.is_file():
        pytest.skip("needs dsprites/dsprites_small.npz in PPL_VAE_DATA")
    with np.load(path) as archive:
        rows = slice(None, None, 10)
        images = np.unpackbits(archive["random_images"][rows], axis=1)
        classes = archive["random_classes"][rows]
    columns = zip(data.FACTORS.values(), classes.T, strict=True)
    factors = np.stack([np.array(values)[column] for values, column in columns], 1)
    wrong = (data.draw_sprites(torch.from_numpy(factors), 64).numpy() != images).sum(1)
    # of 4096 pixels; a wrong one lies on the outline, where an upright square's whole edge may run along pixel centres
    assert wrong.mean() < 0.1
    assert (wrong == 0).mean() > 0.93
    assert (wrong <= 2).mean() > 0.998


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (torch.zeros(3, 4), r"factors: expected shape \(N, 5\): shape, scale, orientation, posX, posY; got \(3, 4\)"),
        (torch.tensor([[0, 1, 0, 0, 0], [3.0, 1, 0, 0, 0]]), "factors: expected shape 0, 1 or 2, .* in row 1"),
        (torch.tensor([[0, 0.0, 0, 0, 0]]), "factors: expected .* scale above 0, .* in row 0"),
        (torch.tensor([[0, 1, math.nan, 0, 0]]), "factors: expected .* finite values; .* in row 0"),
    ],
)
def test_bad_factors_get_one_line(factors, message):
    with pytest.raises(InputError, match=message):
        data.draw_sprites(factors)


def test_exact_log_p_of_linear_gaussian_data_agrees_with_scipy():
    loaded = data.load("linear-gaussian", seed=3, num_rows=500, x_dim=6, latent_dim=3, scale=0.4)
    truth, x = loaded.truth, loaded.test["x"]
    covariance = truth.W.numpy() @ truth.W.numpy().T + truth.s**2 * np.eye(6)
    expected = multivariate_normal(truth.b.numpy(), covariance).logpdf(x.double().numpy())
    np.testing.assert_allclose(truth.log_prob(x).numpy(), expected, rtol=1e-10)
    assert loaded.spec == data.Spec("linear-gaussian", (6,))
    assert truth.W.shape == (6, 3)


def test_linear_gaussian_data_come_from_the_truth():
    loaded = data.load("linear-gaussian", seed=1)
    truth, x = loaded.truth, torch.cat([split["x"] for split in loaded.splits.values()]).double()
    D, N = len(truth.b), len(x)
    covariance = truth.W @ truth.W.T + truth.s**2 * torch.eye(D)
    standard_error = (covariance.diagonal() / N).sqrt()
    assert ((x.mean(0) - truth.b).abs() < 4.5 * standard_error).all()
    entropy = multivariate_normal(cov=covariance.numpy()).entropy()
    # log p(x) + entropy = (D - chi2_D) / 2, so its mean has standard error sqrt(D / 2N)
    assert abs(truth.log_prob(x).mean() + entropy) < 4 * math.sqrt(D / 2 / N)
