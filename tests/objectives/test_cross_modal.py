"""Bounds across modalities: against the sum written by hand, masks, weights, fits, and pairs of a user's own."""

from __future__ import annotations

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from estimates import alike, gradients, once
from linear_modalities import JOINS, SHAPES, L, draws, exact_pair, only, some_missing
from pyro.nn import PyroModule
from tiers import fast_in
from torch import nn

import ppl_vae
from ppl_vae import InputError, Pair, PairError
from ppl_vae.core.config import describe, rebuild
from ppl_vae.core.process import isolated
from ppl_vae.data import Dataset, as_split
from ppl_vae.guides import Experts
from ppl_vae.models import CrossModal
from ppl_vae.objectives import ELBO, CrossModalELBO
from ppl_vae.pairs.handlers import KLWeight
from ppl_vae.training.step import TrainingStep

N = 8
WEIGHTS = {"a": {"b": 1.0, "a": 0.5}, "a+b": {"c": 2.0}, "c": {"a": 0.25}}
LEARNT = dict.fromkeys(SHAPES, "normal-decoder")


def trained(join="product", seed=0):
    """A pair with networks of one hidden layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CrossModal(SHAPES, L, hidden=(4,), likelihood=LEARNT)
        return Pair(model, Experts(SHAPES, L, join=join, hidden=(4,))).double()


def data(missing=False):
    values = draws(exact_pair(), N)
    return values | some_missing(tuple(SHAPES), N) if missing else values


def by_hand(pair, batch, weights, particles=1):
    """-sum w_it (log p(x_t|z) - KL) with the draws that a seed gives, source by source, without Pyro's traces."""
    values, masks = pair.guide.modalities.given(batch)
    everywhere = torch.ones(N, dtype=torch.bool)
    loss = 0.0
    for source, targets in weights.items():
        given = source.split("+")
        seen = torch.stack([masks.get(name, everywhere) for name in given]).all(0)
        q = pair.guide.posterior(
            {name: values[name] for name in SHAPES if name in given},
            {name: masks[name] for name in given if name in masks},
        )
        z = q.expand((particles, N)).rsample() if particles > 1 else q.rsample()
        p = torch.distributions.Independent(torch.distributions.Normal(z.new_zeros(L), z.new_ones(L)), 1)
        if pair.guide.posterior.join == "product":
            kl = torch.distributions.kl_divergence(q.base_dist, torch.distributions.Normal(0, 1)).sum(-1)
        else:
            kl = q.log_prob(z) - p.log_prob(z)
        for target, weight in targets.items():
            both = (seen & masks.get(target, everywhere)).double()
            loss = loss - weight * both * (pair.model.decode(z, target).log_prob(values[target]) - kl)
    return loss.sum() / particles


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("particles", fast_in({3}, [1, 3]))
def test_equals_the_sum_by_hand(join, missing, particles):
    pair, batch = trained(join), data(missing)
    objective = CrossModalELBO(WEIGHTS, particles)
    loss, gradient = once(pair, objective, batch)
    torch.manual_seed(0)
    wanted = by_hand(pair, batch, WEIGHTS, particles)
    torch.testing.assert_close(loss, wanted.detach())
    torch.testing.assert_close(gradient, gradients(pair, wanted))
    torch.manual_seed(0)
    parts = objective.distortion_and_rate(*pair.programs(), **batch)
    torch.testing.assert_close(parts["distortion"] + parts["rate"], loss)
    torch.manual_seed(0)
    assert torch.equal(objective.loss(*pair.programs(), **batch), loss)


def test_all_of_all_is_the_elbo_of_the_joint():
    pair, batch = trained(), data()
    ours = once(pair, CrossModalELBO({"a+b+c": dict.fromkeys(SHAPES, 1.0)}), batch)
    kl = ELBO().distortion_and_rate(*pair.programs(), **batch)["rate"]
    theirs = once(pair, ELBO(), batch)
    torch.testing.assert_close(ours[0], theirs[0] + 2 * kl)  # one KL for each target


def test_each_from_itself_trains_apart():
    """The gradient of modality a's encoder and decoder is that of its own ELBO, and of no other there is one."""
    pair, batch = trained(), data()
    _, gradient = once(pair, CrossModalELBO({"a": {"a": 1.0}}), batch)
    _, alone = once(pair, ELBO(), only(batch, "a"))
    torch.testing.assert_close(gradient, alone)
    own = ("decoders.a.", "experts.a.")
    position = torch.cat([torch.full((p.numel(),), any(n in key for n in own)) for key, p in pair.named_parameters()])
    assert not gradient[~position].any()
    assert gradient[position].any()
    _, both = once(pair, CrossModalELBO({"b": {"b": 1.0}, "a": {"a": 1.0}}), batch)
    others = torch.cat([torch.full((p.numel(),), "coders.c" in key) for key, p in pair.named_parameters()])
    assert not both[others].any()


