"""Hierarchical pairs against linear-Gaussian hierarchies, whose log p(x) and every posterior are known."""

from __future__ import annotations

import copy
import re

import pyro
import pytest
import torch
from estimates import SE
from linear_hierarchies import (
    GUIDES,
    NOISE,
    data_of,
    joint,
    linear_model,
    linear_pair,
    make_exact,
    posterior_of,
    spread,
)
from pairs import PAIRS, D
from pyro.nn import PyroModule
from tiers import fast_in
from torch import nn

import ppl_vae
from ppl_vae import Pair, zoo
from ppl_vae.core.errors import InputError, PairError
from ppl_vae.core.process import isolated
from ppl_vae.guides import AmortizedNormal, BottomUp, Ladder, TopDown
from ppl_vae.models import VAE, Hierarchical
from ppl_vae.nn.conv import ConvEncoder
from ppl_vae.nn.mlp import MLP
from ppl_vae.nn.normals import product as merge
from ppl_vae.objectives import ELBO
from ppl_vae.pairs import sites as traces

F64 = torch.float64
SIZES = ((2, 1), (3, 2, 2))


# -- against the closed forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent_dims", [(1,), (1, 1), (1, 1, 1)])
@pytest.mark.parametrize("kind", GUIDES)
def test_a_guide_set_to_the_posterior_gives_every_weight_the_value_log_p_x(kind, latent_dims):
    pair = linear_pair(kind, latent_dims)
    make_exact(pair, kind)
    batch = data_of(pair)
    wanted = joint(pair.model).log_prob(x=batch["x"])
    with torch.no_grad():
        torch.testing.assert_close(pair.log_weights(batch, 5), wanted.expand(5, -1), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bottom-up", "top-down"])
@pytest.mark.parametrize("latent_dims", SIZES)
def test_importance_weighting_agrees_with_log_p_x(kind, latent_dims):
    check_importance(kind, latent_dims)


@pytest.mark.parametrize("latent_dims", [(1, 1), (1, 1, 1)])
def test_importance_weighting_with_a_ladder_agrees_with_log_p_x(latent_dims):
    check_importance("ladder", latent_dims)


def check_importance(kind, latent_dims, K=4000):
    pair = linear_pair(kind, latent_dims)
    make_exact(pair, kind, widened=1.4)
    batch = data_of(pair, 30)
    wanted = joint(pair.model).log_prob(x=batch["x"])
    ll = ppl_vae.log_likelihood(pair, batch, num_particles=K, seed=1)
    variance = (K / ll.effective_sample_size.double() - 1) / K  # by the delta method
    assert ((ll.values - wanted) / variance.sqrt()).abs().max() < SE
    assert abs(ll.mean - float(wanted.mean())) < SE * ll.standard_error
    assert float(ll.standard_error) < 0.01


@pytest.mark.parametrize("latent_dims", fast_in({(3, 2, 2)}, SIZES))
@pytest.mark.parametrize("kind", GUIDES)
def test_bound_and_rates_agree_with_the_closed_forms(kind, latent_dims):
    """ELBO = log p(x) - KL(q || p(z|x)); the sum of the layers' rates is KL(q(z1, ..., zL|x) || p(z1, ..., zL))."""
    pair, K = linear_pair(kind, latent_dims), 20_000
    batch = data_of(pair, 4)
    p, q = joint(pair.model), posterior_of(pair, kind, batch["x"])
    wanted = p.log_prob(x=batch["x"]) - q.kl(p.given(x=batch["x"]))
    rate_wanted = q.kl(p.marginal(*q.sizes))
    with isolated(0), torch.no_grad():
        distortion, rate = ELBO(K).terms(traces.trace_pair(*pair.programs(), (), batch, K))
        rates = sum(term.expand(K, 4) for term in rate.values())
    for draws, value in ((-distortion["x"] - rates, wanted), (rates, rate_wanted)):
        error = draws.std(0) / K**0.5
        assert ((draws.mean(0) - value).abs() < SE * error + 1e-9).all()
    assert (wanted < p.log_prob(x=batch["x"]) - 0.01).all()


@pytest.mark.parametrize("latent_dims", SIZES)
@pytest.mark.parametrize("kind", GUIDES)
def test_the_kl_has_a_closed_form_only_where_guide_and_model_share_their_parents(kind, latent_dims):
    pair, top = linear_pair(kind, latent_dims), f"z{len(latent_dims)}"
    batch = data_of(pair)
    found = {}
    for kl in ("auto", "sampled"):
        with isolated(0), torch.no_grad():
            found[kl] = ELBO(kl=kl).terms(traces.trace_pair(*pair.programs(), (), batch))[1]
    closed = {name for name in found["auto"] if not torch.equal(found["auto"][name], found["sampled"][name])}
    assert closed == ({top} if kind == "bottom-up" else set(found["auto"]))
    analytic = ELBO(kl="analytic")
    if kind == "bottom-up":
        with pytest.raises(PairError, match=r"z[12]'.*closed form.*conditions on latents the guide draws later"):
            analytic.loss(*pair.programs(), **batch)
        with pytest.raises(PairError, match="free bits"):
            ELBO(free_bits=0.1).loss(*pair.programs(), **batch)
    else:
        analytic.loss(*pair.programs(), **batch)


@pytest.mark.parametrize("latent_dims", SIZES)
@pytest.mark.parametrize("kind", GUIDES)
def test_free_bits_of_all_layers_or_of_some(kind, latent_dims):
    pair, top = linear_pair(kind, latent_dims), f"z{len(latent_dims)}"
    batch, every = data_of(pair), {f"z{k}": 100.0 for k in range(1, len(latent_dims) + 1)}
    for free in ({top: 100.0}, *((every, 100.0) if kind != "bottom-up" else ())):
        with isolated(0), torch.no_grad():
            loss = ELBO(free_bits=free).differentiable_loss(*pair.programs(), **batch)
        with isolated(0), torch.no_grad():  # what is reported is without
            distortion, rate = ELBO(free_bits=free).terms(traces.trace_pair(*pair.programs(), (), batch))
        freed = free if isinstance(free, dict) else every
        rest = sum(term.sum() for name, term in rate.items() if name not in freed)
        nats = sum(100.0 * size * 12 for k, size in enumerate(latent_dims, start=1) if f"z{k}" in freed)
        torch.testing.assert_close(loss, distortion["x"].sum() + rest + nats)


def tree(latent_dims, x_dim=6):
    """A linear model whose posterior factorises, as a ladder's layers do: each z_k + 1 drives units z_k of its own.

    W has orthogonal columns, and each V_k columns without a row in common, so that what x says of a layer has a
    diagonal precision (shown by `exact.hierarchy`, below).
    """
    model = linear_model(latent_dims, x_dim).double()
    generator = torch.Generator().manual_seed(2)
    W, _ = torch.linalg.qr(torch.randn(x_dim, latent_dims[0], generator=generator, dtype=F64))
    decoder = model.decode.network.layers[-1]
    decoder.weight.data.copy_(W)
    decoder.bias.data.copy_(0.3 * torch.randn(x_dim, generator=generator, dtype=F64))
    for head, size, above in zip(model.conditionals, latent_dims, latent_dims[1:], strict=False):
        V = torch.zeros(size, above, dtype=F64)
        V[torch.arange(size), torch.arange(size) % above] = 0.7 + 0.5 * torch.rand(size, generator=generator, dtype=F64)
        head.network.set(V, 0.3 * torch.randn(size, generator=generator, dtype=F64), torch.full((size,), 0.7))
    model.decode.likelihood.log_scale.data.fill_(NOISE).log_()
    return model


@pytest.mark.slow
@pytest.mark.parametrize("latent_dims", [(4, 2), (4, 2, 1)])
def test_the_bound_of_a_ladder_reaches_the_exact_log_p_x_after_training(latent_dims):
    """By 0.02 nats or less, with model and guide trained together, the guide from scratch."""
    model = tree(latent_dims)
    make_exact(exactly := Pair(model, Ladder(model, hidden=())).double(), "ladder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = Pair(model, Ladder(model, hidden=()))
    for one in (exactly, pair):  # what x says is at first equally sharp for all x
        for network, size in zip(one.guide.evidence.networks, latent_dims, strict=True):
            network.layers[-1].weight.data[size:] = 0
    batch = data_of(pair, 300)
    with torch.no_grad():  # the family holds the posterior
        wanted = joint(model).log_prob(**batch)
        torch.testing.assert_close(exactly.log_weights(batch, 3), wanted.expand(3, -1), rtol=1e-9, atol=1e-9)

    def gap():
        with isolated(0), torch.no_grad():
            gaps = (joint(model).log_prob(**batch) - pair.log_weights(batch, 400)).mean(1)
        return float(gaps.mean()), float(gaps.std() / 400**0.5)

    pair.double()
    assert gap()[0] > 1
    ppl_vae.fit(pair, batch, epochs=600, batch_size=300, lr=3e-2, schedule="cosine", compile="graph", dtype="float64")
    left, error = gap()
    assert error < 0.002
    assert -SE * error < left < 0.02 - SE * error
    assert joint(model).log_prob(**batch).mean() > wanted.mean() - 0.2  # and the model is still one of these data


def test_a_unit_that_only_hands_on_what_is_above_costs_nothing():
    """Its noise vanishes, and what is left of its KL must not be rounding errors."""
    pair = linear_pair("ladder", (2, 2)).float()
    pair.model.conditionals[0].network.a.data.fill_(-60.0)
    batch = data_of(pair)
    ELBO().differentiable_loss(*pair.programs(), **batch).backward()
    assert all(parameter.grad.isfinite().all() for parameter in pair.parameters())
    _, rate = ELBO().terms(traces.trace_pair(*pair.programs(), (), batch))
    assert (rate["z1"].abs() < 1e-3).all()


# -- the ladder and its model ----------------------------------------------------------------------------------------


def test_merging_is_multiplying_densities():
    torch.manual_seed(0)
    m, n, s, t = torch.randn(2, 3, dtype=F64), torch.randn(3, dtype=F64), torch.rand(3).double(), torch.rand(3).double()
    first, second = (pyro.distributions.Normal(*both).to_event(1) for both in ((m, s + 0.1), (n, t + 0.1)))
    both = merge(first, second)
    z = torch.randn(50, 2, 3, dtype=F64)
    left = first.log_prob(z) + second.log_prob(z) - both.log_prob(z)
    torch.testing.assert_close(left, left[:1].expand_as(left))
    torch.testing.assert_close(both.mean, merge(second, first).mean)
    for scale, wanted in ((1e-15, first), (1e15, second)):  # x says all there is to say, or nothing
        extreme = pyro.distributions.Normal(first.mean, torch.full_like(m, scale)).to_event(1)
        torch.testing.assert_close(merge(extreme, second).mean, wanted.mean.expand(2, 3))


def test_the_ladder_holds_none_of_the_models_parameters():
    pair = Pair(*PAIRS["ladder-3"].build())
    own = {id(parameter) for parameter in pair.guide.parameters()}
    assert not own & {id(parameter) for parameter in pair.model.parameters()}
    assert not any("conditional" in name for name in pair.guide.state_dict())
    # And yet the gradient of log q(z|x) reaches the model's conditionals: z1's spread has p(z1|z2)'s in it.
    trace = pyro.poutine.trace(pair.guide).get_trace(**PAIRS["ladder-3"].batch())
    trace.nodes["z1"]["fn"].stddev.sum().backward()
    assert all(parameter.grad is not None for parameter in pair.model.conditionals[0].parameters())


def test_a_copy_and_a_loaded_run_have_a_ladder_of_their_own_model(tmp_path):
    pair, batch = Pair(*PAIRS["ladder-batch-norm"].build()), PAIRS["ladder-batch-norm"].batch()
    ppl_vae.fit(pair, batch, epochs=1, batch_size=3, run_dir=tmp_path / "run", progress=False)
    for other in (copy.deepcopy(pair), ppl_vae.load(tmp_path / "run").pair):
        assert other.guide.conditional.__self__ is other.model
        assert other.model is not pair.model
    with pytest.raises(
        PairError, match=r"Ladder\.conditional: expected a method of the pair's own model; got one of an"
    ):
        Pair(copy.deepcopy(pair).model, pair.guide).check(batch)


class Third(PyroModule):
    """Somebody else's model: two layers, written out."""

    def __init__(self):
        super().__init__()
        self.x_shape, self.latent_dims = (D,), (3, 2)
        self.down, self.out = nn.Linear(2, 3), nn.Linear(3, D)
        self.register_buffer("zeros", torch.zeros(2))

    def conditional(self, k, above=None):
        normal = (
            pyro.distributions.Normal(self.zeros, 1.0)
            if above is None
            else pyro.distributions.Normal(self.down(above), 0.5)
        )
        return normal.to_event(1)

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z2 = pyro.sample("z2", self.conditional(2))
            z1 = pyro.sample("z1", self.conditional(1, z2))
            return pyro.sample("x", pyro.distributions.Normal(self.out(z1), 1.0).to_event(1), obs=x)


@pytest.mark.slow
def test_a_ladder_serves_a_model_of_a_third_party(tmp_path):
    model = Third()
    pair, batch = Pair(model, Ladder(model, hidden=(6,))), {"x": torch.randn(20, D)}
    run = ppl_vae.fit(pair, batch, epochs=30, batch_size=10, lr=1e-2, run_dir=tmp_path / "run")
    assert run.history["train_bound"][-1] > run.history["train_bound"][0]
    other = Third()
    again = ppl_vae.load(tmp_path / "run", pair=Pair(other, Ladder(other, hidden=(6,)))).pair
    scores = []
    for one in (pair, again):
        torch.manual_seed(0)
        scores.append(one.log_weights(batch, 3))
    assert torch.equal(*scores)


@pytest.mark.slow
def test_plain_svi_trains_a_ladder():
    pyro.clear_param_store()
    pair, batch = Pair(*PAIRS["ladder-2"].build()), PAIRS["ladder-2"].batch(64)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), ELBO())
    losses = [svi.step(**batch) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
    moved = {name for name, value in pair.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name, _ in pair.named_parameters()}
    pyro.clear_param_store()


def test_an_encoder_of_pictures_starts_the_ladder():
    image = (1, 8, 6)
    model = Hierarchical(48, (3, 2), hidden=(5,))
    guide = Ladder(model, hidden=(7,), encoder=ConvEncoder(image, 9, channels=(2,)))
    pair = Pair(model, guide)
    pair.check({"x": torch.ones(5, 48)})
    assert pair.posterior({"x": torch.ones(5, 48)}, 2)["z2"].shape == (2, 5, 2)


class LogOfSoftplus(nn.Module):
    """From (m, a) to the (m, log s) of an `AmortizedNormal`."""

    def forward(self, parameters):
        m, a = parameters.chunk(2, -1)
        return torch.cat([m, spread(a).log()], -1)


def test_one_layer_is_the_vae():
    case = PAIRS["bottom-up-1"]
    batch, scores = case.batch(), []
    pairs = [Pair(*PAIRS[f"{kind}-1"].build()) for kind in GUIDES]
    encoder = nn.Sequential(MLP(D, 6, (7, 5)), LogOfSoftplus())
    one = Pair(VAE(D, 3, hidden=(7, 5)), AmortizedNormal(D, 3, encoder=encoder))
    for pair in (*pairs, one):
        values = iter(pairs[0].state_dict().values())
        pair.load_state_dict({name: next(values) for name in pair.state_dict()})
        torch.manual_seed(0)
        scores.append(pair.log_weights(batch, 3))
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0])


