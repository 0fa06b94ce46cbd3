"""Rules for the weight of the KL: their formulas, and what they make of a fit."""

from __future__ import annotations

import math

import own_pairs
import pytest
import torch
from estimates import gradients, once
from own_pairs import pair as own_pair
from torch.distributions import Normal, kl_divergence

from ppl_vae import InputError, Pair, PairError, fit
from ppl_vae.cli import parse
from ppl_vae.compile import recorded as fallback
from ppl_vae.core.config import describe, rebuild
from ppl_vae.guides import AmortizedNormal
from ppl_vae.models import VAE
from ppl_vae.objectives import ELBO, IWELBO, BetaTCVAE, FactorVAE
from ppl_vae.pairs.handlers import KLWeight
from ppl_vae.training.kl_weights import Capacity, Constant, Constrained, Cyclical, Normalised, WarmUp, as_rule


def rule_name(value):
    return type(value).__name__


RULES = [
    Constant(4.0),
    WarmUp(2, 4.0),
    Cyclical(2, 0.25, 4.0),
    Normalised(0.1),
    Constrained(20.0, 0.1),
    Capacity(25.0, 10, 30.0),
]


def settings(rule, steps, steps_per_epoch=4):
    return [rule.at(step, steps_per_epoch) for step in range(steps)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Constant(0.0), [0.0] * 6),
        (Constant(3), [3.0] * 6),
        (WarmUp(1), [0.25, 0.5, 0.75, 1, 1, 1]),
        (WarmUp(0.5, 4.0), [2, 4, 4, 4, 4, 4]),
        (WarmUp(0), [1.0] * 6),
        (Cyclical(1), [0, 0.5, 1, 1, 0, 0.5]),
        (Cyclical(1, rising=1.0, beta=8.0), [0, 2, 4, 6, 0, 2]),
        (Capacity(to=8.0, epochs=1), [2, 4, 6, 8, 8, 8]),
        (Constrained(20.0), [None] * 6),
    ],
)
def test_what_a_rule_asks_for_step_by_step(rule, expected):
    assert settings(rule, 6) == expected


def test_normalised_is_per_coordinate():
    rule = Normalised(0.01).on(data_dim=4096, latent_dim=10)
    assert isinstance(rule, Constant)
    assert rule.beta == pytest.approx(4.096)
    assert Constant(2.0).on(4096, 10).beta == 2.0


def test_the_multiplier_ascends_where_the_kl_is_too_large():
    rule, one = Constrained(20.0, rate=0.1), torch.tensor(1.0)
    for kl, power in ((20.0, 0.0), (40.0, 0.1), (0.0, -0.1), (30.0, 0.05)):
        assert float(rule.after(one, torch.tensor(kl))) == pytest.approx(math.exp(power))
    assert float(rule.after(one, torch.tensor(1e9))) == 1e4
    assert float(rule.after(one * 1e-4, torch.tensor(0.0))) == pytest.approx(1e-4)


def test_capacity_measures_the_distance_to_c():
    rule = Capacity(to=5.0, epochs=1, gamma=10.0)
    for kl, distance in ((70.0, 20.0), (30.0, 20.0), (50.0, 0.0)):
        loss = rule.loss(torch.tensor(100.0 + kl), torch.tensor(kl), torch.tensor(5.0), 10)
        assert float(loss) == pytest.approx(100.0 + 10.0 * distance)


@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_rules_are_frozen_and_rebuilt_from_their_description(rule):
    again = rebuild(describe(rule))
    assert type(again) is type(rule)
    assert vars(again) == vars(rule)
    with pytest.raises(AttributeError, match="is frozen"):
        setattr(rule, next(iter(describe(rule)["arguments"])), 3.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Constant(-1.0), "beta: expected a number, 0 or more; got -1.0"),
        (lambda: Constant(float("nan")), "beta: expected a number, 0 or more; got nan"),
        (lambda: Constant(True), "beta: .* got True"),
        (lambda: WarmUp(-2), "epochs: expected a number, 0 or more; got -2"),
        (lambda: WarmUp(2, -1), "beta: expected a number, 0 or more; got -1"),
        (lambda: Cyclical(0), "period: expected a finite number > 0; got 0"),
        (lambda: Cyclical(1, rising=1.5), "rising: expected a share of the period, at most 1; got 1.5"),
        (lambda: Cyclical(1, rising=0), "rising: expected a finite number > 0; got 0"),
        (lambda: Normalised(-0.1), "beta_norm: expected a number, 0 or more; got -0.1"),
        (lambda: Normalised(1.0).on(10, 0), "beta_norm: expected a pair with a latent for each datum; got none"),
        (lambda: Constrained(0.0), "delta: expected a finite number > 0; got 0.0"),
        (lambda: Constrained(-3), "delta: expected a finite number > 0; got -3"),
        (lambda: Constrained(20, rate=0), "rate: expected a finite number > 0; got 0"),
        (lambda: Capacity(-1, 2), "to: expected a number, 0 or more; got -1"),
        (lambda: Capacity(1, 2, gamma=0), "gamma: expected a finite number > 0; got 0"),
        (lambda: as_rule(-4), "kl_weight: expected a number, 0 or more, or a rule of ppl_vae.kl_weights; got -4"),
        (lambda: as_rule("4"), r"kl_weight: .* got '4'"),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(InputError, match=message):
        build()


