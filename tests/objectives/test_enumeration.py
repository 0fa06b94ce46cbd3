"""Discrete latents summed out: bounds and gradients against sums written out by hand."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from estimates import agree, alike, drawn, gradients, once, part
from own_pairs import D, L, Mixture, Switch, batch, no_latents, rows
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.nn import PyroModule
from torch import nn

from ppl_vae import Pair, PairError
from ppl_vae.objectives import CIWAE, ELBO, IWELBO, MIWAE, PIWAE, Renyi, ReweightedWakeSleep
from ppl_vae.pairs.handlers import KLWeight

F64 = torch.float64
SAME = {"rtol": 1e-9, "atol": 1e-9}
C = 3
PARALLEL = {"enumerate": "parallel"}


class Classes(PyroModule):
    """y ~ Categorical(softmax(logits)), z ~ N(mean_y, I), x ~ N(net(z) + shift_y, I)."""

    def __init__(self):
        super().__init__()
        self.logits, self.mean = nn.Parameter(0.5 * torch.randn(C)), nn.Parameter(torch.randn(C, L))
        self.shift, self.net = nn.Parameter(torch.randn(C, D)), nn.Linear(L, D)

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=self.logits))
            z = pyro.sample("z", dist.Normal(self.mean[y], 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.net(z) + self.shift[y], 1.0).to_event(1), obs=x)


class ClassGuide(PyroModule):
    """q(y | x) q(z | x, y), y summed out; z does not see y where `blind`."""

    def __init__(self, blind=False):
        super().__init__()
        self.blind = blind
        self.classify, self.encode = nn.Linear(D, C), nn.Linear(D, L)
        self.offset = nn.Parameter(torch.randn(C, L))
        self.register_buffer("spread", torch.tensor([0.7, 0.4, 1.1]))

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=self.classify(x)), infer=PARALLEL)
            pyro.sample("z", dist.Normal(*self.encoded(x, y)).to_event(1))

    def encoded(self, x, y):
        """Mean and standard deviation of z; their entropies differ with y."""
        if self.blind:
            return self.encode(x), self.spread[0]
        return self.encode(x) + self.offset[y], self.spread[y].unsqueeze(-1)


def classes(blind=False, size=4):
    torch.manual_seed(0)
    return Pair(Classes(), ClassGuide(blind)).to(F64), {"x": batch(size)["x"].double()}


def by_hand(mine, x, K, bound, seed, beta=1.0):
    """sum_y q(y | x) (bound of log w given y - log q(y | x)) in a loop over y, with the noise of the programs."""
    model, guide, normal = mine.model, mine.guide, torch.distributions.Normal
    log_q, log_p = guide.classify(x).log_softmax(-1), model.logits.log_softmax(-1)
    torch.manual_seed(seed)
    shape = (K, len(x), L) if guide.blind else (C, K, len(x), L)
    noise = torch.empty(shape, dtype=F64).normal_().expand(C, K, len(x), L)
    total = 0
    for y in range(C):
        loc, spread = guide.encoded(x, torch.tensor(y))
        z = loc + spread * noise[y]
        rate = log_p[y] + normal(model.mean[y], 1.0).log_prob(z).sum(-1) - normal(loc, spread).log_prob(z).sum(-1)
        log_w = normal(model.net(z) + model.shift[y], 1.0).log_prob(x).sum(-1) + beta * rate
        total = total + log_q[:, y].exp() * (bound(log_w) - beta * log_q[:, y])
    return total.sum()


def tight(log_w):
    return log_w.exp().mean(0).log()


BOUNDS = [
    (ELBO(kl="sampled"), 1, lambda log_w: log_w[0]),
    (ELBO(4, kl="sampled"), 4, lambda log_w: log_w.mean(0)),
    (IWELBO(1), 1, tight),
    (IWELBO(4), 4, tight),
    (IWELBO(4, "vimco"), 4, tight),
    (Renyi(0.5, 4), 4, lambda log_w: 2 * (0.5 * log_w).exp().mean(0).log()),
    (CIWAE(0.3, 4), 4, lambda log_w: 0.3 * log_w.mean(0) + 0.7 * tight(log_w)),
    (MIWAE(2, 2), 4, lambda log_w: (tight(log_w[:2]) + tight(log_w[2:])) / 2),
]


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize(("objective", "K", "bound"), BOUNDS)
def test_summed_out_by_the_guide(objective, K, bound, blind):
    mine, data = classes(blind)
    truth = -by_hand(mine, data["x"], K, bound, seed=5)
    loss, gradient = once(mine, objective, data, seed=5)
    torch.testing.assert_close(loss, truth.detach(), **SAME)
    torch.testing.assert_close(gradient, gradients(mine, truth), **SAME)


@pytest.mark.slow
@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize(
    ("objective", "plain"),
    [
        (ELBO(2, "auto"), ELBO(2, "sampled")),
        (ELBO(2, "analytic"), ELBO(2, "sampled")),
        (ELBO(2, "sampled", "stl"), ELBO(2, "sampled")),
        (IWELBO(4, "stl"), IWELBO(4)),
        (IWELBO(4, "dreg"), IWELBO(4)),
        (MIWAE(2, 2, "dreg"), MIWAE(2, 2)),
        (PIWAE(2, 2, "dreg"), PIWAE(2, 2)),
        (PIWAE(2, 2, "stl"), PIWAE(2, 2)),
    ],
)
def test_estimators_share_their_mean_beside_an_enumerated_latent(objective, plain, blind):
    mine, data = classes(blind)
    losses, got = drawn(mine, objective, data, 4000)
    values, wanted = drawn(mine, plain, data, 4000)
    alike(losses, values)
    alike(got, wanted)


def test_partial_bound_takes_each_half_from_its_own():
    mine, data = classes()
    tight_one, loose, both = (once(mine, o, data) for o in (IWELBO(6), MIWAE(3, 2), PIWAE(3, 2)))
    model = part(mine, "model")
    torch.testing.assert_close(both[0], tight_one[0], **SAME)
    torch.testing.assert_close(both[1][model], tight_one[1][model], **SAME)
    torch.testing.assert_close(both[1][~model], loose[1][~model], **SAME)


@pytest.mark.parametrize("K", [1, 4])
def test_a_weight_on_the_kl(K):
    mine, data = classes()
    weight = KLWeight(torch.tensor(0.3, dtype=F64))
    programs = [weight(program) for program in mine.programs()]
    truth = -by_hand(mine, data["x"], K, tight, seed=2, beta=0.3)
    got = once(mine, IWELBO(K), data, seed=2, programs=programs)
    torch.testing.assert_close(got, (truth.detach(), gradients(mine, truth)), **SAME)
    if K == 1:
        torch.testing.assert_close(once(mine, ELBO(kl="sampled"), data, seed=2, programs=programs), got, **SAME)


@pytest.mark.slow
def test_agrees_with_pyro():
    mine, data = classes()
    theirs = TraceEnum_ELBO(max_plate_nesting=1)
    R = 400
    reference = torch.stack([theirs.differentiable_loss(*mine.programs(), **data).detach() for _ in range(R)])
    for objective in (ELBO(), ELBO(kl="analytic"), ELBO(kl="sampled"), IWELBO(1)):
        alike(drawn(mine, objective, data, 4000)[0], reference)


def test_a_mask_leaves_data_out():
    mine, data = classes()
    kept = torch.tensor([True, False, True, False])
    for objective in (ELBO(), ELBO(3), IWELBO(3), IWELBO(3, "dreg"), ReweightedWakeSleep(3)):
        parts = []
        for mask in (kept, ~kept):
            parts.append(once(mine, objective, data, programs=[poutine.mask(p, mask=mask) for p in mine.programs()]))
        whole = once(mine, objective, data)
        torch.testing.assert_close(tuple(a + b for a, b in zip(*parts, strict=True)), whole, **SAME)


# -- several, and after others ----------------------------------------------------------------------------------------


class Chain(PyroModule):
    """a ~ Bernoulli, b ~ Categorical(table[a]), x ~ N(loc[a, b], 1)."""

    def __init__(self, infer=None):
        super().__init__()
        self.infer = infer or {}
        self.first, self.table = nn.Parameter(torch.randn(())), nn.Parameter(torch.randn(2, C))
        self.loc = nn.Parameter(2 * torch.randn(2, C))

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            a = pyro.sample("a", dist.Bernoulli(logits=self.first), infer=self.infer).long()
            b = pyro.sample("b", dist.Categorical(logits=self.table[a]), infer=self.infer)
            return pyro.sample("x", dist.Normal(self.loc[a, b].unsqueeze(-1), 1.0).to_event(1), obs=x)


class ChainGuide(PyroModule):
    """q(a | x) q(b | a, x)."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1, 1), nn.Linear(1, 2 * C)

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            a = pyro.sample("a", dist.Bernoulli(logits=self.first(x)[..., 0]), infer=PARALLEL).long()
            logits = self.second(x).unflatten(-1, (2, C))
            chosen = torch.where((a == 0).unsqueeze(-1), logits[..., 0, :], logits[..., 1, :])
            pyro.sample("b", dist.Categorical(logits=chosen), infer=PARALLEL)


