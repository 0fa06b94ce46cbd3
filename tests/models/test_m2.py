"""M2 against sums written out by hand, quadrature and Pyro's own objective; ways of drawing y; M1 + M2."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from estimates import SE, alike, gradients, once
from estimates import drawn as estimates_of
from labels_by_hand import (
    F64,
    GIVEN,
    HIDDEN,
    SOME,
    B,
    Y,
    beside,
    drawn,
    known,
    log_x,
    normal,
    objective_by_hand,
    pair_of,
    pictures,
    run,
)
from pairs import PAIRS, C, D, L
from torch import nn

import ppl_vae
from ppl_vae import Pair, PairError
from ppl_vae.exact import Enumeration, quadrature
from ppl_vae.guides import AmortizedMixture, AmortizedNormal, StackedMixture
from ppl_vae.models import M1M2, M2, VAE
from ppl_vae.nn import InferredLabels, likelihoods
from ppl_vae.nn.mlp import MLP
from ppl_vae.objectives import ELBO, IWELBO, Renyi, ReweightedWakeSleep

SAME = {"rtol": 1e-9, "atol": 1e-9}
ALPHA = 0.7


def noise_of(given, K, seed):
    """The noise of the guide: one draw for each class where they are enumerated, else one for all."""
    torch.manual_seed(seed)
    enumerated = "y" not in given or "labelled" in given
    shape = (C, K, B, L) if enumerated else (K, B, L)
    return torch.empty(shape, dtype=F64).normal_().expand(C, K, B, L)


def tight(log_w):
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


BOUNDS = [
    (ELBO(kl="sampled"), 1, lambda log_w: log_w.mean(0)),
    (ELBO(3, kl="sampled"), 3, lambda log_w: log_w.mean(0)),
    (IWELBO(1), 1, tight),
    (IWELBO(4), 4, tight),
    (IWELBO(4, "vimco"), 4, tight),
    (Renyi(0.5, 3), 3, lambda log_w: 2 * (torch.logsumexp(0.5 * log_w, 0) - math.log(3))),
]


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize(("objective", "K", "bound"), BOUNDS)
def test_every_bound_is_the_sum_over_classes(objective, K, bound, given):
    pair, x = pair_of(ALPHA), pictures()
    truth = -objective_by_hand(pair, x, GIVEN[given], noise_of(GIVEN[given], K, 5), bound, ALPHA)
    loss, gradient = once(pair, objective, {"x": x} | GIVEN[given], seed=5)
    torch.testing.assert_close(loss, truth.detach(), **SAME)
    torch.testing.assert_close(gradient, gradients(pair, truth), **SAME)


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("K", [1, 3])
def test_the_kl_of_each_class_in_closed_form(K, given):
    pair, x = pair_of(ALPHA), pictures()
    noise = noise_of(GIVEN[given], K, 5)
    truth = -objective_by_hand(pair, x, GIVEN[given], noise, lambda log_p: log_p.mean(0), ALPHA, closed=True)
    loss, gradient = once(pair, ELBO(K), {"x": x} | GIVEN[given], seed=5)
    torch.testing.assert_close(loss, truth.detach(), **SAME)
    torch.testing.assert_close(gradient, gradients(pair, truth), **SAME)


@pytest.mark.parametrize("given", GIVEN)
def test_wake_sleep_weighs_the_classes_that_a_label_leaves(given):
    """Model by log sum_y mean_k w_yk, guide by these weights, with draws held fixed; a label leaves one class."""
    pair, x, K, given = pair_of(ALPHA), pictures(), 4, GIVEN[given]
    noise, log_q = noise_of(given, K, 5), run(pair.guide.classifier.network, x).log_softmax(-1)
    truth, gradient_of = torch.zeros((), dtype=F64), torch.zeros((), dtype=F64)
    for b in range(B):
        label, log_w, own = known(given, b), [], []
        for y in range(C) if label is None else [label]:
            z, loc, log_scale = drawn(pair, x[b], y, noise[y, :, b])
            z = z.detach()
            log_q_z = normal(z, loc, log_scale)
            log_p = log_x(pair, x[b], z, y) + normal(z, torch.zeros(()), torch.zeros(())) - math.log(C)
            log_w.append(log_p - log_q_z.detach())
            own.append(log_q_z + (log_q[b, y] if label is None else 0.0))
        log_w, own = torch.cat(log_w), torch.cat(own)
        bound = torch.logsumexp(log_w, 0) - math.log(K)
        factor = 0.0 if label is None else ALPHA * log_q[b, label]
        truth = truth - bound - factor
        gradient_of = gradient_of - bound - factor - (log_w.softmax(0).detach() * own).sum()
    loss, gradient = once(pair, ReweightedWakeSleep(K), {"x": x} | given, seed=5)
    torch.testing.assert_close(loss, truth.detach(), **SAME)
    torch.testing.assert_close(gradient, gradients(pair, gradient_of), **SAME)


@pytest.mark.parametrize("given", GIVEN)
def test_pyro_s_own_objective_gives_the_same(given):
    pair, data = pair_of(ALPHA), {"x": pictures()} | GIVEN[given]
    wanted = once(pair, pyro.infer.TraceEnum_ELBO(max_plate_nesting=1), data, seed=3)
    torch.testing.assert_close(once(pair, ELBO(kl="sampled"), data, seed=3), wanted, **SAME)


@pytest.mark.parametrize("given", GIVEN)
def test_alpha_weighs_the_labels_alone(given):
    given, x = GIVEN[given], pictures()
    data, pairs = {"x": x} | given, [pair_of(alpha) for alpha in (0.0, 5.0)]
    log_q = run(pairs[0].guide.classifier.network, x).log_softmax(-1)
    labels = [(b, label) for b in range(B) if (label := known(given, b)) is not None]
    term = sum((log_q[b, label] for b, label in labels), torch.zeros((), dtype=F64))
    for objective in (ELBO(), ELBO(2), IWELBO(3), IWELBO(3, "stl"), ReweightedWakeSleep(3)):
        (without, _), (with_labels, _) = (once(pair, objective, data) for pair in pairs)
        torch.testing.assert_close(with_labels - without, -5 * term.detach(), **SAME)
    scores = [ppl_vae.log_likelihood(pair, data, num_particles=20).values for pair in pairs]
    assert torch.equal(*scores)
    losses_of_both = []
    for pair in pairs:
        torch.manual_seed(0)
        losses_of_both.append(sum(ELBO().distortion_and_rate(*pair.programs(), **data).values()))
    assert torch.equal(*losses_of_both)


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), IWELBO(3), ReweightedWakeSleep(3)])
def test_a_term_of_the_guide_s_own_is_averaged_over_the_classes(objective):
    class Leaning(InferredLabels):
        def sample(self, *args):
            y = super().sample(*args)
            pyro.factor("leaning", 0.3 * y.to(F64), has_rsample=True)
            return y

    pair, x = pair_of(), pictures()
    leaning = Pair(pair.model, AmortizedMixture(D, L, C, hidden=HIDDEN).to(F64))
    leaning.guide.label = Leaning(C).to(F64)
    leaning.guide.posterior.condition = leaning.guide.label
    leaning.load_state_dict(pair.state_dict())
    plain, found = (once(each, objective, {"x": x}, seed=2) for each in (pair, leaning))
    term = 0.3 * (run(pair.guide.classifier.network, x).softmax(-1) @ torch.arange(C, dtype=F64)).sum()
    torch.testing.assert_close(found[0], plain[0] + term.detach(), **SAME)
    torch.testing.assert_close(found[1], plain[1] + gradients(pair, term), **SAME)


# -- log p(x) and log p(x, y) ---------------------------------------------------------------------------------------


def wide_pair(alpha=ALPHA, **guide):
    """A pair of one latent whose guide is wider than its posteriors, so that weights have a variance."""
    pair = pair_of(alpha, latent_dim=1, **guide)
    last = pair.guide.posterior.network.layers[-1]
    last.weight.data *= 0.2
    last.bias.data = torch.tensor([0.0, 0.2], dtype=F64)
    return pair


def by_quadrature(pair, x):
    """log p(x, y) of every datum and class, for one latent."""

    def log_likelihood(z, data, y):
        return log_x(pair, data, z.expand(-1, len(data), -1), y)

    flat = torch.full((C,), 1 / C, dtype=F64)
    with torch.no_grad():
        return quadrature.integrate_classes(log_likelihood, x, flat, torch.zeros(1, dtype=F64))


QUANTITIES = {"x only": "log p(x)", "all": "log p(x, y)", "some": "log p(x), or log p(x, y) for the 20 labelled"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["importance", "prior"])
@pytest.mark.parametrize("classes", ["enumerated", "relaxed"])
@pytest.mark.parametrize("given", GIVEN)
def test_log_likelihood_by_quadrature(given, classes, method):
    pair, size = wide_pair(classes=classes), 40
    x = pictures(size)
    truth = by_quadrature(pair, x)
    y, some = torch.arange(size) % C, torch.arange(size) % 2 == 0
    joint = truth.log_joint[torch.arange(size), y]
    wanted = {"x only": truth.log_marginal, "all": joint, "some": torch.where(some, joint, truth.log_marginal)}[given]
    labels = {"x only": {}, "all": {"y": y}, "some": {"y": y.where(some, -7), "labelled": some}}[given]
    K = 2000
    ll = ppl_vae.log_likelihood(pair, {"x": x} | labels, method=method, num_particles=K, seed=3)
    assert ll.quantity == QUANTITIES[given]
    # By the delta method the logarithm of a mean has variance (K / ESS - 1) / K.
    scores = (ll.values - wanted) / ((K / ll.effective_sample_size.double() - 1) / K).sqrt()
    assert scores.abs().max() < SE
    assert scores.mean().abs() < SE / size**0.5
    # That of the next class would be seen.
    other = truth.log_joint[torch.arange(size), (y + 1) % C]
    assert abs(ll.mean - float(other.mean())) > 20 * ll.standard_error


@pytest.mark.slow
def test_annealing_from_the_guide_has_no_part_of_the_classification_term():
    pair, x = wide_pair(5.0), pictures(20)
    y = torch.arange(20) % C
    wanted = by_quadrature(pair, x).log_joint[torch.arange(20), y].mean()
    how = {"num_distributions": 20, "leapfrog_steps": 2, "start": "guide"}
    data = {"x": x, "y": y}
    ll = ppl_vae.log_likelihood(pair, data, method="ais", num_particles=100, annealing=how, compile="off", seed=1)
    assert abs(ll.mean - float(wanted)) < SE * ll.standard_error


@pytest.mark.slow
def test_the_posterior_of_the_class_is_what_the_bound_is_tight_at():
    """With q(y|x) and q(z|x, y) as they are, no bound is above log p(x)."""
    pair, x = wide_pair(), pictures()
    truth: Enumeration = by_quadrature(pair, x)
    losses, _ = estimates_of(pair, ELBO(), {"x": x}, 2000)
    error = losses.std() / len(losses) ** 0.5
    assert -losses.mean() < truth.log_marginal.sum() + SE * error
    assert -losses.mean() < truth.log_marginal.sum() - 20 * error  # an untrained guide leaves a gap


# -- the mask -------------------------------------------------------------------------------------------------------


@pytest.fixture
def still(monkeypatch):
    """Normals of a known standard noise, the same for every datum and class."""
    monkeypatch.setattr(
        torch.distributions.normal, "_standard_normal", lambda shape, dtype, device: torch.full(shape, 0.3, dtype=dtype)
    )


OBJECTIVES = [ELBO(), ELBO(2), ELBO(kl="sampled"), IWELBO(3), ReweightedWakeSleep(3)]


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("order", [torch.arange(B), torch.tensor([3, 0, 5, 4, 1, 2])])
def test_a_mixed_batch_is_its_labelled_and_its_unlabelled_part(objective, order):
    pair, x, y, some = pair_of(), pictures()[order], Y[order], SOME[order]
    loss, gradient = once(pair, objective, {"x": x, "y": y, "labelled": some})
    parts = [once(pair, objective, data) for data in ({"x": x[some], "y": y[some]}, {"x": x[~some]})]
    torch.testing.assert_close(loss, parts[0][0] + parts[1][0], **SAME)
    torch.testing.assert_close(gradient, parts[0][1] + parts[1][1], **SAME)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_masks_that_hide_nothing_or_everything(objective):
    pair, x = pair_of(), pictures()
    for mask, plain in ((torch.ones_like(SOME), {"y": Y}), (torch.zeros_like(SOME), {})):
        wanted = once(pair, objective, {"x": x} | plain)
        torch.testing.assert_close(once(pair, objective, {"x": x, "y": Y, "labelled": mask}), wanted, **SAME)


@pytest.mark.slow
@pytest.mark.parametrize("classes", ["enumerated", "sampled", "relaxed"])
def test_what_a_mask_hides_changes_nothing(classes):
    pair, x = pair_of(classes=classes), pictures()
    found = []
    for hidden in (Y, torch.full_like(Y, -1), torch.full_like(Y, C + 5), torch.full_like(Y, 1)):
        data = {"x": x, "y": Y.where(SOME, hidden), "labelled": SOME}
        torch.manual_seed(0)
        weights = pair.log_weights(data, 3)
        ll = ppl_vae.log_likelihood(pair, data, num_particles=5).values
        fresh = pair_of(classes=classes)
        ppl_vae.fit(fresh, data, epochs=2, batch_size=4, progress=False)
        found.append((*once(pair, ELBO(2), data), weights, ll, *fresh.state_dict().values()))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("classes", ["enumerated", "relaxed"])
def test_a_known_label_is_the_class_of_what_is_generated_and_decoded(classes):
    pair, n = pair_of(classes=classes), 300
    y, some = torch.arange(n) % C, torch.arange(n) % 2 == 0
    drawn = pair.generate(y=y.where(some, -1), labelled=some)
    assert drawn.keys() == {"x", "y", "z"}
    drawn_y = drawn["y"].argmax(-1) if classes == "relaxed" else drawn["y"]
    assert torch.equal(drawn_y[some], y[some])
    assert len(drawn_y[~some].unique()) == C
    z = torch.randn(1, L, dtype=F64).expand(C, L)
    means = pair.decode({"z": z}, y=torch.arange(C))["x"]
    wanted = torch.stack([run(pair.model.decode.network, beside(z[0], k)).sigmoid() for k in range(C)])
    torch.testing.assert_close(means, wanted.detach(), **SAME)
    torch.manual_seed(0)
    reconstructed = pair.reconstruct({"x": pictures(), "y": Y})["x"]
    torch.manual_seed(0)
    z = pair.posterior({"x": pictures(), "y": Y})["z"][0]
    torch.testing.assert_close(reconstructed, pair.decode({"z": z}, y=Y)["x"], **SAME)


# -- y drawn --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("given", ["x only", "some"])
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("kl", ["auto", "sampled"])
def test_the_score_function_has_the_mean_of_the_sum(K, given, kl):
    data, repeats = {"x": pictures()} | GIVEN[given], 6000
    summed, sampled = (pair_of(classes=classes) for classes in ("enumerated", "sampled"))
    losses, grads = estimates_of(summed, ELBO(K, kl), data, repeats)
    values, scores = estimates_of(sampled, ELBO(K, kl), data, repeats)
    alike(losses, values)
    alike(grads, scores)
    assert scores.var(0).sum() > grads.var(0).sum()


@pytest.mark.slow
@pytest.mark.parametrize("given", ["x only", "some"])
@pytest.mark.parametrize("kl", ["auto", "sampled"])
def test_relaxed_classes_leave_the_bound_and_bend_its_gradient(given, kl):
    data, repeats = {"x": pictures()} | GIVEN[given], 4000
    losses, grads = estimates_of(pair_of(), ELBO(1, kl), data, repeats)
    found = {}
    for temperature in (0.1, 0.5, 2.0):
        relaxed = pair_of(classes="relaxed", temperature=temperature)
        values, found[temperature] = estimates_of(relaxed, ELBO(1, kl), data, repeats)
        alike(losses, values)
        assert found[temperature].isfinite().all()
        # Biased, but downhill, and no further from the truth than the truth is long.
        mean, truth = found[temperature].mean(0), grads.mean(0)
        assert torch.cosine_similarity(mean, truth, 0) > 0.9
    classifier = torch.cat([torch.full((p.numel(),), "classifier" in n) for n, p in relaxed.named_parameters()])
    noise = [found[temperature].var(0)[classifier].sum() for temperature in (0.1, 0.5, 2.0)]
    assert noise[0] > noise[1] > noise[2]


# -- M1 + M2 --------------------------------------------------------------------------------------------------------

L1 = 3


def stacked(alpha=ALPHA, **guide):
    torch.manual_seed(0)
    pair = Pair(
        M1M2(VAE(D, L1, hidden=HIDDEN), M2(L1, L, C, hidden=HIDDEN, likelihood=likelihoods.Normal(0.5))),
        StackedMixture(
            AmortizedNormal(D, L1, hidden=HIDDEN), AmortizedMixture(L1, L, C, hidden=HIDDEN, alpha=alpha, **guide)
        ),
    )
    return pair.to(F64)


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("K", [1, 3])
def test_the_stack_is_the_sum_over_classes(K, given):
    pair, x, given = stacked(), pictures(), GIVEN[given]
    model, guide, zero = pair.model, pair.guide, torch.zeros((), dtype=F64)
    torch.manual_seed(5)
    noise1 = torch.empty((K, B, L1), dtype=F64).normal_()
    enumerated = "y" not in given or "labelled" in given
    noise2 = torch.empty((C, K, B, L) if enumerated else (K, B, L), dtype=F64).normal_().expand(C, K, B, L)
    loc1, log_scale1 = run(guide.m1.posterior.network, x).chunk(2, -1)
    z1 = loc1 + log_scale1.exp() * noise1
    log_q_y = run(guide.m2.classifier.network, z1).log_softmax(-1)
    logits = run(model.m1.decode.network, z1)
    log_p_x = -nn.functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
    total = (log_p_x - normal(z1, loc1, log_scale1)).sum() / K
    for b in range(B):
        for k in range(K):
            label = known(given, b)
            for y in range(C) if label is None else [label]:
                loc, log_scale = run(guide.m2.posterior.network, beside(z1[k, b], y)).chunk(2, -1)
                z2 = loc + log_scale.exp() * noise2[y, k, b]
                log_p = normal(
                    z1[k, b], run(model.m2.decode.network, beside(z2, y)), torch.tensor(0.5, dtype=F64).log()
                )
                term = log_p + normal(z2, zero, zero) - normal(z2, loc, log_scale) - math.log(C)
                log_q = log_q_y[k, b, y]
                total = total + (term + ALPHA * log_q if label is not None else log_q.exp() * (term - log_q)) / K
    loss, gradient = once(pair, ELBO(K, "sampled"), {"x": x} | given, seed=5)
    torch.testing.assert_close(loss, -total.detach(), **SAME)
    torch.testing.assert_close(gradient, gradients(pair, -total), **SAME)


@pytest.mark.slow
def test_the_closed_form_and_the_score_function_of_the_stack():
    data = {"x": pictures()} | GIVEN["some"]
    losses, grads = estimates_of(stacked(), ELBO(kl="sampled"), data, 4000)
    for other, objective in ((stacked(), ELBO()), (stacked(classes="sampled"), ELBO(2, "sampled"))):
        values, found = estimates_of(other, objective, data, 4000)
        alike(losses, values)
        alike(grads, found)


def test_a_sum_after_a_draw_has_no_weighted_bound():
    for objective in (IWELBO(3), ReweightedWakeSleep(3)):
        with pytest.raises(PairError) as caught:
            once(stacked(), objective, {"x": pictures()})
        assert str(caught.value) == (
            "site 'y': expected a latent to be enumerated before any that the guide draws; "
            "got one that may depend on a draw; try ppl_vae.objectives.ELBO(), or another order in the guide"
        )


@pytest.mark.slow
@pytest.mark.parametrize("path", ["off", "graph"])
def test_a_frozen_m1_stays_as_it_is(path):
    pair = stacked()
    for frozen in (pair.model.m1, pair.guide.m1):
        frozen.requires_grad_(False)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    data = {"x": pictures(40), "y": torch.arange(40) % C, "labelled": torch.arange(40) % 3 == 0}
    ppl_vae.fit(pair, data, epochs=3, batch_size=10, compile=path, progress=False)
    for name, parameter in pair.named_parameters():
        assert torch.equal(parameter, before[name]) == (".m1." in name), name


# -- networks, likelihoods, sizes -------------------------------------------------------------------------------------


class Whole(nn.Module):
    """An MLP as somebody else's network, which takes one input."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, h):
        return self.mlp(h)