# -- in a fit ---------------------------------------------------------------------------------------------------------


def data(size=60):
    random = torch.Generator().manual_seed(5)
    z = torch.randn(size, 2, generator=random)
    return {"x": z @ torch.randn(2, 5, generator=random) + 0.3 * torch.randn(size, 5, generator=random)}


def fitted(rule, *, mine=None, **options):
    mine = mine or own_pair()
    settings = {"epochs": 3, "batch_size": 20, "lr": 1e-2, "compile": "off"} | options
    return fit(mine, data(), kl_weight=rule, progress=False, **settings)


def flat(run):
    return torch.cat([p.detach().flatten() for p in run.pair.parameters()])


def kl_of(mine):
    q = Normal(mine.guide.net(data()["x"]), mine.guide.scale)
    return float(kl_divergence(q, Normal(0.0, 1.0)).sum(-1).mean().detach())


@pytest.mark.slow
@pytest.mark.parametrize("objective", [ELBO(), IWELBO(3)], ids=["ELBO", "IWELBO"])
@pytest.mark.parametrize("rule", [4.0, WarmUp(2, 4.0), Cyclical(2, 0.25, 4.0), Normalised(0.1)], ids=rule_name)
def test_recorded_and_eager_fits_agree_and_nothing_is_recorded_anew(rule, objective, monkeypatch):
    recordings = []
    real = fallback.record
    monkeypatch.setattr(fallback, "record", lambda *a, **k: recordings.append(1) or real(*a, **k))
    eager, recorded = (fitted(rule, objective=objective, compile=how) for how in ("off", "graph"))
    assert len(recordings) == 1
    torch.testing.assert_close(flat(recorded), flat(eager), rtol=1e-4, atol=1e-5)
    assert recorded.history["kl_weight"] == eager.history["kl_weight"]
    assert not torch.equal(flat(fitted(1.0, objective=objective)), flat(eager))


@pytest.mark.parametrize("rule", [Constrained(1.5, 0.2), Capacity(2.0, 2, 20.0)], ids=["Constrained", "Capacity"])
def test_rules_that_look_at_the_kl_agree_recorded_and_eager(rule, monkeypatch):
    recordings = []
    real = fallback.record
    monkeypatch.setattr(fallback, "record", lambda *a, **k: recordings.append(1) or real(*a, **k))
    eager, recorded = (fitted(rule, compile=how) for how in ("off", "graph"))
    assert len(recordings) == 1
    torch.testing.assert_close(flat(recorded), flat(eager), rtol=1e-4, atol=1e-5)
    assert recorded.history[rule.column] == pytest.approx(eager.history[rule.column], rel=1e-5)


def test_the_multiplier_follows_the_kl_of_each_batch():
    mine, rule = own_pair(), Constrained(1.5, 0.2)
    run = fitted(rule, mine=mine, epochs=1, batch_size=60, lr=1e-12)
    assert run.history["kl_weight"] == [pytest.approx(math.exp(0.2 * (kl_of(mine) / 1.5 - 1.0)), rel=1e-5)]


def test_capacity_has_the_gradient_of_the_distance():
    # gamma sign(KL - C) in the place of the weight: the same as a constant weight of that value.
    mine = own_pair()
    kl = kl_of(mine)
    for to, beta in ((kl / 2, 3.0), (0.0, 3.0)):
        rule = Capacity(to, epochs=0, gamma=3.0)
        one = fitted(rule, epochs=1, batch_size=60, optimizer="sgd", lr=1e-2)
        other = fitted(beta, epochs=1, batch_size=60, optimizer="sgd", lr=1e-2)
        torch.testing.assert_close(flat(one), flat(other))
    below, still = (fitted(rule, epochs=1, batch_size=60, optimizer="sgd", lr=1e-2) for rule in (
        Capacity(2 * kl, epochs=0, gamma=3.0), 0.0))  # fmt: skip
    assert kl_of(below.pair) > kl_of(still.pair)


