"""Estimators of a bound's gradient: one mean, no noise at the posterior, and a signal that K does not drown."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from estimates import SE, agree, alike, drawn, gradients, once, part
from own_pairs import BottomUp, D, Guide, L, Model, Switch, SwitchGuide, TopDown, TwoLayers, batch, pair, rows
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

from ppl_vae import Pair
from ppl_vae.guides import LinearGaussian
from ppl_vae.models import PPCA
from ppl_vae.objectives import CIWAE, ELBO, IWELBO, MIWAE, PIWAE, Renyi, ReweightedWakeSleep
from ppl_vae.objectives.detached import DetachedDraws
from ppl_vae.objectives.importance.bound import Coefficients
from ppl_vae.pairs.handlers import KLWeight

F64 = torch.float64


class Intertwined(PyroModule):
    """A guide of three layers, each of which sees all before it, so that a draw reaches later ones on several ways."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(D, L), nn.Linear(L, 2 * L)

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(self.first(x), 0.5).to_event(1))
            loc, log_scale = self.second(z1 * z1).chunk(2, -1)
            z2 = pyro.sample("z2", dist.Normal(loc + z1, (0.3 * log_scale).exp()).to_event(1))
            pyro.sample("z3", dist.Normal(z1 * z2, (0.2 * z2).exp()).to_event(1))


class ThreeLayers(PyroModule):
    def __init__(self):
        super().__init__()
        self.up, self.out = nn.Linear(L, L), nn.Linear(L, D)

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            z3 = pyro.sample("z3", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(self.up(z3), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.up(z2).tanh() + z3, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.out(z1 + z2), 1.0).to_event(1), obs=x)


MAKES = {
    "one": pair,
    "bottom-up": lambda: Pair(TwoLayers(), BottomUp()),
    "top-down": lambda: Pair(TwoLayers(), TopDown()),
    "intertwined": lambda: Pair(ThreeLayers(), Intertwined()),
}


def make(name, size=3):
    torch.manual_seed(0)
    return MAKES[name]().to(F64), {"x": batch(size)["x"].double()}


# -- one mean ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize(
    ("plain", "others"),
    [
        (ELBO(2, "sampled"), [ELBO(2, "sampled", "stl")]),
        (IWELBO(4), [IWELBO(4, "stl"), IWELBO(4, "dreg")]),
    ],
    ids=["elbo", "iwelbo"],
)
def test_estimators_of_one_bound_share_their_mean(name, plain, others):
    mine, data = make(name)
    R = 4000
    values, wanted = drawn(mine, plain, data, R)
    for other in others:
        losses, got = drawn(mine, other, data, R)
        alike(values, losses, "value")
        alike(wanted, got, other.gradient)
        # Another estimator in fact: through the draws or beside them.
        assert not torch.allclose(once(mine, plain, data)[1], once(mine, other, data)[1])
        # The model's is the same draw by draw.
        model = part(mine, "model")
        torch.testing.assert_close(once(mine, plain, data)[1][model], once(mine, other, data)[1][model])


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        lambda gradient: Renyi(0.5, 4, gradient),
        lambda gradient: Renyi(2.0, 4, gradient),
        lambda gradient: CIWAE(0.3, 4, gradient),
        lambda gradient: MIWAE(3, 2, gradient),
        lambda gradient: PIWAE(3, 2, gradient),
    ],
    ids=["renyi", "renyi above 1", "ciwae", "miwae", "piwae"],
)
def test_so_do_those_of_the_other_bounds(family):
    mine, data = make("bottom-up")
    R = 4000
    _, wanted = drawn(mine, family("reparameterised"), data, R)
    for gradient in ("stl", "dreg"):
        alike(wanted, drawn(mine, family(gradient), data, R)[1], gradient)


class WholeDirectPartLeftOut(IWELBO):
    """The estimator of Roeder et al. (2017) for K > 1."""

    recordable = True

    def coefficients(self, run, guide_sites):
        return Coefficients(*super().coefficients(run, guide_sites)[:2], None)