def chain_by_hand(mine, x):
    """log p(x), and the bound of the guide, with a loop over both."""
    model, guide = mine.model, mine.guide
    bernoulli, categorical = torch.distributions.Bernoulli, torch.distributions.Categorical
    log_joints, bound = [], 0
    for a in range(2):
        for b in range(C):
            here = torch.tensor(float(a), dtype=F64)
            log_p = bernoulli(logits=model.first).log_prob(here) + model.table[a].log_softmax(-1)[b]
            log_p = log_p + torch.distributions.Normal(model.loc[a, b], 1.0).log_prob(x[:, 0])
            log_joints.append(log_p)
            if isinstance(guide, ChainGuide):
                log_q = bernoulli(logits=guide.first(x)[:, 0]).log_prob(here)
                log_q = log_q + categorical(logits=guide.second(x).unflatten(-1, (2, C))[:, a]).logits[:, b]
                bound = bound + log_q.exp() * (log_p - log_q)
    return torch.logsumexp(torch.stack(log_joints), 0).sum(), torch.as_tensor(bound).sum()


def chain(guide, infer=None):
    torch.manual_seed(0)
    return Pair(Chain(infer), guide).to(F64), {"x": torch.tensor([[-1.0], [0.4], [2.0]], dtype=F64)}


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), IWELBO(1), IWELBO(3), Renyi(2.0, 3), PIWAE(2, 2), MIWAE(2, 2)])
def test_two_latents_that_the_guide_sums_out(objective):
    """With nothing drawn, every bound is the same one."""
    mine, data = chain(ChainGuide())
    _, bound = chain_by_hand(mine, data["x"])
    got = once(mine, objective, data)
    torch.testing.assert_close(got, (-bound.detach(), gradients(mine, -bound)), **SAME)


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), IWELBO(3), Renyi(2.0, 3), PIWAE(2, 2), ReweightedWakeSleep(3)])
def test_two_latents_that_the_model_sums_out(objective):
    mine, data = chain(no_latents, PARALLEL)
    log_marginal, _ = chain_by_hand(mine, data["x"])
    got = once(mine, objective, data)
    torch.testing.assert_close(got, (-log_marginal.detach(), gradients(mine, -log_marginal)), **SAME)


