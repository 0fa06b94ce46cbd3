"""Cross-modal pairs: log p of every subset against the exact value, exact experts, masks, and what cannot be given."""

from __future__ import annotations

import re

import pytest
import torch
from estimates import SE
from linear_modalities import JOINS, SHAPES, L, draws, exact_pair, layers, only, some_missing

import ppl_vae
from ppl_vae import InputError, Pair
from ppl_vae.evaluation.prediction.conditional import conditional_log_likelihood
from ppl_vae.exact import modalities as exact
from ppl_vae.guides import AmortizedNormal, Experts
from ppl_vae.models import VAE, CrossModal
from ppl_vae.nn import likelihoods
from ppl_vae.nn.likelihoods import Normal
from ppl_vae.nn.mlp import MLP
from ppl_vae.objectives import ELBO, IWELBO

N, K = 40, 2000
TWO, THREE = ("a", "b"), ("a", "b", "c")


def close(estimate, truth):
    """Assert that an estimate is the exact value, each datum's and their mean, in standard errors.

    By the delta method the logarithm of a mean of K weights has the reported variance and a bias of minus half of it.
    """
    scores = (estimate.values - truth) / estimate.variances.sqrt()
    assert scores.abs().max() < SE
    assert abs(estimate.mean - float(truth.mean())) < SE * estimate.standard_error
    assert estimate.standard_error > 0


def masks_of(batch):
    return {name.removesuffix("_present"): batch[name] for name in batch if name.endswith("_present")}