class Forgetful(DetachedDraws):
    """What would come of forgetting that z1 moves z2."""

    def path(self, objective):
        slopes = torch.autograd.grad(objective, list(self.detached.values()), retain_graph=True)
        return sum((slope * z).sum() for slope, z in zip(slopes, self.drawn.values(), strict=True))


class NoPathOfLaterDraws(IWELBO):
    recordable = True

    def detached(self):
        return Forgetful()


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [WholeDirectPartLeftOut, NoPathOfLaterDraws])
def test_a_biased_estimator_would_be_seen(wrong):
    mine, data = make("bottom-up")
    _, wanted = drawn(mine, IWELBO(4), data, 4000)
    with pytest.raises(AssertionError, match=r"\d se"):
        alike(wanted, drawn(mine, wrong(4, "stl"), data, 4000)[1])


@pytest.mark.slow
@pytest.mark.parametrize("objective", [ELBO(1, "sampled", "stl"), IWELBO(4, "stl"), IWELBO(4, "dreg")])
def test_a_weight_on_the_kl_keeps_the_mean(objective):
    mine, data = make("bottom-up")
    plain = ELBO(kl="sampled") if isinstance(objective, ELBO) else IWELBO(4)
    weight = KLWeight(torch.tensor(0.3, dtype=F64))
    R = 4000
    alike(drawn(mine, plain, data, R, weight)[1], drawn(mine, objective, data, R, weight)[1])


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_a_mask_on_the_latents_alone_keeps_the_mean(gradient):
    """With z masked in both programs the bound is log mean p(x | z_k), z from the guide."""
    keep = torch.tensor([True, False, False])

    class MaskedModel(Model):
        def forward(self, x=None, size=None):
            with pyro.plate("data", rows(x, size), dim=-1):
                with poutine.mask(mask=keep):
                    z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)

    class MaskedGuide(Guide):
        def forward(self, x=None, size=None):
            with poutine.mask(mask=keep):
                return super().forward(x, size)

    torch.manual_seed(0)
    mine, data = Pair(MaskedModel(), MaskedGuide()).to(F64), {"x": batch(3)["x"].double()}
    R = 4000
    _, wanted = drawn(mine, IWELBO(4), data, R)
    alike(wanted, drawn(mine, IWELBO(4, gradient), data, R)[1])


@pytest.mark.slow
def test_shared_parameters_follow_every_occurrence():
    """One matrix in model and guide: its gradient is the sum of both parts."""
    mine, data = make("bottom-up")
    mine.guide.second = mine.model.up
    R = 4000
    _, wanted = drawn(mine, IWELBO(4), data, R)
    for gradient in ("stl", "dreg"):
        alike(wanted, drawn(mine, IWELBO(4, gradient), data, R)[1], gradient)


@pytest.mark.slow
def test_latents_of_all_data_and_autoguides():
    """The ELBO's own estimator takes latents that data share, and draws that only help to make others."""

    def model(x=None, size=None):
        scale = pyro.sample("s", dist.LogNormal(torch.zeros((), dtype=F64), 1.0))
        with pyro.plate("data", rows(x, size), dim=-1):
            pyro.sample("x", dist.Normal(torch.zeros(D, dtype=F64), scale.unsqueeze(-1)).to_event(1), obs=x)

    guide = AutoNormal(model)
    data = {"x": batch(4)["x"].double()}
    guide(**data)
    mine = Pair(model, guide.to(F64))
    stl = ELBO(kl="sampled", gradient="stl")
    alike(drawn(mine, ELBO(kl="sampled"), data, 4000)[1], drawn(mine, stl, data, 4000)[1])
    assert not torch.allclose(once(mine, ELBO(kl="sampled"), data)[1], once(mine, stl, data)[1])


