"""Reweighted wake-sleep: each phase against its exact gradient on models small enough to write it out."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from estimates import SE, agree, drawn, gradients, once, part
from own_pairs import D, Guide, L, Model, Switch, SwitchGuide, batch, rows
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

from ppl_vae import Pair, PairError
from ppl_vae.core.errors import InputError
from ppl_vae.objectives import IWELBO, ReweightedWakeSleep
from ppl_vae.pairs.handlers import KLWeight

F64 = torch.float64
SAME = {"rtol": 1e-9, "atol": 1e-9}


def switch():
    torch.manual_seed(0)
    return Pair(Switch(), SwitchGuide()).to(F64), {"x": torch.tensor([[-1.5], [0.2], [2.0]], dtype=F64)}


def joint(model, x):
    """log p(x, k) for both values of k, (2, N)."""
    prior = torch.stack([-model.logit, model.logit]).sigmoid().log()
    return torch.distributions.Normal(model.loc.unsqueeze(-1), 1.0).log_prob(x) + prior.unsqueeze(-1)


def log_guide(guide, x):
    """log q(k | x) for both values of k, (2, N)."""
    logit = guide.net(x.unsqueeze(-1))[..., 0]
    return torch.stack([-logit, logit]).sigmoid().log()


def test_the_value_is_the_importance_weighted_bound():
    mine, data = switch()
    for insomnia in (0.0, 0.5, 1.0):
        got = once(mine, ReweightedWakeSleep(5, insomnia), data)[0]
        torch.testing.assert_close(got, once(mine, IWELBO(5, "vimco"), data)[0], **SAME)


def test_the_models_gradient_is_that_of_the_importance_weighted_bound():
    mine, data = switch()
    model = part(mine, "model")
    for insomnia in (0.0, 0.5, 1.0):
        _, got = once(mine, ReweightedWakeSleep(5, insomnia), data)
        torch.testing.assert_close(got[model], once(mine, IWELBO(5, "vimco"), data)[1][model], **SAME)


@pytest.mark.slow
def test_wake_phase_tends_to_the_divergence_from_the_posterior():
    """-sum_k p(k | x) dlog q(k | x)/dphi, to which the estimate comes near as K grows."""
    mine, data = switch()
    x, own = data["x"][:, 0], part(mine, "guide")
    posterior = joint(mine.model, x).softmax(0).detach()
    truth = gradients(mine, -(posterior * log_guide(mine.guide, x)).sum())[own]
    gaps = []
    for K in (1, 8, 512):
        _, grads = drawn(mine, ReweightedWakeSleep(K), data, 4000)
        gaps.append((grads[:, own].mean(0) - truth).norm())
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2]
    # The bias at K = 512 is of order 1 / K, an eighth of what 4000 draws can resolve.
    agree(grads[:, own], truth)
    _, first = drawn(mine, ReweightedWakeSleep(1), data, 4000)
    agree(first[:, own], torch.zeros_like(truth))  # with one particle nothing is learnt from the data


def test_sleep_phase_against_quadrature():
    """-E_p(x, k)[dlog q(k | x)/dphi], times the number of data."""
    mine, data = switch()
    own = part(mine, "guide")
    grid = torch.linspace(-12, 14, 4001, dtype=F64)
    weights = joint(mine.model, grid).exp().detach() * (grid[1] - grid[0])
    assert abs(weights.sum() - 1) < 1e-9
    truth = len(data["x"]) * gradients(mine, -(weights * log_guide(mine.guide, grid)).sum())[own]
    _, grads = drawn(mine, ReweightedWakeSleep(3, insomnia=0.0), data, 20_000)
    agree(grads[:, own], truth)
    assert (grads[:, own].std(0) > 0).all()


def test_insomnia_weighs_the_two_phases():
    mine, data = switch()
    (_, wake), (_, sleep), (_, both) = (once(mine, ReweightedWakeSleep(4, i), data) for i in (1.0, 0.0, 0.3))
    torch.testing.assert_close(both, 0.3 * wake + 0.7 * sleep, **SAME)
    assert not torch.allclose(wake, sleep)


def test_a_sleeping_model_is_not_moved():
    """What it dreams has no gradient back into the model, though z is reparameterised."""
    torch.manual_seed(0)
    mine, data = Pair(Model(), Guide()), batch(4)
    model = part(mine, "model")
    _, sleep = once(mine, ReweightedWakeSleep(3, insomnia=0.0), data)
    torch.testing.assert_close(sleep[model], once(mine, IWELBO(3), data)[1][model])


def test_sleep_keeps_what_the_model_conditions_on_and_takes_positions():
    class Conditioned(PyroModule):
        """z ~ N(c, I), x ~ N(z, 0.1^2 I)."""

        def forward(self, x, c):
            with pyro.plate("data", rows(x, None), dim=-1):
                z = pyro.sample("z", dist.Normal(c, 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(z, 0.1).to_event(1), obs=x)

    seen = []

    class Looking(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 2)

        def forward(self, x, c):
            seen.append((x, c))
            with pyro.plate("data", rows(x, None), dim=-1):
                pyro.sample("z", dist.Normal(self.net(x) + c, 1.0).to_event(1))

    x, c = torch.randn(3, 2), torch.tensor([[50.0, 0.0], [0.0, 90.0], [0.0, 0.0]])
    model, guide = Conditioned(), Looking()
    for call in ({"args": (x, c)}, {"kwargs": {"x": x, "c": c}}):
        seen.clear()
        objective = ReweightedWakeSleep(2, insomnia=0.0)
        objective.differentiable_loss(model, guide, *call.get("args", ()), **call.get("kwargs", {}))
        awake, asleep = seen
        assert awake[0] is x
        assert asleep[1] is c
        assert asleep[0].shape == x.shape
        assert not torch.equal(asleep[0], x)
        assert ((asleep[0] - c).abs() < 6).all()


# -- mistakes ---------------------------------------------------------------------------------------------------------


def refusal(objective, mine, data, programs=None):
    with pytest.raises(PairError) as caught:
        once(mine, objective, data, programs=programs)
    return str(caught.value)


def test_bad_arguments():
    for insomnia in (-0.1, 1.5, float("nan"), "never"):
        with pytest.raises(InputError, match=r"insomnia: expected a number from 0 to 1; got .*; try insomnia=0.5"):
            ReweightedWakeSleep(insomnia=insomnia)
    with pytest.raises(InputError, match=r"unknown gradient: expected one of dreg, score; got 'scor'; try 'score'"):
        ReweightedWakeSleep(gradient="scor")


def test_a_weight_on_the_kl_is_refused():
    mine, data = switch()
    weight = KLWeight(torch.tensor(0.5))
    text = refusal(ReweightedWakeSleep(3), mine, data, [weight(program) for program in mine.programs()])
    assert text.startswith("site 'k': expected no weight on the KL, since the guide's wake phase has none; got another")
    assert text.endswith("try kl_warmup=0, or ppl_vae.objectives.IWELBO()")


def test_a_discrete_latent_has_no_path():
    mine, data = switch()
    text = refusal(ReweightedWakeSleep(3, gradient="dreg"), mine, data)
    assert "site 'k': expected a latent with a reparameterised sampler, for gradient='dreg'; got Bernoulli" in text


def test_an_enumerated_latent_has_no_path():
    class Summed(SwitchGuide):
        def forward(self, x=None, size=None):
            return poutine.infer_config(super().forward, lambda site: {"enumerate": "parallel"})(x)

    mine, data = switch()
    text = refusal(ReweightedWakeSleep(3, gradient="dreg"), Pair(mine.model, Summed().to(F64)), data)
    assert text == "site 'k': expected no latent to be enumerated, for gradient='dreg'; got one; try gradient='score'"


def test_sleep_needs_the_observation_as_an_argument():
    class Doubled(Model):
        def forward(self, x=None, size=None):
            return super().forward(2 * x)

    text = refusal(ReweightedWakeSleep(3, insomnia=0.5), Pair(Doubled(), Guide()), batch(4))
    assert "site 'x': expected what the model observes to be an argument as it stands" in text
    assert text.endswith("try pyro.sample('x', …, obs=x), or insomnia=1")
    assert torch.isfinite(once(Pair(Doubled(), Guide()), ReweightedWakeSleep(3), batch(4))[0])


def test_sleep_cannot_score_a_latent_that_only_helps():
    class Helped(Guide):
        def forward(self, x=None, size=None):
            with pyro.plate("data", len(x), dim=-1):
                help = pyro.sample("h", dist.Normal(torch.zeros(L), 1.0).to_event(1), infer={"is_auxiliary": True})
                pyro.sample("z", dist.Delta(self.net(x) + help, event_dim=1))

    text = refusal(ReweightedWakeSleep(3, insomnia=0.5), Pair(Model(), Helped()), batch(4))
    assert text.startswith("site 'h': expected only latents of the model in the guide, for the sleep phase; got one")


def test_latents_of_all_data_are_refused():
    def model(x=None, size=None):
        scale = pyro.sample("s", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", rows(x, size), dim=-1):
            pyro.sample("x", dist.Normal(torch.zeros(D), scale.unsqueeze(-1)).to_event(1), obs=x)

    guide = AutoNormal(model)
    guide(**batch(4))
    assert "got a site outside it; try ppl_vae.objectives.ELBO()" in refusal(
        ReweightedWakeSleep(3), Pair(model, guide), batch(4)
    )


@pytest.mark.slow
def test_signal_of_the_wake_phase_grows_with_the_particles():
    mine, data = switch()
    own = part(mine, "guide")
    ratios = []
    for K in (4, 64):
        _, grads = drawn(mine, ReweightedWakeSleep(K), data, 4000)
        ratios.append((grads.mean(0).abs() / grads.std(0))[own].mean())
    assert ratios[1] > 3 * ratios[0]  # four times in expectation
    assert ratios[0] > SE / 4000**0.5