def test_marks_in_the_model_do_no_harm_to_a_guide_that_has_the_latents():
    """Pyro's `config_enumerate` around the model, whose latents the guide sums out already."""
    mine, data = chain(ChainGuide())
    model, guide = mine.programs()
    for objective in (ELBO(), ELBO(2), IWELBO(3)):
        wanted = once(mine, objective, data)
        got = once(mine, objective, data, programs=(config_enumerate(model), guide))
        torch.testing.assert_close(got, wanted, **SAME)


def test_a_mask_in_a_model_that_sums_out():
    """A datum that is masked counts nothing: its sum over p(k) is one."""
    mine, x = Pair(Mixture(), no_latents).to(F64), torch.tensor([[-1.0], [0.5]], dtype=F64)
    masked = [poutine.mask(program, mask=torch.tensor([True, False])) for program in mine.programs()]
    for objective in (ELBO(), IWELBO(3)):
        torch.testing.assert_close(
            once(mine, objective, {"x": x}, programs=masked)[0], -mine.model.log_prob(x[:1]).sum()
        )


def test_a_scale_in_a_model_that_sums_out():
    mine, x = Pair(Mixture(), no_latents).to(F64), torch.tensor([[-1.0], [0.5]], dtype=F64)
    scaled = [poutine.scale(program, scale=0.25) for program in mine.programs()]
    for objective in (ELBO(), IWELBO(3)):
        torch.testing.assert_close(
            once(mine, objective, {"x": x}, programs=scaled)[0], -mine.model.log_prob(x).sum() / 4
        )