# -- no noise at the posterior ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [
        ELBO(3, "sampled", "stl"),
        IWELBO(5, "stl"),
        IWELBO(5, "dreg"),
        Renyi(0.5, 5, "dreg"),
        CIWAE(0.3, 5, "stl"),
        MIWAE(3, 2, "dreg"),
        PIWAE(3, 2, "stl"),
    ],
)
def test_no_noise_where_the_guide_is_the_posterior(objective):
    torch.manual_seed(0)
    model, guide = PPCA(D, L).to(F64), LinearGaussian(D, L).to(F64)
    x = batch()["x"].double()
    mean, covariance = (t.detach() for t in model.posterior(x))
    gain = torch.linalg.lstsq(x, mean).solution.T  # the posterior's mean is linear in x, since b is zero
    guide.set_posterior(gain, torch.zeros(L, dtype=F64), covariance)
    mine = Pair(model, guide)
    own = part(mine, "guide")
    for seed in range(3):
        loss, gradient = once(mine, objective, {"x": x}, seed)
        torch.testing.assert_close(-loss, model.log_marginal(x).sum().detach())
        assert gradient[own].abs().max() < 1e-10
    if not isinstance(objective, ELBO):
        noisy = type(objective)(**{**vars(objective)["_arguments"], "gradient": "reparameterised"})
        assert once(mine, noisy, {"x": x})[1][own].abs().max() > 1e-2


# -- signal and noise -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_signal_of_the_guides_gradient_falls_with_the_particles_unless_dreg():
    """Rainforth et al. (2018): the guide's ratio falls as 1 / sqrt(K); with DReG it rises as sqrt(K)."""
    torch.manual_seed(0)
    model, guide = PPCA(D, L).to(F64), LinearGaussian(D, L).to(F64)
    x = batch(1)["x"].double()
    mean, covariance = (t.detach() for t in model.posterior(x))
    gain = mean.T @ x / x.square().sum()
    guide.set_posterior(gain, 0.05 * torch.ones(L, dtype=F64), 1.2 * covariance)  # near the posterior
    mine = Pair(model, guide)
    own = part(mine, "guide")

    def ratio(objective):
        _, grads = drawn(mine, objective, {"x": x}, 3000)
        found = (grads.mean(0).abs() / grads.std(0))[own]
        return found[torch.isfinite(found)].mean()

    plain, dreg = ([ratio(IWELBO(K, gradient)) for K in (1, 16, 256)] for gradient in ("reparameterised", "dreg"))
    # The floor of a ratio of nothing is about 1 / sqrt(3000) = 0.018.
    assert plain[0] > 1.5 * plain[1]
    assert dreg[2] > dreg[1] > dreg[0]
    assert dreg[2] > 10 * plain[2]


# -- discrete latents -------------------------------------------------------------------------------------------------


def exact_over_tuples(mine, x, K):
    """E[log mean_k w_k] of the switch, all K-tuples of its values written out."""
    q, p = torch.sigmoid(mine.guide.net(x)[..., 0]), torch.sigmoid(mine.model.logit)
    total = 0
    for values in itertools.product((0, 1), repeat=K):
        weights, log_q = [], 0
        for k in values:
            log_guide = (q if k else 1 - q).log()
            log_x = torch.distributions.Normal(mine.model.loc[k], 1.0).log_prob(x[:, 0])
            weights.append(log_x + (p if k else 1 - p).log() - log_guide)
            log_q = log_q + log_guide
        total = total + log_q.exp() * (torch.logsumexp(torch.stack(weights), 0) - math.log(K))
    return total.sum()


@pytest.mark.parametrize("K", [1, 2, 4])
def test_vimco_against_enumeration(K):
    torch.manual_seed(0)
    mine, data = Pair(Switch(), SwitchGuide()).to(F64), {"x": torch.tensor([[-1.5], [0.2], [2.0]], dtype=F64)}
    truth = -exact_over_tuples(mine, data["x"], K)
    losses, grads = drawn(mine, IWELBO(K, "vimco"), data, 4000)
    agree(losses, truth.detach(), "value")
    agree(grads, gradients(mine, truth), "gradient")
    own = part(mine, "guide")
    assert (grads[:, own].std(0) > 0).all()


