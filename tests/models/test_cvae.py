"""The conditional VAE: exact where it is affine; conditions and their errors; data in part; the command line."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import scipy.stats
import torch
from estimates import SE
from pairs import PAIRS, B, C, D, L
from pyro.nn import PyroModule
from tiers import fast_in

import ppl_vae
from ppl_vae import Pair, exact, zoo
from ppl_vae.cli import run as command
from ppl_vae.core.errors import InputError
from ppl_vae.data import from_tensors, given_labels, given_quadrants, hidden_pixels, whole_pictures
from ppl_vae.evaluation.annealing.sandwich import sandwich
from ppl_vae.guides import ConditionalNormal
from ppl_vae.models import CVAE
from ppl_vae.nn import ConditionalPrior, likelihoods
from ppl_vae.nn.conditioning import Condition
from ppl_vae.nn.conv import ConvDecoder
from ppl_vae.nn.mlp import MLP
from ppl_vae.objectives import ELBO

F64 = torch.float64
KINDS = {"labels": {"num_classes": C}, "numbers": {"c_shape": 3}, "images": {"c_shape": (2, 2)}}


def conditions(kind, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if "num_classes" in kind:
        return torch.randint(kind["num_classes"], (size,), generator=generator)
    shape = kind["c_shape"] if isinstance(kind["c_shape"], tuple) else (kind["c_shape"],)
    return torch.randn(size, *shape, generator=generator, dtype=F64)


def affine_pair(prior, kind, scale=0.7):
    """A CVAE without hidden layers, and a guide wider than its posteriors, so that weights have a variance."""
    torch.manual_seed(0)
    pair = Pair(
        CVAE(D, L, prior=prior, hidden=(), likelihood=likelihoods.Normal(scale), **kind),
        ConditionalNormal(D, L, hidden=(), **kind),
    ).double()
    for parameter in pair.model.parameters():
        parameter.data.normal_(std=0.5)
    if prior == "conditional":  # narrower than the guide, for all conditions
        net = pair.model.prior.network.layers[-1]
        net.weight.data *= 0.3
        net.bias.data[L:] = -0.5
    last = pair.guide.posterior.network.layers[-1]
    last.weight.data[:L] *= 0.3
    last.weight.data[L:] = 0
    last.bias.data[L:] = 0.3
    return pair


def code(kind, c):
    return torch.eye(C, dtype=F64)[c] if "num_classes" in kind else c.flatten(1)


def mixing(pair, kind, c, scale=0.7):
    """W S(c), b(c) and s of p(x|c) = N(b(c), W S(c)^2 W' + s^2 I), read off the parameters."""
    layer, given = pair.model.decode.network.layers[-1], code(kind, c)
    W, U = layer.weight[:, :L], layer.weight[:, L:]
    mean, spread = torch.zeros(len(c), L, dtype=F64), torch.ones(len(c), L, dtype=F64)
    if isinstance(pair.model.prior, ConditionalPrior):
        net = pair.model.prior.network.layers[-1]
        mean, log_spread = (given @ net.weight.T + net.bias).chunk(2, -1)
        spread = log_spread.exp()
    return (W * spread[:, None]).detach(), (mean @ W.T + given @ U.T + layer.bias).detach(), scale


def exact_log_marginal(pair, kind, x, c):
    weight, bias, scale = mixing(pair, kind, c)
    return exact.log_marginal(x[:, None], weight, bias, torch.tensor(scale, dtype=F64))[:, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prior", ["standard", "conditional"])
class TestAffine:
    """log p(x|c) = log N(x; W m(c) + U c + b, W S(c)^2 W' + s^2 I)."""

    def make(self, prior, kind):
        pair, kind = affine_pair(prior, KINDS[kind]), KINDS[kind]
        c = conditions(kind, 40)
        x = pair.generate(c=c)["x"]
        return pair, kind, x, c

    @pytest.mark.parametrize("method", fast_in({"importance"}, ["importance", "prior"]))
    def test_estimates_agree_with_the_exact_value(self, prior, kind, method):
        pair, kind, x, c = self.make(prior, kind)
        wanted = exact_log_marginal(pair, kind, x, c)
        K = 4000
        ll = ppl_vae.log_likelihood(pair, {"x": x, "c": c}, method=method, num_particles=K, seed=3)
        assert ll.quantity == "log p(x | c)"
        # By the delta method the logarithm of a mean has variance v = (K / ESS - 1) / K and bias -v/2.
        variance = (K / ll.effective_sample_size.double() - 1) / K
        scores = (ll.values - wanted) / variance.sqrt()
        assert scores.abs().max() < SE
        assert scores.mean().abs() < SE / len(scores) ** 0.5
        assert abs(ll.mean - float(wanted.mean())) < SE * ll.standard_error
        # With the conditions in another order it would be seen.
        other = exact_log_marginal(pair, kind, x, c.roll(1, 0))
        assert abs(ll.mean - float(other.mean())) > 20 * ll.standard_error

    def test_the_exact_value_by_scipy(self, prior, kind):
        pair, kind, x, c = self.make(prior, kind)
        weight, bias, scale = mixing(pair, kind, c)
        wanted = [
            scipy.stats.multivariate_normal(b, W @ W.T + scale**2 * np.eye(D)).logpdf(row)
            for b, W, row in zip(bias.numpy(), weight.numpy(), x.numpy(), strict=True)
        ]
        np.testing.assert_allclose(exact_log_marginal(pair, kind, x, c), wanted, rtol=1e-9)

    def test_generates_its_conditional(self, prior, kind):
        pair, kind, _, c = self.make(prior, kind)
        count = 40_000
        x = pair.generate(c=c[:1].expand(count, *c.shape[1:]))["x"]
        weight, bias, scale = mixing(pair, kind, c[:1])
        covariance = weight[0] @ weight[0].T + scale**2 * torch.eye(D, dtype=F64)
        variance = covariance.diagonal()
        assert ((x.mean(0) - bias[0]).abs() < SE * (variance / count).sqrt()).all()
        standard_error = ((torch.outer(variance, variance) + covariance**2) / count).sqrt()
        assert ((torch.cov(x.T) - covariance).abs() < SE * standard_error).all()

    def test_bound_and_its_analytic_kl(self, prior, kind):
        pair, kind, x, c = self.make(prior, kind)
        batch = {"x": x, "c": c}
        with torch.no_grad():
            q, p = pair.guide.posterior(x, c), pair.model.prior(c)
            kl = exact.gaussian_kl(
                q.mean, q.variance.diag_embed(), p.mean.expand_as(q.mean), p.variance.expand_as(q.mean).diag_embed()
            )
            weights = pair.log_weights(batch, 4000)
            rate = ELBO(kl="analytic").distortion_and_rate(*pair.programs(), **batch)["rate"]
        torch.testing.assert_close(rate, kl.sum())
        bound, error = weights.mean(0), weights.std(0) / 4000**0.5
        distortion = expected_distortion(pair, kind, x, c, q)
        assert ((bound - (distortion - kl)).abs() < SE * error).all()
        assert (bound < exact_log_marginal(pair, kind, x, c) + SE * error).all()


@pytest.mark.slow
def test_annealing_agrees_with_the_exact_value():
    """Annealed importance sampling, and its bounds from both sides on data that the model drew."""
    kind = KINDS["labels"]
    pair, c = affine_pair("conditional", kind), conditions(kind, 40)
    x = pair.generate(c=c)["x"]
    wanted, how = exact_log_marginal(pair, kind, x, c), {"num_distributions": 20, "leapfrog_steps": 2}
    ais = ppl_vae.log_likelihood(
        pair, {"x": x, "c": c}, method="ais", num_particles=100, annealing=how, compile="off", seed=1
    )
    assert abs(ais.mean - float(wanted.mean())) < SE * ais.standard_error
    between = sandwich(pair, conditions={"c": c}, annealing=how, compile="off", seed=2)
    drawn = exact_log_marginal(pair, kind, between.batch["x"], c)
    error = ((between.lower - drawn).var() / len(c)) ** 0.5, ((between.upper - drawn).var() / len(c)) ** 0.5
    assert (between.lower - drawn).mean() < SE * error[0]
    assert (between.upper - drawn).mean() > -SE * error[1]


def expected_distortion(pair, kind, x, c, q, scale=0.7):
    """E_q[log p(x|z, c)] of an affine decoder: -1/2 [D log 2 pi s^2 + (|x - W m - U c - b|^2 + tr(W C W')) / s^2]."""
    layer = pair.model.decode.network.layers[-1]
    W, U = layer.weight[:, :L].detach(), layer.weight[:, L:].detach()
    residual = x - q.mean @ W.T - code(kind, c) @ U.T - layer.bias.detach()
    squares = residual.square().sum(-1) + (q.variance * W.square().sum(0)).sum(-1)
    return -0.5 * (D * math.log(2 * math.pi * scale**2) + squares / scale**2)


@pytest.mark.parametrize("prior", ["standard", "conditional"])
def test_labels_and_their_one_hot_codes_are_the_same_condition(prior):
    labels, codes = (
        Pair(CVAE(D, L, prior=prior, likelihood="normal", **kind), ConditionalNormal(D, L, **kind))
        for kind in ({"num_classes": C}, {"c_shape": C})
    )
    codes.load_state_dict(labels.state_dict())
    batch = PAIRS["cvae-labels-prior"].batch()
    scores = []
    for pair, c in ((labels, batch["c"]), (codes, torch.eye(C)[batch["c"]])):
        torch.manual_seed(0)
        scores.append(pair.log_weights({"x": batch["x"], "c": c}, 3))
    assert torch.equal(*scores)


def test_the_prior_is_one_for_all_or_the_condition_s_own():
    c = torch.arange(C)
    one = CVAE(D, L, num_classes=C).prior(c)
    assert (one.mean == 0).all()
    assert (one.stddev == 1).all()
    own = CVAE(D, L, num_classes=C, prior="conditional").prior(c)
    assert own.batch_shape == (C,)
    assert len(own.mean.unique(dim=0)) == C


def test_conditions_and_latents_come_in_the_pair_s_own_type():
    pair = Pair(CVAE(D, L, c_shape=3, prior="conditional"), ConditionalNormal(D, L, c_shape=3))
    c, z = torch.randn(B, 3, dtype=F64), torch.randn(B, L, dtype=F64)
    assert pair.generate(c=c)["x"].dtype == pair.decode({"z": z}, c=c)["x"].dtype == torch.float32
    torch.testing.assert_close(pair.decode({"z": z}, c=c)["x"], pair.model.decode(z.float(), c.float()).mean)


def test_the_guide_reads_the_condition():
    guide, x = ConditionalNormal(D, L, num_classes=C), torch.zeros(C, D)
    assert len(guide.posterior(x, torch.arange(C)).mean.unique(dim=0)) == C


@pytest.mark.parametrize("likelihood", [*likelihoods.NAMES])
@pytest.mark.parametrize("kind", fast_in({"numbers"}, KINDS))
def test_every_likelihood(likelihood, kind):
    kind = KINDS[kind]
    pair = Pair(
        CVAE((4, 2), L, hidden=(5,), likelihood=likelihoods.get(likelihood, levels=3), prior="conditional", **kind),
        ConditionalNormal((4, 2), L, hidden=(5,), **kind),
    )
    c = conditions(kind, B)
    c = c if "num_classes" in kind else c.float()
    x = pair.generate(c=c)["x"]
    assert x.shape == (B, 4, 2)
    assert pair.check({"x": x, "c": c}).observed == ("x",)
    assert pair.log_weights({"x": x, "c": c}, 3).shape == (3, B)
    assert pair.model.decode(torch.randn(5, 3, B, L), c).batch_shape == (5, 3, B)


def test_networks_of_one_s_own():
    image = (1, 8, 6)
    decoder = ConvDecoder(L + C, image, channels=(4, 3))
    prior, encoder = MLP(C, 2 * L, (5,)), MLP(48 + C, 2 * L, (5,))
    pair = Pair(
        CVAE(48, L, num_classes=C, prior="conditional", decoder=decoder, prior_network=prior),
        ConditionalNormal(48, L, num_classes=C, encoder=encoder),
    )
    assert pair.model.decode.network is decoder
    assert pair.model.prior.network is prior
    c = torch.arange(C)
    x = pair.generate(c=c)["x"]
    assert x.shape == (C, 48)
    assert pair.check({"x": x, "c": c}).latent_dim == L


@pytest.mark.slow
def test_a_fit_tells_classes_apart():
    """Two classes that lie apart: what is generated for a label lies where its data do, and log p(x|c) knows it."""
    torch.manual_seed(0)
    c = torch.arange(400) % 2
    x = torch.where(c[:, None] == 0, -2.0, 2.0) + 0.3 * torch.randn(400, 3)
    pair = Pair(
        CVAE(3, 1, num_classes=2, prior="conditional", hidden=(), likelihood="normal-learned"),
        ConditionalNormal(3, 1, num_classes=2, hidden=()),
    )
    ppl_vae.fit(pair, {"x": x, "c": c}, epochs=60, batch_size=50, lr=3e-2, progress=False)
    means = pair.generate(c=torch.arange(2).repeat_interleave(500))["x"].unflatten(0, (2, 500)).mean((1, 2))
    assert (means - torch.tensor([-2.0, 2.0])).abs().max() < 0.2
    right, wrong = (ppl_vae.log_likelihood(pair, {"x": x, "c": k}, num_particles=50).mean for k in (c, 1 - c))
    assert right > wrong + 10


def build(**arguments):
    return CVAE(D, L, **arguments)


LABELS, NUMBERS = {"num_classes": 3}, {"c_shape": (2, 2)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: build(),
            "condition: expected num_classes, for labels, or c_shape, for vectors and images; got",
        ),
        (lambda: build(c_shape=2, num_classes=2), "condition: expected num_classes, for labels, or c_shape"),
        (lambda: build(num_classes=0), "num_classes: expected an integer >= 1; got 0"),
        (lambda: build(c_shape=(3, 0)), "c_shape: expected an integer >= 1; got 0"),
        (
            lambda: build(**LABELS, prior="learned"),
            "unknown prior: expected one of conditional, standard; got",
        ),
        (
            lambda: build(**LABELS, prior_network=MLP(3, 2)),
            "prior_network: expected prior='conditional'; got prior='standard'",
        ),
        (
            lambda: build(**LABELS, prior="conditional", prior_network=MLP(3, 3))(c=torch.arange(3)),
            "output of the prior network: expected last dimension 4; got (3, 3)",
        ),
        (
            lambda: build(**LABELS, decoder=MLP(L + 3, 7))(c=torch.arange(3)),
            "output of the decoder: expected last dimension 8; got (3, 7)",
        ),
        (lambda: build(**LABELS)(size=5), "c: expected labels 0 to 2 to condition on; got none; try c=…"),
        (lambda: build(**NUMBERS)(size=5), "c: expected numbers of shape (2, 2) to condition on; got none; try c=…"),
        (lambda: build(**LABELS)(torch.zeros(6, D)), "c: expected labels 0 to 2 to condition on; got none"),
        (
            lambda: build(**LABELS)(c=torch.tensor([0, 2, 3])),
            "c: expected labels 0 to 2; got 3 in row 2; try counting classes from 0",
        ),
        (lambda: build(**LABELS)(c=torch.tensor([0, -1])), "c: expected labels 0 to 2; got -1 in row 1"),
        (
            lambda: build(**LABELS)(c=torch.tensor([0.0, 1.0])),
            "c: expected whole-numbered labels; got torch.float32; try c.long(), or c_shape=… for vectors of numbers",
        ),
        (lambda: build(**LABELS)(c=torch.tensor([True])), "c: expected whole-numbered labels; got torch.bool"),
        (
            lambda: build(**NUMBERS)(c=torch.zeros(3, 2, 2).long()),
            "c: expected floating-point numbers; got torch.int64; try c.float()",
        ),
        (lambda: build(**NUMBERS)(c=torch.zeros(3, 2)), "c: expected last dimensions (2, 2); got (3, 2)"),
        (lambda: build(**NUMBERS)(c=torch.zeros(2, 2)), "c: expected a batch (B, 2, 2); got (2, 2); try c[None]"),
        (lambda: build(**LABELS)(c=torch.tensor(1)), "c: expected a batch (B); got (); try c[None]"),
        (
            lambda: build(**LABELS)(torch.zeros(6, D), torch.zeros(5).long()),
            "c: expected 6 rows, as x has; got 5",
        ),
        (lambda: build(**LABELS)(size=4, c=torch.arange(3)), "size: expected 3, the rows of c; got 4"),
        (
            lambda: build(**LABELS).decode(torch.zeros(7, 5, L), torch.arange(3)),
            "c: expected rows (7, 5), as z or x has; got (3,)",
        ),
        (
            lambda: ConditionalNormal(D, L, **LABELS)(torch.zeros(6, D), torch.zeros(5).long()),
            "c: expected 6 rows, as x has; got 5",
        ),
        (lambda: ConditionalNormal(D, L, **LABELS)(torch.zeros(6, D)), "c: expected labels 0 to 2 to condition on"),
        (lambda: ConditionalNormal(D, L), "condition: expected num_classes"),
        (lambda: Condition(num_classes=True), "num_classes: expected an integer >= 1; got True"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(InputError, match=re.escape(message)):
        call()


def labelled(**changes):
    pair = Pair(build(**LABELS, likelihood="normal"), ConditionalNormal(D, L, **LABELS))
    return pair, {"x": torch.randn(50, D), "c": torch.arange(50) % 3} | changes


@pytest.mark.parametrize("use", [ppl_vae.fit, ppl_vae.log_likelihood, Pair.check])
@pytest.mark.parametrize(
    ("c", "message"),
    [
        # In the last row, which no check on a few rows sees, and which a recorded step could not look at.
        (torch.arange(50).clamp(max=49) // 49 * 3, "c: expected labels 0 to 2; got 3 in row 49"),
        (torch.zeros(50), "c: expected whole-numbered labels; got torch.float32"),
    ],
)
def test_bad_labels_in_data(use, c, message):
    pair, batch = labelled(c=c)
    with pytest.raises(InputError, match=re.escape(message)):
        use(pair, batch)


def test_data_without_conditions_or_of_another_length():
    pair, batch = labelled()
    for use in (ppl_vae.fit, ppl_vae.log_likelihood):
        with pytest.raises(InputError, match=r"^c: expected labels 0 to 2 to condition on; got none"):
            use(pair, {"x": batch["x"]})
    with pytest.raises(InputError, match=r"x 50, c 49|c.*49"):
        pair.check({"x": batch["x"], "c": batch["c"][:49]})
    with pytest.raises(InputError, match=r"^c: expected labels 0 to 2 to condition on; got none; try c=…$"):
        pair.generate(5)
    with pytest.raises(InputError, match=r"^c: expected 5 rows, as size says; got 50$"):
        pair.generate(5, c=batch["c"])
    with pytest.raises(InputError, match=r"^c: expected labels 0 to 2 to condition on"):
        pair.decode({"z": torch.zeros(5, L)})


def test_a_program_of_one_s_own_may_check_values():
    class Picky(PyroModule):
        def __init__(self, program):
            super().__init__()
            self.program = program

        def forward(self, x=None, size=None):
            return self.program(x, size)

        def check_values(self, x):
            if float(x.max()) > 5:
                raise InputError("x", expected="at most 5", got=str(float(x.max())))

    model, guide = PAIRS["ppca-linear"].build()
    pair, x = Pair(Picky(model), guide), torch.zeros(40, D)
    pair.check({"x": x})
    x[-1, 0] = 7
    with pytest.raises(InputError, match=r"^x: expected at most 5; got 7\.0$"):
        ppl_vae.fit(pair, {"x": x})


# -- data in part ---------------------------------------------------------------------------------------------------


def pictures(binarization="none", shape=(2, 4, 5), size=20):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(size, math.prod(shape), generator=generator)
    y = torch.randint(3, (size,), generator=generator)
    return from_tensors({"x": x, "y": y}, image_shape=shape, binarization=binarization)


def test_quadrants_by_hand():
    seen = [~hidden_pixels((1, 4, 6), given).reshape(4, 6) for given in (1, 2, 3)]
    lower, left = torch.arange(4)[:, None] >= 2, torch.arange(6) < 3
    assert torch.equal(seen[0], lower & left)
    assert torch.equal(seen[1], left.expand(4, 6))
    assert torch.equal(~seen[2], lower & ~left)
    assert [int(hidden_pixels((3, 28, 28), given).sum()) for given in (1, 2, 3)] == [3 * 588, 3 * 392, 3 * 196]
    assert [int(hidden_pixels((1, 5, 3), given).sum()) for given in (1, 2, 3)] == [15 - 3, 15 - 5, 6]


@pytest.mark.parametrize("given", [1, 2, 3])
@pytest.mark.parametrize("binarization", ["none", "fixed"])
def test_quadrants_of_data(given, binarization):
    data = pictures(binarization)
    part = given_quadrants(data, given)
    hidden = hidden_pixels((2, 4, 5), given)
    for role, split in part.splits.items():
        whole = data.splits[role]
        assert split["x"].shape == (whole.size, int(hidden.sum())) == (whole.size, *part.spec.x_shape)
        assert (split["c"][:, hidden] == -1).all()  # nothing of x leaks into c
        assert torch.equal(split["c"][:, ~hidden], whole["x"][:, ~hidden])
        assert torch.equal(whole_pictures(split["x"], split["c"], (2, 4, 5), given), whole["x"])
        assert torch.equal(split["y"], whole["y"])
    assert (part.spec.support, part.spec.binarization) == (data.spec.support, binarization)
    many = whole_pictures(torch.zeros(7, 3, int(hidden.sum())), part.test["c"][:1], (2, 4, 5), given)
    assert many.shape == (7, 3, 40)


def test_labels_of_data():
    data = given_labels(pictures("dynamic"))
    assert torch.equal(data.train["c"], data.train["y"])
    batch = data.train.batch(slice(4))
    assert set(batch["x"].unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(batch["c"], data.train["y"][:4])
    pair = zoo.build("cvae", data.spec, latent_dim=2, hidden=(4,))
    assert pair.check(data.train).observed == ("x",)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *(
            (
                lambda given=given: given_quadrants(pictures(), given),
                f"given: expected 1, 2 or 3 quadrants; got {given!r}",
            )
            for given in (0, 4, -1, True, 1.5, "1")
        ),
        (
            lambda: given_quadrants(pictures("dynamic"), 1),
            "quadrants: expected binarization 'none' or 'fixed'; got 'dynamic'; try 'fixed'",
        ),
        (
            lambda: given_quadrants(from_tensors(torch.rand(20, 4)), 1),
            "quadrants: expected data with an image shape; got own; try image_shape=(1, H, W)",
        ),
        (lambda: hidden_pixels((4, 4), 1), "image_shape: expected (channels, height, width); got (4, 4)"),
        (lambda: given_labels(from_tensors(torch.rand(20, 4))), "labels of own: expected a whole-numbered y; got none"),
        (
            lambda: zoo.build("cvae", from_tensors(torch.rand(20, 4)).spec),
            "pair 'cvae': expected data with labels y; got own",
        ),
    ],
)
def test_bad_data(call, message):
    with pytest.raises(InputError, match=re.escape(message)):
        call()


# -- from the shell -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_line(tmp_path, capsys):
    folder = tmp_path / "run"
    tiny = ["--epochs", "1", "--latent-dim", "2", "--hidden", "8", "--device", "cpu", "--compile", "off"]
    assert (
        command(
            ["fit", "cvae", "--data", "digits", "--run-dir", str(folder), *tiny, "--pair-option", "prior=conditional"]
        )
        == 0
    )
    assert command(["evaluate", str(folder), "--num-particles", "10"]) == 0
    out = capsys.readouterr().out
    assert "log p(x | c) = " in out
    assert "the data are those of the fit" in out
    for name, option in (("draws.npz", []), ("means.npz", ["--mean"]), ("means.png", ["--mean"])):
        assert command(["sample", str(folder), "--n", "23", "--out", str(tmp_path / name), *option]) == 0
    drawn = np.load(tmp_path / "draws.npz")
    assert drawn["x"].shape == (23, 64)
    assert drawn["c"].tolist() == [k % 10 for k in range(23)]
    assert command(["report", str(folder), "--num-particles", "10"]) == 0
    page = (folder / "report.html").read_text()
    assert "Left out" not in page
    run = ppl_vae.load(folder)
    assert isinstance(run.pair.model, CVAE)
    assert isinstance(run.pair.model.prior, ConditionalPrior)