@pytest.mark.slow
@pytest.mark.parametrize("delta", [0.5, 2.0])
def test_the_constraint_holds_where_it_binds(delta):
    settings = {"epochs": 400, "batch_size": 60, "lr": 5e-2, "schedule": "exponential", "compile": "graph"}
    run = fitted(Constrained(delta, 0.05), **settings)
    assert kl_of(run.pair) == pytest.approx(delta, rel=0.02)
    # What was found is a beta-VAE: the gradients of distortion and rate balance at the multiplier (Karush-Kuhn-Tucker).
    torch.manual_seed(0)
    bound = ELBO(2000)
    distortion, rate = (
        gradients(run.pair, bound.distortion_and_rate(*run.pair.programs(), **data())[name])
        for name in ("distortion", "rate")
    )
    assert float(-(distortion @ rate) / (rate @ rate)) == pytest.approx(run.history["kl_weight"][-1], rel=0.05)


@pytest.mark.slow
def test_capacity_reaches_c():
    run = fitted(Capacity(2.0, 60, 50.0), epochs=150, batch_size=60, lr=3e-2, compile="graph", schedule="exponential")
    assert kl_of(run.pair) == pytest.approx(2.0, rel=0.05)
    assert run.history["kl_capacity"][29] == pytest.approx(1.0)
    assert "kl_weight" not in run.history


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "graph"])
@pytest.mark.parametrize("rule", [Constrained(1.5, 0.2), Cyclical(2), Capacity(2.0, 3, 20.0)], ids=lambda r: r.column)
def test_a_resumed_fit_has_the_same_numbers(rule, compile, tmp_path):
    whole = fitted(rule, epochs=4, compile=compile)
    fitted(rule, epochs=2, compile=compile, run_dir=tmp_path / "run")
    resumed = fitted(rule, epochs=4, compile=compile, run_dir=tmp_path / "run", resume=True)
    assert torch.equal(flat(resumed), flat(whole))
    assert resumed.history == whole.history


def test_another_weight_is_not_resumed(tmp_path):
    fitted(Constrained(1.5), run_dir=tmp_path / "run", epochs=1)
    with pytest.raises(InputError, match=r"fit kl_weight delta 1.5 as in its config.json; got 2.0"):
        fitted(Constrained(2.0), run_dir=tmp_path / "run", epochs=2, resume=True)


def test_latents_shared_by_all_data_are_constrained_per_datum():
    mine = Pair(own_pairs.Shared(), own_pairs.SharedGuide())
    run = fitted(Constrained(1.5, 0.1), mine=mine, epochs=2)
    assert all(math.isfinite(value) for value in run.history["kl_weight"])


def test_warm_up_is_short_for_a_rule():
    short, rule = fitted(4.0, kl_warmup=2), fitted(WarmUp(2, 4.0))
    assert torch.equal(flat(short), flat(rule))
    assert short.history["kl_weight"] == pytest.approx([2.0, 4.0, 4.0])


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (-1.0, {}, "kl_weight: expected a number, 0 or more, or a rule .* got -1.0"),
        (Constrained(2.0), {"kl_warmup": 2}, "kl_warmup: expected 0 beside a rule .* got 2; try kl_weight alone"),
        (Constrained(2.0), {"objective": IWELBO(2)}, "kl_weight Constrained: expected ELBO with .* got IWELBO"),
        (Capacity(2.0, 1), {"objective": ELBO(kl="sampled", gradient="stl")}, "got ELBO with other settings"),
        (Constrained(2.0), {"objective": ELBO(free_bits=0.1)}, "no free bits.* got ELBO with other settings"),
        (2.0, {"objective": BetaTCVAE(60)}, "no scale and no mask"),
    ],
)
def test_what_does_not_go_together(rule, options, message):
    with pytest.raises(InputError, match=message):
        fitted(rule, **options)


def test_capacity_needs_reparameterised_latents():
    mine = Pair(own_pairs.Switch(), own_pairs.SwitchGuide())
    with pytest.raises(PairError, match="expected a latent with a reparameterised sampler, for kl_weight Capacity"):
        fit(mine, {"x": data()["x"][:, :1]}, kl_weight=Capacity(1.0, 1), progress=False)