@pytest.mark.slow
def test_control_variate_lessens_the_noise():
    torch.manual_seed(0)
    mine, data = Pair(Switch(), SwitchGuide()).to(F64), {"x": torch.tensor([[-1.5], [0.2], [2.0]], dtype=F64)}

    class Plain(IWELBO):
        """The score function with no control variate."""

        recordable = True

        def natural(self, run, guide_sites):
            bound = self.bound(run.log_w)
            score = (bound.detach() * run.log_q).sum()
            return bound.sum() + score - score.detach()

    _, plain = drawn(mine, Plain(6, "vimco"), data, 4000)
    _, vimco = drawn(mine, IWELBO(6, "vimco"), data, 4000)
    alike(plain, vimco)
    own = part(mine, "guide")
    assert (vimco[:, own].var(0) < 0.2 * plain[:, own].var(0)).all()


class Mixed(PyroModule):
    """z ~ N(0, 1), k ~ Bernoulli(sigmoid(z)), x ~ N(loc_k + z, 1)."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([-1.0, 1.5]))

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            k = pyro.sample("k", dist.Bernoulli(logits=z))
            loc = self.loc[0] + k * (self.loc[1] - self.loc[0]) + z
            return pyro.sample("x", dist.Normal(loc.unsqueeze(-1), 1.0).to_event(1), obs=x)


class MixedGuide(PyroModule):
    """z before k, on which it depends: the score of k reaches back through z."""

    def __init__(self):
        super().__init__()
        self.net, self.logit = nn.Linear(1, 1), nn.Parameter(torch.tensor([0.3, 1.2]))

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            z = pyro.sample("z", dist.Normal(self.net(x)[..., 0], 0.6))
            pyro.sample("k", dist.Bernoulli(logits=self.logit[0] + self.logit[1] * z))


@pytest.mark.slow
def test_vimco_beside_a_reparameterised_latent():
    """K = 2, its four pairs of k written out for given z: an average over z alone is left to chance."""
    torch.manual_seed(0)
    mine, data = Pair(Mixed(), MixedGuide()).to(F64), {"x": torch.tensor([[-1.5], [2.0]], dtype=F64)}
    x, model, guide, R = data["x"][:, 0], mine.model, mine.guide, 1500
    normal, bernoulli = torch.distributions.Normal, torch.distributions.Bernoulli
    grads = []
    for _ in range(R):
        loc = guide.net(data["x"])[..., 0]
        z = loc + 0.6 * torch.randn(2, 2, dtype=F64)
        q = bernoulli(logits=guide.logit[0] + guide.logit[1] * z)
        total = 0
        for values in itertools.product((0.0, 1.0), repeat=2):
            k = torch.tensor(values, dtype=F64).unsqueeze(-1).expand(2, 2)
            mean = model.loc[0] + k * (model.loc[1] - model.loc[0]) + z
            log_p = normal(0.0, 1.0).log_prob(z) + bernoulli(logits=z).log_prob(k) + normal(mean, 1.0).log_prob(x)
            log_w = log_p - normal(loc, 0.6).log_prob(z) - q.log_prob(k)
            total = total + (q.log_prob(k).sum(0).exp() * (torch.logsumexp(log_w, 0) - math.log(2))).sum()
        grads.append(gradients(mine, -total))
    _, got = drawn(mine, IWELBO(2, "vimco"), data, 8000)
    alike(torch.stack(grads), got)


@pytest.mark.slow
def test_wake_sleeps_estimators_share_their_mean():
    mine, data = make("bottom-up")
    R = 4000
    _, score = drawn(mine, ReweightedWakeSleep(4), data, R)
    _, dreg = drawn(mine, ReweightedWakeSleep(4, gradient="dreg"), data, R)
    alike(score, dreg)
    own = part(mine, "guide")
    assert (score.mean(0)[own].abs() > SE * score.std(0)[own] / R**0.5).any()