@pytest.mark.parametrize("given", GIVEN)
def test_networks_of_one_s_own_get_the_class_beside(given):
    pair, data = pair_of(), {"x": pictures()} | GIVEN[given]
    whole = Pair(
        M2(D, L, C, decoder=Whole(pair.model.decode.network)),
        AmortizedMixture(
            D, L, C, alpha=ALPHA, classifier=pair.guide.classifier.network, encoder=Whole(pair.guide.posterior.network)
        ),
    ).to(F64)
    for objective in (ELBO(), ELBO(2), IWELBO(3)):
        torch.testing.assert_close(once(whole, objective, data)[0], once(pair, objective, data)[0], **SAME)


def test_an_mlp_of_one_s_own_may_take_one_input():
    class Scaled(MLP):
        def forward(self, x):
            return super().forward(2 * x)

    pair = Pair(M2(D, L, C, decoder=Scaled(L + C, D)), AmortizedMixture(D, L, C))
    assert pair.check(PAIRS["m2-mixed"].batch() | {"x": pictures().float()}).observed == ("x",)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", likelihoods.NAMES)
@pytest.mark.parametrize("classes", [1, 2, 13])
def test_every_likelihood_and_number_of_classes(likelihood, classes):
    torch.manual_seed(0)
    pair = Pair(
        M2((4, 2), L, classes, hidden=(5,), likelihood=likelihoods.get(likelihood, levels=3)),
        AmortizedMixture((4, 2), L, classes, hidden=()),
    )
    y, some = torch.arange(20) % classes, torch.arange(20) < 10
    x = pair.generate(20)["x"]
    assert x.shape == (20, 4, 2)
    for given in ({}, {"y": y}, {"y": y, "labelled": some}):
        pair.check({"x": x} | given)
        assert pair.log_weights({"x": x} | given, 3).shape == (3, 20)
        assert ELBO(2).loss(*pair.programs(), x=x, **given).isfinite()
    assert pair.guide.classify(x).shape == (20, classes)


@pytest.mark.slow
def test_a_fit_learns_from_few_labels():
    """Two bars of pixels determine the class; ten labels say which is which, the rest where they lie."""
    torch.manual_seed(0)
    size, classes = 600, 3
    y = torch.arange(size) % classes
    on = nn.functional.one_hot(y, classes).repeat_interleave(3, 1).float()
    x = torch.bernoulli(0.1 + 0.7 * on)
    data = {"x": x, "y": y.where(torch.arange(size) < 12, -1), "labelled": torch.arange(size) < 12}
    torch.manual_seed(0)
    pair = Pair(M2(9, 1, classes, hidden=(16,)), AmortizedMixture(9, 1, classes, hidden=(16,), alpha=5.0))
    ppl_vae.fit(pair, data, epochs=40, batch_size=60, lr=1e-2, progress=False)
    with torch.no_grad():
        right = (pair.guide.classify(x).argmax(-1) == y).float().mean()
    assert right > 0.95