class MixturePrior(PyroModule):
    """k ~ Categorical, summed out; z ~ N(mean_k, I), x ~ N(net(z), I)."""

    def __init__(self):
        super().__init__()
        self.logits, self.mean, self.net = (
            nn.Parameter(torch.randn(C)),
            nn.Parameter(torch.randn(C, L)),
            nn.Linear(L, D),
        )

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            k = pyro.sample("k", dist.Categorical(logits=self.logits), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(self.mean[k], 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)


class Encoder(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(D, L)

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            pyro.sample("z", dist.Normal(self.net(x), 0.7).to_event(1))


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize(("objective", "K", "bound"), BOUNDS)
def test_a_prior_that_the_model_sums_out(objective, K, bound, beta):
    torch.manual_seed(0)
    mine, data = Pair(MixturePrior(), Encoder()).to(F64), {"x": batch(4)["x"].double()}
    model, x, normal = mine.model, data["x"], torch.distributions.Normal
    torch.manual_seed(7)
    loc = mine.guide.net(x)
    z = loc + 0.7 * torch.empty(K, 4, L, dtype=F64).normal_()
    priors = [model.logits.log_softmax(-1)[k] + normal(model.mean[k], 1.0).log_prob(z).sum(-1) for k in range(C)]
    rate = torch.stack(priors).exp().sum(0).log() - normal(loc, 0.7).log_prob(z).sum(-1)
    truth = -bound(normal(model.net(z), 1.0).log_prob(x).sum(-1) + beta * rate).sum()
    weight = KLWeight(torch.tensor(beta, dtype=F64))
    programs = [weight(program) for program in mine.programs()] if beta != 1 else None
    got = once(mine, objective, data, seed=7, programs=programs)
    torch.testing.assert_close(got, (truth.detach(), gradients(mine, truth)), **SAME)


@pytest.mark.slow
@pytest.mark.parametrize("objective", [ELBO(), IWELBO(3, "dreg"), IWELBO(3, "stl")])
def test_halves_and_estimators_of_a_summed_prior(objective):
    torch.manual_seed(0)
    mine, data = Pair(MixturePrior(), Encoder()).to(F64), {"x": batch(4)["x"].double()}
    plain = ELBO(kl="sampled") if isinstance(objective, ELBO) else IWELBO(3)
    alike(drawn(mine, objective, data, 4000)[1], drawn(mine, plain, data, 4000)[1])
    if isinstance(objective, ELBO):
        torch.manual_seed(0)
        parts = objective.distortion_and_rate(*mine.programs(), **data)
        torch.testing.assert_close(sum(parts.values()).detach(), once(mine, objective, data)[0])
        torch.manual_seed(0)
        z = mine.posterior(data)["z"][0]
        log_x = torch.distributions.Normal(mine.model.net(z), 1.0).log_prob(data["x"]).sum()
        torch.testing.assert_close(parts["distortion"].detach(), -log_x.detach())


class Late(PyroModule):
    """q(z | x) q(k | z): the latent to be summed out depends on one that is drawn."""

    def __init__(self):
        super().__init__()
        self.net, self.classify = nn.Linear(D, L), nn.Linear(L, C)

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            z = pyro.sample("z", dist.Normal(self.net(x), 0.7).to_event(1))
            pyro.sample("k", dist.Categorical(logits=self.classify(z)), infer=PARALLEL)


@pytest.mark.parametrize("K", [1, 3])
def test_the_elbo_takes_an_enumerated_latent_after_a_drawn_one(K):
    torch.manual_seed(0)
    mine, data = Pair(MixturePrior(), Late()).to(F64), {"x": batch(4)["x"].double()}
    model, guide, x, normal = mine.model, mine.guide, data["x"], torch.distributions.Normal
    torch.manual_seed(7)
    loc = guide.net(x)
    z = loc + 0.7 * torch.empty(K, 4, L, dtype=F64).normal_()
    log_q = guide.classify(z).log_softmax(-1)
    rest = normal(model.net(z), 1.0).log_prob(x).sum(-1) - normal(loc, 0.7).log_prob(z).sum(-1)
    truth = 0
    for k in range(C):
        log_p = model.logits.log_softmax(-1)[k] + normal(model.mean[k], 1.0).log_prob(z).sum(-1)
        truth = truth - (log_q[..., k].exp() * (log_p + rest - log_q[..., k])).sum() / K
    got = once(mine, ELBO(K, kl="sampled"), data, seed=7)
    torch.testing.assert_close(got, (truth.detach(), gradients(mine, truth)), **SAME)


# -- reweighted wake-sleep --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blind", [False, True])
def test_wake_sleep_weighs_values_and_draws_together(blind):
    """Model by log sum_y mean_k w_yk, guide by the weights normalised over y and k, with draws held fixed."""
    mine, data = classes(blind)
    model, guide, x, normal, K = mine.model, mine.guide, data["x"], torch.distributions.Normal, 4
    torch.manual_seed(5)
    shape = (K, len(x), L) if blind else (C, K, len(x), L)
    noise = torch.empty(shape, dtype=F64).normal_().expand(C, K, len(x), L)
    log_w, log_q = [], []
    for y in range(C):
        loc, spread = guide.encoded(x, torch.tensor(y))
        z = (loc + spread * noise[y]).detach()
        log_p = model.logits.log_softmax(-1)[y] + normal(model.mean[y], 1.0).log_prob(z).sum(-1)
        log_p = log_p + normal(model.net(z) + model.shift[y], 1.0).log_prob(x).sum(-1)
        own = normal(loc, spread).log_prob(z).sum(-1)
        log_w.append(log_p - own.detach())
        log_q.append(own + guide.classify(x).log_softmax(-1)[:, y])
    log_w, log_q = torch.stack(log_w), torch.stack(log_q)
    bound = torch.logsumexp(log_w.flatten(0, 1), 0).sum() - len(x) * math.log(K)
    weights = log_w.flatten(0, 1).softmax(0).view_as(log_w).detach()
    loss, gradient = once(mine, ReweightedWakeSleep(K), data, seed=5)
    torch.testing.assert_close(loss, -bound.detach(), **SAME)
    torch.testing.assert_close(gradient, gradients(mine, -bound - (weights * log_q).sum()), **SAME)


# -- mistakes ---------------------------------------------------------------------------------------------------------


def refusal(objective, mine, data, programs=None):
    with pytest.raises(PairError) as caught:
        once(mine, objective, data, programs=programs)
    return str(caught.value)


class SharedClass(PyroModule):
    def forward(self, x=None, size=None):
        k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.3)), infer=PARALLEL)
        with pyro.plate("data", rows(x, size), dim=-1):
            return pyro.sample("x", dist.Normal(k.unsqueeze(-1), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), IWELBO(3)])
