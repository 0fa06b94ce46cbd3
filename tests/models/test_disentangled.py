"""The disentangled pair: sites, exact log p and bounds where it is affine, walks, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from estimates import SE
from torch import nn

import ppl_vae
from ppl_vae import InputError, Pair
from ppl_vae.evaluation.prediction.conditional import conditional_log_likelihood
from ppl_vae.evaluation.representation.walks import factor_walks
from ppl_vae.exact import JointGaussian, gaussian_kl
from ppl_vae.guides import FactorEncoders
from ppl_vae.models import Disentangled
from ppl_vae.nn.likelihoods import Normal
from ppl_vae.objectives import CrossModalELBO
from ppl_vae.pairs.handlers import KLWeight

FACTORS = {"pose": (2, 2), "view": 3}
SIZES = {"pose": 2, "view": 1, "rest": 1}
S = 0.6  # scale of every likelihood
B = 5


def make(latent_dims=SIZES, hidden=(), seed=0, factors=FACTORS):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Disentangled(6, factors, latent_dims, likelihood=Normal(S), factor_likelihood=Normal(S), hidden=hidden)
        return Pair(model, FactorEncoders(6, factors, latent_dims, hidden=hidden)).double()


def broad(pair):
    """The pair with posteriors that depend on data and are broader than the prior, so that weights are bounded."""
    for normal in (pair.guide.of_x, *pair.guide.of_factor.values()):
        (layer,) = normal.network.layers
        with torch.no_grad():
            layer.weight.mul_(0.2)
            layer.weight[normal.latent_dim :] = 0.0
            layer.bias[normal.latent_dim :] = 0.2
    return pair


def batch(size=B, seed=1):
    random = torch.Generator().manual_seed(seed)
    shapes = {"x": (6,), "pose": (2, 2), "view": (3,)}
    return {name: torch.randn(size, *shape, generator=random, dtype=torch.float64) for name, shape in shapes.items()}


def joint(model):
    """The joint distribution of an affine model, from its weights."""
    joined = None
    for site, size in model.latents.items():
        mean = torch.zeros(size)
        joined = JointGaussian.root(site, mean) if joined is None else joined.child(site, {}, mean, 1.0)
    start = 0
    columns = {}
    weight, bias = (p.detach() for p in model.decoders["x"].network.parameters())
    for site, size in model.latents.items():
        columns[site] = weight[:, start : start + size]
        start += size
    joined = joined.child("x", columns, bias, S)
    for name in ("pose", "view"):
        weight, bias = (p.detach() for p in model.decoders[name].network.parameters())
        joined = joined.child(name, {f"z_{name}": weight}, bias, S)
    return joined


def flat(values):
    return {name: value.flatten(1) for name, value in values.items()}


def assert_estimate(found, truth):
    # The logarithm of a mean is off by half its variance.
    assert ((found.values - truth).abs() <= SE * found.variances.sqrt() + found.variances).all()


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("x",), ("pose", "view"), ("x", "pose", "view"), ("x", "view"), ("pose",)])
def test_sites_match_whatever_is_given(names):
    pair = make(hidden=(5,))
    given = {name: batch()[name] for name in names}
    assert set(pair.check(given).observed) == set(names)
    drawn = pair.posterior(given, 3)
    assert {site: z.shape for site, z in drawn.items()} == {f"z_{name}": (3, B, L) for name, L in SIZES.items()}
    assert pair.log_weights(given, 4).shape == (4, B)


def test_generates_and_decodes():
    pair = make(hidden=(5,))
    drawn = pair.generate(4)
    assert {name: value.shape[1:] for name, value in drawn.items() if name in ("x", *FACTORS)} == {
        "x": (6,), "pose": (2, 2), "view": (3,)
    }  # fmt: skip
    decoded = pair.decode({site: drawn[site] for site in pair.model.latents})
    assert decoded.keys() == {"x", "pose", "view"}


def test_the_decoder_of_a_factor_sees_its_own_latent_alone():
    pair = make(hidden=(5,))
    z = {site: torch.randn(3, size, dtype=torch.float64) for site, size in pair.model.latents.items()}
    before, after = pair.decode(z), pair.decode(z | {"z_view": z["z_view"] + 1})
    assert torch.equal(before["pose"], after["pose"])
    assert not torch.allclose(before["view"], after["view"])
    assert not torch.allclose(before["x"], after["x"])


def test_a_factor_is_read_off_itself_and_the_rest_off_x():
    pair, data = make(hidden=(5,)), batch()
    both = pair.posterior_mean(data)
    of_x, of_y = pair.posterior_mean({"x": data["x"]}), pair.posterior_mean({n: data[n] for n in FACTORS})
    torch.testing.assert_close(both["z_rest"], of_x["z_rest"])
    torch.testing.assert_close(both["z_pose"], of_y["z_pose"])
    assert not torch.allclose(of_x["z_pose"], of_y["z_pose"])
    assert not of_y["z_rest"].any()  # the prior's mean


def test_a_run_folder_has_all_there_is_to_save(tmp_path):
    pair = make(hidden=(5,)).float()
    data = {name: value.float() for name, value in batch(20).items()}
    objective = CrossModalELBO({"x+pose+view": {"x": 1.0, "pose": 1.0, "view": 1.0}})
    ppl_vae.fit(pair, data, objective=objective, epochs=1, batch_size=10, run_dir=tmp_path / "run", compile="off")
    again = ppl_vae.load(tmp_path / "run").pair
    for name, z in pair.posterior_mean(data).items():
        torch.testing.assert_close(again.posterior_mean(data)[name], z)


# --- exact, where all is affine ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("x",), ("pose", "view"), ("x", "pose", "view")])
def test_log_p_is_exact(names):
    pair, data = broad(make()), batch()
    given = {name: data[name] for name in names}
    found = ppl_vae.log_likelihood(pair, given, num_particles=20_000, seed=1, progress=False)
    assert_estimate(found, joint(pair.model).log_prob(**flat(given)))


@pytest.mark.slow
def test_log_p_of_factors_given_x_is_exact():
    pair, data = broad(make()), batch()
    found = conditional_log_likelihood(pair, data, ("pose", "view"), "x", num_particles=20_000, progress=False)
    joined = joint(pair.model)
    truth = joined.log_prob(**flat(data)) - joined.log_prob(x=data["x"])
    assert_estimate(found, truth)


def expected_log_p(pair, name, moments, value):
    """E_q[log N(y; W z + b, S^2)] = log N(y; W m + b, S^2) - tr(W C W') / 2 S^2."""
    weight, bias = pair.model.decoders[name].network.parameters()
    sites = pair.model.latents if name == "x" else [f"z_{name}"]
    mean = torch.cat([moments[site][0] for site in sites], -1)
    variance = torch.cat([moments[site][1] for site in sites], -1).square()
    fit = torch.distributions.Normal(mean @ weight.T + bias, S).log_prob(value.flatten(1)).sum(1)
    return fit - (variance @ weight.square().T).sum(1) / (2 * S**2)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["x+pose+view", "x"])