def test_weights_scale():
    pair, batch = trained(), data(missing=True)
    twice = {source: {t: 2 * w for t, w in targets.items()} for source, targets in WEIGHTS.items()}
    for one, two in zip(
        once(pair, CrossModalELBO(WEIGHTS), batch), once(pair, CrossModalELBO(twice), batch), strict=True
    ):
        torch.testing.assert_close(2 * one, two)
    loss, gradient = once(pair, CrossModalELBO({"a": {"b": 0.0}}), batch)
    assert loss == 0
    assert not gradient.any()


@pytest.mark.parametrize("source", ["a", "a+c"])
def test_a_pair_counts_where_both_are_there(source):
    pair, batch = trained(), data(missing=True)
    there = torch.stack([batch[f"{name}_present"] for name in {"b", *source.split("+")}]).all(0)
    assert 0 < there.sum() < N
    objective = CrossModalELBO({source: {"b": 1.0}}, 2)
    rows = torch.eye(N, dtype=torch.bool)
    alone = torch.stack([once(pair, objective, batch | {"b_present": batch["b_present"] & row})[0] for row in rows])
    assert not alone[~there].any()
    assert alone[there].all()
    torch.testing.assert_close(alone.sum(), once(pair, objective, batch)[0])


def test_what_a_mask_hides_changes_nothing():
    pair, batch = trained(), data(missing=True)
    found = []
    for hidden in (0.0, 1e30, float("nan")):
        there = {name: batch[name].where(batch[f"{name}_present"][:, None], hidden) for name in SHAPES}
        found.append(once(pair, CrossModalELBO(WEIGHTS), batch | there))
    for loss, gradient in found:
        assert torch.equal(loss, found[0][0])
        assert torch.equal(gradient, found[0][1])
        assert gradient.isfinite().all()


def test_two_batches_add_up_to_one():
    pair, batch = trained(), data(missing=True)
    for encoder in pair.guide.posterior.experts.values():
        encoder.network.layers[-1].bias.data[L:] += 15  # posteriors so narrow that a draw is the mean, up to 1e-6
    objective = CrossModalELBO(WEIGHTS)
    parts = [{name: x[rows] for name, x in batch.items()} for rows in (slice(0, 3), slice(3, N))]
    whole, *both = (once(pair, objective, part) for part in (batch, *parts))
    torch.testing.assert_close(both[0][0] + both[1][0], whole[0], rtol=1e-5, atol=0)
    assert all(loss > 0.1 * whole[0] for loss, _ in both)


def test_the_weight_of_the_kl():
    pair, batch = trained(), data(missing=True)
    parts = {}
    for beta in (1.0, 0.25):
        programs = map(KLWeight(beta), pair.programs())
        torch.manual_seed(0)
        parts[beta] = CrossModalELBO(WEIGHTS).distortion_and_rate(*programs, **batch)
    torch.testing.assert_close(parts[0.25]["rate"], 0.25 * parts[1.0]["rate"])
    torch.testing.assert_close(parts[0.25]["distortion"], parts[1.0]["distortion"])


@pytest.mark.slow
@pytest.mark.parametrize("join", JOINS)
def test_a_fit_validates_by_distortion_and_rate(join):
    values = draws(exact_pair(), 60)
    values = values | some_missing(tuple(SHAPES), 60)
    rows = {"train": slice(0, 40), "validation": slice(40, 60), "test": slice(40, 60)}
    own = Dataset(*(as_split({name: x[part] for name, x in values.items()}, role=role) for role, part in rows.items()))
    run = ppl_vae.fit(
        trained(join), own, objective=CrossModalELBO(WEIGHTS), epochs=20, lr=1e-2, batch_size=20, kl_weight=0.5,
        dtype="float64", progress=False,
    )  # fmt: skip
    history = run.history
    assert history["train_bound"][-1] > history["train_bound"][0]
    parts = zip(history["validation_distortion"], history["validation_rate"], strict=True)
    assert history["validation_bound"] == pytest.approx([-sum(both) for both in parts])


@pytest.mark.slow
@pytest.mark.parametrize("join", JOINS)
def test_recorded_equals_eager(join):
    batches = [draws(exact_pair(), N, seed) | some_missing(tuple(SHAPES), N, seed) for seed in range(4)]
    found = {}
    for path in ("off", "graph"):
        pair = trained(join)
        step = TrainingStep(
            pair, CrossModalELBO(WEIGHTS, 2), torch.optim.Adam(pair.parameters(), 1e-2), compile=path, weighted=True
        )
        with isolated(3):
            step.set(lr=1e-2, kl_weight=0.5)
            found[path] = torch.stack([step(batch) for batch in batches])
    assert step.paths == {N: "graph"}
    assert step.recordings == 1
    torch.testing.assert_close(found["graph"], found["off"], rtol=1e-9, atol=0)


def test_rebuilt_from_its_description():
    assert rebuild(describe(CrossModalELBO(WEIGHTS, 3))).weights == WEIGHTS


# -- pairs of a user's own --------------------------------------------------------------------------------------------