def test_a_latent_of_all_data_is_not_summed_out(objective):
    text = refusal(objective, Pair(SharedClass(), no_latents), {"x": torch.zeros(3, 1)})
    assert "site 'k': expected a latent to be enumerated inside pyro.plate('data', B, dim=-1)" in text
    assert "try pyro.infer.TraceEnum_ELBO" in text


def test_one_value_after_another_is_refused():
    mine, data = chain(no_latents, {"enumerate": "sequential"})
    assert refusal(ELBO(), mine, data) == (
        "site 'a': expected enumerate='parallel', all values at once; got 'sequential'"
    )


def test_after_a_draw_there_is_no_average_outside_of_the_bound():
    torch.manual_seed(0)
    mine, data = Pair(MixturePrior(), Late()), batch(4)
    for objective in (IWELBO(3), Renyi(0.5, 3), ReweightedWakeSleep(3)):
        text = refusal(objective, mine, data)
        assert "site 'k': expected a latent to be enumerated before any that the guide draws" in text
        assert "ppl_vae.objectives.ELBO(), or another order in the guide" in text
    assert "or another order in the guide" in refusal(ELBO(kl="sampled", gradient="stl"), mine, data)


def test_a_weight_on_the_kl_of_a_sum_over_observed_sites_is_refused():
    mine, weight = Pair(Mixture(), no_latents), KLWeight(torch.tensor(0.5))
    programs = [weight(program) for program in mine.programs()]
    for objective in (ELBO(), IWELBO(3)):
        text = refusal(objective, mine, {"x": torch.zeros(3, 1)}, programs)
        assert "site 'x': expected the scale of k, which the model sums out; got another one" in text