def test_both_bounds_are_those_of_the_paper(source):
    pair, data, weights, beta = make(), batch(), {"x": 2.0, "pose": 0.5, "view": 1.5}, 3.0
    joined = pair.guide.posterior({name: data[name] for name in source.split("+")})
    moments = {site: (one.base_dist.loc, one.base_dist.scale) for site, one in joined.items()}
    with torch.no_grad():
        fits = sum(w * expected_log_p(pair, name, moments, data[name]) for name, w in weights.items())
        rate = sum(
            gaussian_kl(mean, scale.square().diag_embed(), torch.zeros_like(mean), torch.eye(mean.shape[-1]).double())
            for mean, scale in moments.values()
        )
        objective = CrossModalELBO({source: weights})

        def weighed(program):
            def run(**values):
                with handler:
                    return program(**values)

            return run

        losses = []
        for seed in range(400):
            torch.manual_seed(seed)
            handler = KLWeight(beta / sum(weights.values()))
            losses.append(objective.differentiable_loss(*map(weighed, pair.programs()), **data))
    losses = torch.stack(losses)
    truth = -(fits - beta * rate).sum()
    assert abs(losses.mean() - truth) <= SE * losses.std() / len(losses) ** 0.5


@pytest.mark.filterwarnings("ignore:.*requires_grad=False")
def test_embedding_leaves_decoders_as_they_are():
    pair = make(hidden=(5,)).float()
    data = {name: value.float() for name, value in batch(20).items()}
    pair.model.requires_grad_(False)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    ppl_vae.fit(pair, data, objective=CrossModalELBO({"x": {"x": 1.0, "pose": 1.0, "view": 1.0}}), epochs=1)
    changed = {name for name, value in pair.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("guide.of_x") for name in changed)


# --- walks ------------------------------------------------------------------------------------------------------------


class Mixing(nn.Module):
    """x = M z: what walks in one coordinate do to each coordinate of x is a column of M."""

    def __init__(self, matrix):
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, z):
        return z @ self.matrix.T