class Sounds(PyroModule):
    """p(z) = N(0, 1), a sound and a word of it; nothing here is the library's."""

    def __init__(self):
        super().__init__()
        self.sound, self.word = nn.Linear(1, 3), nn.Linear(1, 2)

    clock = False

    def forward(self, sound=None, word=None, word_present=None, size=None):
        rows = next((len(x) for x in (sound, word) if x is not None), size)
        with pyro.plate("data", rows, dim=-1):
            if self.clock:
                pyro.sample("clock", dist.Normal(0.0, 1.0), obs=torch.zeros(rows))
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            for name, x in (("sound", sound), ("word", word)):
                if x is not None or size is not None:
                    likelihood = dist.Normal(getattr(self, name)(z), 0.5).to_event(1)
                    there = word_present if name == "word" and word_present is not None else True
                    with pyro.poutine.mask(mask=there):
                        pyro.sample(name, likelihood, obs=x)


class Listener(PyroModule):
    """q(z | sound), q(z | word) or of their mean; `family` makes it from the location."""

    def __init__(self, family=lambda loc: dist.Normal(loc, 0.5).to_event(1)):
        super().__init__()
        self.sound, self.word, self.family = nn.Linear(3, 1), nn.Linear(2, 1), family

    def forward(self, sound=None, word=None, word_present=None, size=None):
        heard = [net(x) for net, x in ((self.sound, sound), (self.word, word)) if x is not None]
        with pyro.plate("data", len(heard[0]), dim=-1):
            pyro.sample("z", self.family(sum(heard) / len(heard)))


def heard():
    generator = torch.Generator().manual_seed(0)
    values = {"sound": torch.randn(N, 3, generator=generator), "word": torch.randn(N, 2, generator=generator)}
    return values | {"word_present": torch.arange(N) % 3 > 0}


def own(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Pair(Sounds(), Listener(**options))


def test_a_pair_of_one_s_own():
    pair, batch = own(), heard()
    loss, gradient = once(pair, CrossModalELBO({"sound": {"word": 2.0}}), batch)
    torch.manual_seed(0)
    q = torch.distributions.Normal(pair.guide.sound(batch["sound"]), 0.5)
    z = q.rsample()
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1)).sum(-1)
    log_p = torch.distributions.Normal(pair.model.word(z), 0.5).log_prob(batch["word"]).sum(-1)
    wanted = -2 * ((log_p - kl) * batch["word_present"]).sum()
    torch.testing.assert_close(loss, wanted.detach())
    torch.testing.assert_close(gradient, gradients(pair, wanted))
    run = ppl_vae.fit(
        pair, batch, objective=CrossModalELBO({"sound": {"word": 1.0}, "word": {"sound": 1.0}}), epochs=2, batch_size=4,
        progress=False,
    )  # fmt: skip
    assert all(torch.isfinite(torch.tensor(run.history["train_bound"])))


@pytest.mark.slow
def test_a_latent_without_a_reparameterised_sampler():
    """The score function's gradient of a bound, against the pathwise one of the same distribution."""

    class Scored(dist.Normal):
        has_rsample = False

    weights = {"sound": {"word": 1.0, "sound": 0.5}}
    smooth, scored = own(), own(family=lambda loc: Scored(loc, 0.5).to_event(1))
    batch, K = heard(), 50
    first, second = (
        torch.stack([once(pair, CrossModalELBO(weights, K), batch, seed)[1] for seed in range(200)])
        for pair in (smooth, scored)
    )
    alike(first, second, "gradient")
    assert second.var(0).sum() > first.var(0).sum()


def test_a_site_beyond_the_targets_is_refused():
    pair = own()
    pair.model.clock = True
    with pytest.raises(PairError, match=r"site 'clock': expected no observed site but the targets"):
        once(pair, CrossModalELBO({"sound": {"word": 1.0}}), heard())


BAD = {
    "none": ({}, "weights: expected a target for every source; got {}; try"),
    "no mapping": ([("a", "b")], "weights: expected a target for every source"),
    "a number": ({"a": 1.0}, "weights: expected a target for every source; got {'a': 1.0}"),
    "no targets": ({"a": {}}, "weights: expected a target for every source"),
    "negative": ({"a": {"b": -1.0}}, "weight of a, b: expected a number, 0 or more; got -1.0"),
    "no number": ({"a": {"b": "1"}}, "weight of a, b: expected a number, 0 or more; got '1'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_weights(case):
    weights, message = BAD[case]
    with pytest.raises(InputError) as caught:
        CrossModalELBO(weights)
    assert re.search(re.escape(message), str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weights", [{"sond": {"word": 1.0}}, {"word": {"sond": 1.0}}, {"word+sond": {"word": 1.0}}])
def test_an_unknown_modality_is_told_with_the_nearest(weights):
    message = r"unknown modality: expected one of sound, word; got 'sond'; try 'sound'$"
    with pytest.raises(InputError, match=message):
        once(own(), CrossModalELBO(weights), heard())
    with pytest.raises(InputError, match=message):
        ppl_vae.fit(own(), heard(), objective=CrossModalELBO(weights), epochs=1, batch_size=4, progress=False)