def test_a_closed_form_of_a_prior_that_is_summed_out_is_refused():
    mine = Pair(MixturePrior(), Encoder())
    assert "site 'z': expected a KL in closed form" in refusal(ELBO(kl="analytic"), mine, batch(4))


class DrawnBeside(PyroModule):
    """One latent of the chain drawn, the other summed out."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            pyro.sample("a", dist.Bernoulli(torch.tensor(0.4)), infer=PARALLEL)
            pyro.sample("b", dist.Categorical(torch.ones(C)))


@pytest.mark.parametrize("objective", [ELBO(), IWELBO(3, "vimco")])
def test_a_score_function_beside_a_sum_is_refused(objective):
    torch.manual_seed(0)
    text = refusal(objective, Pair(Chain(), DrawnBeside()), {"x": torch.zeros(3, 1)})
    assert "site 'b': expected a latent that is enumerated too, or reparameterised, beside an enumerated one" in text


def test_other_plates_are_refused():
    class Plates(PyroModule):
        def forward(self, x=None, size=None):
            with pyro.plate("data", rows(x, size), dim=-1), pyro.plate("views", 2, dim=-2):
                k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.3)), infer=PARALLEL)
                pyro.sample("x", dist.Normal(k, 1.0), obs=x.T.expand(2, -1))

    assert "site 'k': expected a latent to be enumerated in no plate but 'data'; got one in 'views'" in refusal(
        ELBO(), Pair(Plates(), no_latents), {"x": torch.zeros(3, 1)}
    )


def test_switch_summed_out_is_the_same_in_every_bound():
    """The pair of the score-function tests, its latent marked by Pyro's own helper."""

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(1, 1)

        def forward(self, x=None, size=None):
            with pyro.plate("data", rows(x, size), dim=-1):
                pyro.sample("k", dist.Bernoulli(logits=self.net(x)[..., 0]))

    torch.manual_seed(0)
    mine, data = Pair(Switch(), Guide()).to(F64), {"x": torch.tensor([[-1.5], [0.2], [2.0]], dtype=F64)}
    model, guide = mine.programs()
    programs = model, config_enumerate(guide)
    exact = once(mine, ELBO(), data, programs=programs)
    torch.testing.assert_close(once(mine, IWELBO(5), data, programs=programs), exact, **SAME)
    losses, grads = drawn(mine, ELBO(2), data, 4000)  # the score function
    agree(losses, exact[0])
    agree(grads, exact[1])