# -- free bits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_free_bits_against_the_formula(particles, beta):
    mine, x = own_pair(), data()["x"]
    q = Normal(mine.guide.net(x), mine.guide.scale)
    kl = kl_divergence(q, Normal(0.0, 1.0)).mean(0)  # (L,)
    free = float(kl.mean().detach())  # between the two
    weight = KLWeight(torch.tensor(beta))
    programs = [weight(program) for program in mine.programs()]
    torch.manual_seed(0)
    value = ELBO(particles, free_bits=free).loss(*programs, x=x)
    torch.manual_seed(0)
    parts = ELBO(particles).distortion_and_rate(*programs, x=x)
    expected = parts["distortion"] + beta * len(x) * kl.clamp(min=free).sum()
    torch.testing.assert_close(value, expected.detach())
    assert value > parts["distortion"] + parts["rate"] + 1.0


def test_free_bits_leave_a_coordinate_below_them_alone():
    mine, x = own_pair(), data()["x"]
    free = (
        float(kl_divergence(Normal(mine.guide.net(x), mine.guide.scale), Normal(0.0, 1.0)).mean(0).max().detach()) + 1.0
    )
    _, slope = once(mine, ELBO(free_bits=free), {"x": x})
    weight = KLWeight(0.0)
    _, without = once(mine, ELBO(kl="analytic"), {"x": x}, programs=[weight(program) for program in mine.programs()])
    torch.testing.assert_close(slope, without)


def test_free_bits_are_refused_where_they_have_no_closed_form():
    with pytest.raises(InputError, match="free_bits: expected nats per coordinate, 0 or more; got -1"):
        ELBO(free_bits=-1)
    with pytest.raises(InputError, match="free_bits of z1: expected nats per coordinate, 0 or more; got -1"):
        ELBO(free_bits={"z1": -1})
    with pytest.raises(InputError, match="free_bits: expected a KL in closed form; got kl='sampled'"):
        ELBO(free_bits=0.1, kl="sampled")
    full = Pair(VAE(5, 2, likelihood="normal"), AmortizedNormal(5, 2, covariance="full"))
    with pytest.raises(PairError, match=r"for free bits a latent with a KL in closed form for each coordinate.*Multiv"):
        ELBO(free_bits=0.1).loss(*full.programs(), **data())
    with pytest.raises(InputError, match="unknown latent of free_bits: expected one of z; got 'z1'; try 'z'"):
        ELBO(free_bits={"z1": 0.1}).loss(*own_pair().programs(), **data())


# -- an objective with a module of its own ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["off", "graph"])
def test_the_classifier_of_factor_vae_is_trained_saved_and_resumed(compile, tmp_path):
    def run(epochs, **options):
        torch.manual_seed(0)
        objective = FactorVAE(2, gamma=3.0, hidden=(8,))
        before = [p.detach().clone() for p in objective.module.parameters()]
        done = fitted(1.0, objective=objective, epochs=epochs, compile=compile, **options)
        assert all(not torch.equal(p, was) for p, was in zip(objective.module.parameters(), before, strict=True))
        return torch.cat([flat(done), *(p.detach().flatten() for p in objective.module.parameters())])

    whole = run(4)
    run(2, run_dir=tmp_path / "run")
    assert torch.equal(run(4, run_dir=tmp_path / "run", resume=True), whole)


@pytest.mark.slow
def test_objectives_of_parts_are_recorded_to_the_same_numbers():
    for make in (lambda: BetaTCVAE(60, beta=4.0), lambda: FactorVAE(2, gamma=3.0, hidden=(8,))):
        runs = []
        for how in ("off", "graph"):
            torch.manual_seed(0)
            runs.append(fitted(1.0, objective=make(), compile=how))
        torch.testing.assert_close(flat(runs[1]), flat(runs[0]), rtol=1e-4, atol=1e-5)
        assert runs[1].config["step"]["paths"] == {20: "graph"}


# -- on the command line ----------------------------------------------------------------------------------------------


def test_a_weight_as_typed():
    assert parse.kl_weight("4", {}) == 4
    rule = parse.kl_weight("constrained", {"delta": 20, "rate": 0.1})
    assert (rule.delta, rule.rate) == (20.0, 0.1)
    assert isinstance(parse.kl_weight("WarmUp", {"epochs": 3}), WarmUp)
    for text, options, message in (
        ("constraned", {"delta": 20}, "unknown kl_weight: .* got 'constraned'; try 'constrained'"),
        ("constrained", {"delt": 20}, "unknown option of constrained: .* try 'delta'"),
        ("constrained", {}, "kl_weight constrained: expected its option delta; got none"),
        ("4", {"delta": 20}, "--kl-weight-option: expected none beside a number; got delta"),
    ):
        with pytest.raises(InputError, match=message):
            parse.kl_weight(text, options)