def test_leaks_are_those_of_the_matrix():
    pair = make({"a": 1, "b": 1}, factors={"a": 1, "b": 1})
    matrix = torch.zeros(6, 2, dtype=torch.float64)
    matrix[:2] = torch.tensor([[1.0, 0.05], [0.2, 2.0]])
    pair.model.decoders["x"].network = Mixing(matrix)
    random = torch.Generator().manual_seed(0)
    z = {site: torch.randn(500, 1, generator=random, dtype=torch.float64) for site in ("z_a", "z_b")}
    found = factor_walks(pair.decode, z, lambda decoded: {"a": decoded["x"][:, :1], "b": decoded["x"][:, 1:2]}, steps=3)
    # |dx_g| = |M_gf| |dz_f|, and d of all is |sum_f M_gf dz_f|; all are linear in t, so that steps have no part.
    assert found.leaks[0, 1] == pytest.approx(float(found.changes[0, 1] / found.changes[0, 0]))
    spread = {g: (matrix[g].square().sum()).sqrt() for g in (0, 1)}  # of both coordinates, each of variance one
    for f in (0, 1):
        for g in (0, 1):
            expected = matrix[g, f].abs() / spread[g]
            assert found.changes[f, g] == pytest.approx(float(expected), rel=0.15)
    assert found.worst == pytest.approx(float(max(found.leaks[0, 1], found.leaks[1, 0])))
    assert "leak" in str(found)


def test_nothing_leaks_where_nothing_is_shared():
    pair = make({"a": 1, "b": 1}, factors={"a": 1, "b": 1})
    matrix = torch.zeros(6, 2, dtype=torch.float64)
    matrix[:2] = torch.eye(2)
    pair.model.decoders["x"].network = Mixing(matrix)
    z = {site: torch.randn(20, 1, dtype=torch.float64) for site in ("z_a", "z_b")}
    found = factor_walks(pair.decode, z, lambda decoded: {"a": decoded["x"][:, 0], "b": decoded["x"][:, 1]})
    torch.testing.assert_close(found.changes, torch.eye(2, dtype=torch.float64))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factors": {}}, "factors: expected names, other than x and rest"),
        ({"factors": {"x": 2}}, "factors: expected names, other than x and rest"),
        ({"latent_dims": {"pose": 2}}, "latent_dims of view: expected a size; got none"),
        ({"latent_dims": {"pose": 2, "view": 1, "res": 1}}, "unknown factor: .* got 'res'; try 'rest'"),
        ({"latent_dims": {"pose": 0, "view": 1}}, "latent_dims of pose"),
    ],
)
def test_bad_settings(change, message):
    arguments = {"x_shape": 6, "factors": FACTORS, "latent_dims": SIZES} | change
    for program in (Disentangled, FactorEncoders):
        with pytest.raises(InputError, match=message):
            program(**arguments)


def test_each_factor_learns_its_own_noise():
    noise = Normal("learned")
    model = Disentangled(6, {"a": 2, "b": 2}, {"a": 1, "b": 1}, likelihood=noise, factor_likelihood=noise)
    scales = [noise.log_scale, *(model.decoders[name].likelihood.log_scale for name in ("x", "a", "b"))]
    assert len({id(scale) for scale in scales}) == 4


def test_bad_likelihoods():
    with pytest.raises(InputError, match=r"unknown factor: .* got 'poes'; try 'pose'"):
        Disentangled(6, FACTORS, SIZES, factor_likelihood={"poes": "normal"})
    with pytest.raises(InputError, match="likelihood of view: expected one; got none"):
        Disentangled(6, FACTORS, SIZES, factor_likelihood={"pose": "normal"})


def test_bad_data():
    pair, data = make(), batch()
    with pytest.raises(InputError, match=r"unknown modality: .* got 'poes'; try 'pose'"):
        pair.model(poes=data["pose"])
    with pytest.raises(InputError, match=r"unknown modality: .* got 'pose_present'"):
        pair.model(pose=data["pose"], pose_present=torch.ones(B, dtype=torch.bool))
    with pytest.raises(InputError, match="expected equally many rows"):
        pair.model(x=data["x"], pose=data["pose"][:2])
    with pytest.raises(InputError, match="guide: expected x or a factor; got none"):
        pair.guide()
    with pytest.raises(InputError, match="x"):
        pair.check({"x": torch.full((2, 6), torch.nan)})


def test_bad_walks():
    pair = make(hidden=(5,))
    z = pair.posterior_mean(batch())

    def measure(decoded):
        return {"pose": decoded["x"][:, :1]}

    with pytest.raises(InputError, match=r"decode: expected a function of latents; got Pair; try pair\.decode"):
        factor_walks(pair, z, measure)
    with pytest.raises(InputError, match="two data or more"):
        factor_walks(pair.decode, {site: value[:1] for site, value in z.items()}, measure)
    with pytest.raises(InputError, match=r"unknown latent of a measured factor: .* got 'z_grip'"):
        factor_walks(pair.decode, z, lambda decoded: {"grip": decoded["x"]})
    with pytest.raises(InputError, match="one that changes from datum to datum"):
        factor_walks(pair.decode, z, lambda decoded: {"pose": torch.zeros(len(decoded["x"]))})