def values_of(batch):
    return {name: batch[name] for name in batch if not name.endswith("_present")}


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("names", [TWO, THREE], ids="".join)
class TestLinearGaussian:
    """Experts wider than the exact ones, so that weights have a variance; the estimate must not have moved."""

    def make(self, join, names):
        pair = exact_pair(join, names, trust=0.6)
        return pair, draws(pair, N), layers(pair)

    @pytest.mark.slow
    def test_each_modality_and_the_joint(self, join, names):
        pair, data, affine = self.make(join, names)
        for given in (*((name,) for name in names), names):
            batch = only(data, given)
            close(ppl_vae.log_likelihood(pair, batch, num_particles=K), exact.log_marginal(batch, affine))

    @pytest.mark.slow
    def test_a_conditional(self, join, names):
        pair, data, affine = self.make(join, names)
        target, given = names[0], names[1:]
        estimate = conditional_log_likelihood(pair, data, target, given, num_particles=K)
        truth = exact.joint(affine).given(**only(data, given)).log_prob(**only(data, target))
        close(estimate, truth)
        assert estimate.quantity == f"log p({target} | {', '.join(given)})"

    @pytest.mark.slow
    def test_data_that_miss_some(self, join, names):
        pair, data, affine = self.make(join, names)
        batch = data | some_missing(names, N)
        estimate = ppl_vae.log_likelihood(pair, batch, num_particles=K)
        close(estimate, exact.log_marginal(data, affine, masks_of(batch)))
        assert estimate.quantity == f"log p({', '.join(names)}, those that are there)"

    def test_missing_by_a_mask_is_missing_by_name(self, join, names):
        pair, data, _ = self.make(join, names)
        hidden = data | {"b_present": torch.zeros(N, dtype=torch.bool)}
        short = {name: data[name] for name in names if name != "b"}
        q, p = (pair.guide.posterior(*pair.guide.modalities.given(batch)) for batch in (hidden, short))
        z = torch.randn(N, L, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        torch.testing.assert_close(q.log_prob(z), p.log_prob(z))

    def test_what_a_mask_hides_changes_nothing(self, join, names):
        pair, data, _ = self.make(join, names)
        masks = some_missing(names, N)
        found = []
        for hidden in (0.0, 1e30, float("nan")):
            batch = {name: x.where(masks[f"{name}_present"][:, None], hidden) for name, x in data.items()} | masks
            pair.zero_grad()
            torch.manual_seed(0)
            loss = IWELBO(3).differentiable_loss(*pair.programs(), **batch)
            loss.backward()
            found.append([loss, *(p.grad.clone() for p in pair.parameters())])
        for one in found:
            assert all(torch.equal(got, wanted) for got, wanted in zip(one, found[0], strict=True))
            assert all(value.isfinite().all() for value in one)


@pytest.mark.parametrize("names", [("a",), TWO, THREE], ids="".join)
def test_the_product_of_exact_experts_is_the_posterior(names):
    """Zero variance: every log weight is log p(x_S), of every subset and under masks."""
    pair = exact_pair(names=THREE)
    data, affine = draws(pair, N), layers(pair)
    for batch in (only(data, names), only(data | some_missing(THREE, N), names)):
        weights = pair.log_weights(batch, 5)
        truth = exact.log_marginal(values_of(batch), affine, masks_of(batch))
        torch.testing.assert_close(weights, truth.expand(5, N), rtol=1e-9, atol=1e-9)
        mean, covariance = exact.posterior(values_of(batch), affine, masks_of(batch))
        q = pair.guide.posterior(*pair.guide.modalities.given(batch))
        torch.testing.assert_close(q.mean, mean)
        torch.testing.assert_close(q.covariance_matrix, covariance.expand_as(q.covariance_matrix))


def test_an_expert_is_that_of_the_exact_answers():
    pair = exact_pair()
    data = draws(pair, 5)
    for name, expert in exact.experts(data, layers(pair)).items():
        shift, precision = pair.guide.posterior.experts[name](data[name])
        torch.testing.assert_close(shift, expert.shift)
        torch.testing.assert_close(precision, expert.precision.expand_as(precision))


def components(pair, data, masks, subsets):
    """q_A for each set A, by a product over it alone."""
    product = Experts(SHAPES, L, covariance="full", hidden=()).double()
    product.load_state_dict(pair.guide.state_dict())
    return [product.posterior(only(data, A), {}) for A in subsets]


@pytest.mark.parametrize(
    ("join", "subsets"),
    [("mixture", ["a", "b", "c"]), ("mixture-of-products", ["a", "b", "c", "ab", "ac", "bc", "abc"])],
)
def test_a_mixture_is_the_mean_over_sets_that_are_there(join, subsets):
    pair = exact_pair(join)
    data, masks = draws(pair, N), some_missing(THREE, N)
    z = torch.randn(N, L, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    densities = torch.stack([q.log_prob(z).exp() for q in components(pair, data, masks, subsets)])
    there = torch.stack([torch.stack([masks[f"{m}_present"] for m in A]).all(0) for A in subsets]).double()
    wanted = ((there * densities).sum(0) / there.sum(0)).log()
    q = pair.guide.posterior(*pair.guide.modalities.given(data | masks))
    torch.testing.assert_close(q.log_prob(z), wanted)


@pytest.mark.parametrize("join", JOINS)
def test_a_datum_without_any_has_the_prior(join):
    pair = exact_pair(join)
    data = draws(pair, 4)
    none = {f"{name}_present": torch.tensor([True, False, True, True]) for name in SHAPES}
    z = torch.randn(4, L, dtype=torch.float64)
    q = pair.guide.posterior(*pair.guide.modalities.given(data | none))
    torch.testing.assert_close(q.log_prob(z)[1], torch.distributions.Normal(0, 1).log_prob(z[1]).sum())


def test_diagonal_precisions_add():
    guide = Experts(SHAPES, L, hidden=(3,))
    data = {name: torch.randn(6, D) for name, D in SHAPES.items()}
    experts = [guide.posterior.experts[name](x) for name, x in data.items()]
    precision = 1 + sum(A for _, A in experts)
    q = guide.posterior(data, {})
    torch.testing.assert_close(q.variance, 1 / precision)
    torch.testing.assert_close(q.mean, sum(h for h, _ in experts) / precision)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_an_expert_by_its_mean_is_a_normal_around_it(covariance):
    torch.manual_seed(0)
    guide = Experts(SHAPES, L, hidden=(), covariance=covariance, location="mean").double()
    x, grid = torch.randn(6, 4, dtype=torch.float64), torch.randn(3, 6, L, dtype=torch.float64)
    _, A = guide.posterior.experts["a"](x)
    mean, precision = (
        guide.posterior.experts["a"].network(x)[..., :L],
        A if covariance == "full" else torch.diag_embed(A),
    )
    expert = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    prior = torch.distributions.Normal(0.0, 1.0)
    q = guide.posterior({"a": x}, {})
    rest = q.log_prob(grid) - expert.log_prob(grid) - prior.log_prob(grid).sum(-1)  # the constant of each datum
    torch.testing.assert_close(rest, rest[:1].expand(3, 6))


@pytest.mark.slow
def test_one_step_of_training_moves_towards_the_exact_value():
    pair = exact_pair("mixture", trust=0.6)
    data = draws(pair, 64)
    run = ppl_vae.fit(pair, data, objective=ELBO(2), epochs=15, lr=1e-2, batch_size=16, dtype="float64", progress=False)
    assert run.history["train_bound"][-1] > run.history["train_bound"][0]


class TestPrograms:
    def test_others_are_drawn_where_some_are_given(self):
        pair = exact_pair()
        data = draws(pair, 6)
        made = pair.generate(6, b=data["b"])
        assert torch.equal(made["b"], data["b"])
        assert made.keys() == {"z", *SHAPES}
        assert made["a"].shape == (6, 4)

    @pytest.mark.parametrize("join", JOINS)
    def test_reconstructs_what_is_there_and_translates_what_is_not(self, join):
        pair = exact_pair(join)
        data = draws(pair, 6)
        for batch in (data, only(data, "a"), data | some_missing(THREE, 6)):
            means = pair.reconstruct(batch)
            assert {name: mean.shape for name, mean in means.items()} == {
                name: x.shape for name, x in values_of(batch).items()
            }
        z = pair.posterior(only(data, "a"))["z"][0]
        for name, (W, b, _) in layers(pair).items():
            torch.testing.assert_close(pair.decode({"z": z})[name], z @ W.T + b)

    def test_shapes_of_more_dimensions(self):
        shapes = {"picture": (2, 3), "label": 4}
        given = {"picture": "bernoulli", "label": "one-hot"}
        pair = Pair(CrossModal(shapes, L, likelihood=given, hidden=(5,)), Experts(shapes, L, hidden=(5,)))
        drawn = pair.generate(7)
        batch = {name: drawn[name] for name in shapes}
        assert batch["picture"].shape == (7, 2, 3)
        assert (batch["label"].sum(-1) == 1).all()
        assert pair.check(batch).observed == ("picture", "label")
        assert pair.log_weights(batch, 3).shape == (3, 7)
        assert pair.reconstruct(batch)["picture"].shape == (7, 2, 3)
        # What stands where there is no label need not be one.
        hidden = batch | {"label": torch.zeros(7, 4), "label_present": torch.zeros(7, dtype=torch.bool)}
        assert pair.check(hidden).observed == ("picture", "label")
        with pytest.raises(InputError, match="support"):
            pair.check(hidden | {"label_present": torch.arange(7) < 1})

    def test_networks_of_one_s_own(self):
        shapes = {"a": 4, "b": (2, 3)}
        decoder, encoder = MLP(L, 6, (3,)), MLP(6, 2 * L, (3,))
        model = CrossModal(shapes, L, decoders={"b": decoder}, likelihood="normal")
        guide = Experts(shapes, L, encoders={"b": encoder})
        assert model.decoders["b"].network is decoder
        assert guide.posterior.experts["b"].network is encoder
        batch = {"a": torch.randn(5, 4), "b": torch.randn(5, 2, 3)}
        assert Pair(model, guide).log_weights(batch, 2).shape == (2, 5)
        wrong = Experts(shapes, L, encoders={"b": MLP(6, 2 * L + 1)})
        with pytest.raises(InputError, match="output of the encoder of b"):
            Pair(model, wrong).log_weights(batch)

    def test_each_modality_learns_its_own_noise(self):
        model = CrossModal({"a": 4, "b": 3}, L, likelihood=Normal("learned"))
        assert model.decoders["a"].likelihood.log_scale is not model.decoders["b"].likelihood.log_scale

    def test_a_likelihood_for_each(self):
        model = CrossModal({"a": 4, "b": 3}, L, likelihood={"a": "bernoulli", "b": "normal-decoder"})
        assert isinstance(model.decoders["a"].likelihood, likelihoods.Bernoulli)
        assert model.decode(torch.zeros(2, L), "b").event_shape == (3,)


A, Z = torch.randn(5, 4), torch.zeros(5, dtype=torch.bool)


def model(**options):
    return CrossModal(SHAPES, L, hidden=(), **options)


def guide(**options):
    return Experts(SHAPES, L, hidden=(), **options)


def pair():
    return Pair(model(), guide())


def hands():
    shapes = {"joints2d": 4, "joints3d": 4}
    return Pair(CrossModal(shapes, L, hidden=()), Experts(shapes, L, hidden=()))


BAD = {
    "no modalities": (lambda: CrossModal({}, L), "modalities: expected a mapping of names to shapes; got {}"),
    "no mapping": (lambda: Experts(["a"], L), "modalities: expected a mapping"),
    "a name that is taken": (lambda: CrossModal({"data": 3}, L), "modality: expected a name for an argument .*'data'"),
    "a name torch has": (lambda: Experts({"values": 3}, L), "modality: expected a name for an argument"),
    "a name for a mask": (lambda: CrossModal({"a_present": 3}, L), "modality: expected a name for an argument"),
    "no name": (lambda: CrossModal({"2d": 3}, L), "got '2d'; try 'x_2d'"),
    "a shape": (lambda: CrossModal({"a": 0}, L), "shape of a: expected an integer >= 1; got 0"),
    "latent_dim": (lambda: Experts(SHAPES, 0), "latent_dim: expected an integer >= 1"),
    "join": (lambda: guide(join="products"), "unknown join: .*; got 'products'; try 'product'"),
    "covariance": (lambda: guide(covariance="ful"), "unknown covariance: .* try 'full'"),
    "location": (lambda: guide(location="men"), "unknown location: .* try 'mean'"),
    "likelihood of another": (
        lambda: CrossModal({"depth": 3, "joints": 2}, L, likelihood={"dept": "normal", "joints": "normal"}),
        "unknown modality: expected one of depth, joints; got 'dept'; try 'depth'",
    ),
    "no likelihood": (lambda: model(likelihood={"a": "normal"}), "likelihood of b: expected one; got none"),
    "decoder of another": (
        lambda: CrossModal({"depth": 3}, L, decoders={"deph": MLP(L, 3)}),
        "unknown modality: .*'deph'; try 'depth'",
    ),
    "encoder of another": (
        lambda: Experts({"depth": 3}, L, encoders={"deph": MLP(3, 2 * L)}),
        "unknown modality: .*'deph'; try 'depth'",
    ),
    "an unknown argument": (lambda: CrossModal({"depth": 3}, L)(deph=A), "unknown modality: .*'deph'; try 'depth'"),
    "decoded by another name": (
        lambda: CrossModal({"depth": 3}, L).decode(torch.zeros(1, L), "deph"),
        "unknown modality: .* try 'depth'",
    ),
    "lengths": (lambda: model()(a=A, b=torch.randn(4, 3)), "modalities: expected equally many rows; got a 5, b 4"),
    "lengths of a guide": (lambda: guide()(a=A, b=torch.randn(4, 3)), "modalities: expected equally many rows"),
    "lengths of a batch": (
        lambda: pair().check({"a": A, "b": torch.randn(4, 3)}),
        "batch: expected tensors of one leading length; got a 5, b 4",
    ),
    "size": (lambda: model()(a=A, size=3), "size: expected 5, the rows of the modalities; got 3"),
    "nothing to a model": (lambda: model()(), "model: expected one of a, b, c to score, or size; got neither"),
    "nothing to a guide": (lambda: guide()(), "guide: expected at least one modality; got none; try a, b, c"),
    "a mask to a guide": (lambda: guide()(a_present=Z), "guide: expected at least one modality; got none"),
    "shape": (lambda: pair().check({"a": torch.randn(5, 3)}), r"a: expected last dimension 4; got \(5, 3\)"),
    "one datum": (lambda: model()(a=A[0]), r"a: expected a batch \(B, 4\); got \(4,\)"),
    "length of a mask": (
        lambda: model()(a=A, a_present=Z[:3]),
        r"a_present: expected a boolean mask of shape \(5,\); got torch.bool, \(3,\)",
    ),
    "shape of a mask": (lambda: guide()(a=A, a_present=Z[:, None]), "a_present: expected a boolean mask of shape"),
    "type of a mask": (lambda: pair().check({"a": A, "a_present": Z.float()}), "boolean mask.*got torch.float32"),
    "every modality missing": (
        lambda: pair().check({"a": A, "b": A[:, :3], "a_present": torch.arange(5) < 2, "b_present": Z}),
        "modalities: expected at least one of each datum; got none in row 2",
    ),
    "every modality missing in a fit": (
        lambda: ppl_vae.fit(pair(), {"a": A, "a_present": Z}, epochs=1, batch_size=5, progress=False),
        "modalities: expected at least one of each datum; got none in row 0",
    ),
    "not finite": (lambda: pair().check({"a": A / 0}), "a: expected finite values"),
    "not finite, for a posterior": (lambda: pair().posterior({"a": A / 0}), "a: expected finite values"),
    "every modality missing, for a posterior": (
        lambda: pair().posterior_mean({"a": A, "a_present": Z}),
        "modalities: expected at least one of each datum; got none in row 0",
    ),
    "a name of a batch": (
        lambda: hands().check({"joint2d": A, "joints3d": A}),
        "unknown argument: expected one of joints2d, .*; got 'joint2d'; try 'joints2d'",
    ),
    "a name of a mask of a batch": (
        lambda: hands().check({"joints2d": A, "joint2d_present": Z}),
        "unknown argument: .* got 'joint2d_present'; try 'joints2d_present'",
    ),
    "a mask that is not taken": (
        lambda: Pair(VAE(4, L), AmortizedNormal(4, L)).check({"x": A, "x_present": Z}),
        "x_present: expected a mask that the programs take; got programs without one; try leaving out the rows that",
    ),
}


def test_what_no_program_takes_is_left_out():
    flat = Pair(CrossModal({"joints2d": 4}, L, hidden=()), Experts({"joints2d": 4}, L, hidden=()))
    assert flat.arguments({"joints2d": A, "joints3d": A, "joints3d_present": Z, "unit": A}).keys() == {"joints2d"}
    assert hands().arguments({"joints3d": A, "joints4d": A, "depth": A}).keys() == {"joints3d"}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_reported_in_one_line(case):
    build, message = BAD[case]
    with pytest.raises(InputError) as caught:
        build()
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)