# -- by name, and what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", GUIDES)
def test_by_name(guide):
    spec = ppl_vae.data.load("digits").spec
    pair = zoo.build("hierarchical", spec, latent_dims=(4, 3, 2), hidden=((9, 8), (7,), ()), guide=guide)
    assert pair.model.latent_dims == (4, 3, 2)
    assert [len(head.network.layers) for head in pair.model.conditionals] == [3, 1]
    with pytest.raises(InputError, match="guide: expected one of bottom-up, ladder, top-down; got 'sideways'"):
        zoo.build("hierarchical", spec, guide="sideways")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hierarchical(D, ()), "latent_dims: expected the size of at least one layer; got none"),
        (lambda: BottomUp(D, []), "latent_dims: expected the size of at least one layer; got none"),
        (lambda: TopDown(D, (3, 0)), "latent_dims: expected an integer >= 1; got 0"),
        (lambda: Hierarchical(D, (3, 2), hidden=((4,),)), "hidden: expected 2, as latent_dims asks for; got 1"),
        (lambda: BottomUp(D, (3,), hidden=((4,), (5,))), "hidden: expected 1, as latent_dims asks for; got 2"),
        (lambda: Hierarchical(D, (3, 2), conditionals=()), "conditionals: expected 1, as latent_dims asks for; got 0"),
        (lambda: TopDown(D, (3,), networks=()), "networks: expected 1, as latent_dims asks for; got 0"),
        (lambda: Ladder(VAE(D, 2)), r"model: expected the pair's model, with x_shape, .* got VAE; try Pair\(model, L"),
        (lambda: Ladder(Hierarchical(D, (2,)), hidden=((3,), (3,))), "hidden: expected 1, as latent_dims asks for"),
        (lambda: Hierarchical(D, (3, 2)).conditional(3), "layer 3: expected a layer from 1 to 2, given the one above"),
        (lambda: Hierarchical(D, (3, 2)).conditional(1), "layer 1: expected a layer from 1 to 2, given the one above"),
        (lambda: Hierarchical(D, (3, 2)).conditional(1, torch.ones(4)), r"z2: expected last dimension 2; got \(4,\)"),
        (lambda: Hierarchical(D, (3, 2), conditionals=[nn.Linear(2, 5)])(size=3), "output of a layer's network: expe"),
        (lambda: merge(pyro.distributions.Normal(0, 1), None), "conditional: expected a diagonal Normal; got Normal"),
        (lambda: BottomUp(D, (3,))(), "guide: expected an observation x; got None"),
        (lambda: TopDown(D, (3,))(), "guide: expected an observation x; got None"),
        (lambda: Ladder(Hierarchical(D, (3,)))(), "guide: expected an observation x; got None"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("kind", [BottomUp, TopDown])
@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (
            (3, 2),
            (3,),
            "site 'z2': expected the guide to sample every latent site of the model; got a guide that samples z1",
        ),
        ((3,), (3, 2), "site 'z2': expected only latent sites of the model in the guide"),
        ((3, 2), (3, 4), r"site 'z2': expected event shape \(2,\) as in the model; got \(4,\)"),
    ],
)
def test_a_guide_for_other_layers(kind, model, guide, message):
    with pytest.raises(PairError, match=message):
        Pair(Hierarchical(D, model), kind(D, guide)).check({"x": torch.ones(5, D)})


@pytest.mark.parametrize(("model", "guide"), [((3, 2), (3,)), ((3,), (3, 2)), ((3, 2, 2), (3, 2))])
def test_a_ladder_of_another_model(model, guide):
    pair = Pair(Hierarchical(D, model), Ladder(Hierarchical(D, guide)))
    with pytest.raises(PairError, match=re.escape("site 'z")):
        pair.check({"x": torch.ones(5, D)})


def test_a_warm_up_that_outlasts_the_fit_is_said():
    pair, batch = Pair(*PAIRS["ladder-2"].build()), PAIRS["ladder-2"].batch()
    with pytest.warns(
        UserWarning, match="the KL is let in over 8 epochs, and the fit ends after 2: it never has its full weight"
    ):
        run = ppl_vae.fit(pair, batch, epochs=2, batch_size=3, kl_warmup=8, progress=False)
    assert run.history["kl_weight"] == pytest.approx([1 / 8, 2 / 8])
