"""The evidence lower bound: value and gradient against closed forms and enumeration, and against Pyro's own."""

from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from estimates import SE, agree, gradients, repeated
from operations import Operations
from own_pairs import (
    BottomUp,
    D,
    Guide,
    L,
    Model,
    Regression,
    Shared,
    SharedGuide,
    SharedSwitch,
    SharedSwitchGuide,
    Switch,
    SwitchGuide,
    TopDown,
    TwoLayers,
    batch,
    no_latents,
    pair,
    regression_data,
    rows,
)
from pairs import PAIRS
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule
from tiers import fast_in
from torch import nn

from ppl_vae import Pair, PairError, exact
from ppl_vae.core.errors import InputError
from ppl_vae.core.process import isolated
from ppl_vae.guides import LinearGaussian
from ppl_vae.models import PPCA
from ppl_vae.objectives import ELBO
from ppl_vae.pairs.handlers import KLWeight
from ppl_vae.pairs.sites import trace_pair
from ppl_vae.training.step import TrainingStep

F64 = torch.float64


def linear_pair(noise="isotropic"):
    """PPCA and the linear guide, both well away from where they start, in float64."""
    torch.manual_seed(3)
    model, guide = PPCA(D, L, noise), LinearGaussian(D, L)
    for parameter in [*model.parameters(), *guide.parameters()]:
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return Pair(model, guide).to(F64)


def closed_form(mine, x):
    """Minus the bound of PPCA under the linear guide, summed over the batch, differentiable in every parameter."""
    model, guide = mine.model, mine.guide
    root = guide.tril.tril(-1) + guide.tril.diagonal().exp().diag_embed()
    mean = x @ guide.gain.T + guide.offset
    return -exact.elbo(x, model.weight, model.bias, model.log_scale.exp(), mean, root @ root.T).sum()


# -- against closed forms ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
@pytest.mark.parametrize("particles", fast_in([3], [1, 3]))
@pytest.mark.parametrize("kl", ["analytic", "sampled"])
def test_value_and_gradient_against_the_closed_form(noise, particles, kl):
    mine, data = linear_pair(noise), {"x": batch(8)["x"].double()}
    truth = closed_form(mine, data["x"])
    losses, grads = repeated(mine, ELBO(particles, kl=kl), data, 600 // particles)
    agree(losses, truth.detach(), "value")
    agree(grads, gradients(mine, truth), "gradient")
    assert losses.std() > 0


def test_exact_posterior_leaves_no_noise_in_the_sampled_bound():
    torch.manual_seed(0)
    model, guide = PPCA(D, L).to(F64), LinearGaussian(D, L).to(F64)
    x = batch()["x"].double()
    mean, covariance = (t.detach() for t in model.posterior(x))
    gain = torch.linalg.lstsq(x, mean).solution.T  # the posterior's mean is linear in x, since b is zero
    guide.set_posterior(gain, torch.zeros(L, dtype=F64), covariance)
    loss = ELBO(kl="sampled").loss(model, guide, x=x)
    torch.testing.assert_close(-loss, model.log_marginal(x).sum().detach())


@pytest.mark.slow
def test_more_particles_mean_less_noise_and_the_same_value():
    mine, data = pair(), batch(8)
    one = torch.stack([ELBO(1, kl="sampled").loss(*mine.programs(), **data) for _ in range(400)])
    many = torch.stack([ELBO(16, kl="sampled").loss(*mine.programs(), **data) for _ in range(400)])
    difference = (one.mean() - many.mean()).abs()
    assert difference < SE * (one.var() / 400 + many.var() / 400).sqrt()
    ratio = one.var() / many.var()  # 16 in expectation; its logarithm has standard error sqrt(4 / 400) = 0.1
    assert abs(ratio.log() - torch.tensor(16.0).log()) < SE * 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    fast_in(
        {"vae-bernoulli-full"}, ["vae-bernoulli", "vae-bernoulli-full", "vae-bernoulli-isotropic", "vae-normal-decoder"]
    ),
)
@pytest.mark.parametrize("kl", ["analytic", "sampled"])
def test_analytic_and_sampled_and_pyro_agree(name, kl):
    case = PAIRS[name]
    mine, data = Pair(*case.build()), case.batch()
    theirs = TraceMeanField_ELBO() if name == "vae-bernoulli" else Trace_ELBO()
    R = 300
    losses, _ = repeated(mine, ELBO(kl=kl), data, R)
    reference = torch.stack([theirs.differentiable_loss(*mine.programs(), **data).detach() for _ in range(R)])
    assert (losses.mean() - reference.mean()).abs() < SE * ((losses.var() + reference.var()) / R).sqrt()


def test_equals_pyro_draw_by_draw():
    mine, data = pair(), batch()
    for ours, theirs in ((ELBO(kl="sampled"), Trace_ELBO()), (ELBO(kl="analytic"), TraceMeanField_ELBO())):
        found = []
        for objective in (ours, theirs):
            torch.manual_seed(1)
            mine.zero_grad()
            value = objective.loss_and_grads(*mine.programs(), **data)
            found.append((float(value), torch.cat([p.grad.flatten() for p in mine.parameters()])))
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
        torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-4)


def test_halves_sum_to_the_loss_and_the_rate_is_the_kl():
    mine, data = pair(), batch()
    torch.manual_seed(0)
    parts = ELBO().distortion_and_rate(*mine.programs(), **data)
    torch.manual_seed(0)
    loss = ELBO().loss(*mine.programs(), **data)
    torch.testing.assert_close(parts["distortion"] + parts["rate"], loss)
    q = torch.distributions.Normal(mine.guide.net(data["x"]), mine.guide.scale)
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(parts["rate"], kl)


# -- where the analytic KL is valid -----------------------------------------------------------------------------------


def two_layers(guide):
    """The pair and data; z2 follows z1 closely in the bottom-up guide, and z1 follows z2 in the model."""
    torch.manual_seed(0)
    mine = Pair(TwoLayers(), guide())
    mine.model.up.weight.data.copy_(torch.eye(L))
    if guide is BottomUp:
        mine.guide.second.weight.data.copy_(3 * torch.eye(L))
    return mine, {"x": 0.3 * batch(8)["x"]}


@pytest.mark.slow
def test_bottom_up_guide_makes_auto_fall_back_and_analytic_raise():
    mine, data = two_layers(BottomUp)
    line = r"site 'z1': expected a KL in closed form; got a model that conditions on latents the guide draws later"
    with pytest.raises(PairError, match=line):
        ELBO(kl="analytic").loss(*mine.programs(), **data)
    R = 600
    auto, auto_grads = repeated(mine, ELBO(), data, R)
    sampled, sampled_grads = repeated(mine, ELBO(kl="sampled"), data, R)
    assert (auto.mean() - sampled.mean()).abs() < SE * ((auto.var() + sampled.var()) / R).sqrt()
    off = (auto_grads.mean(0) - sampled_grads.mean(0)).abs()
    assert (off <= SE * ((auto_grads.var(0) + sampled_grads.var(0)) / R).sqrt() + 1e-4).all()


def test_the_wrong_closed_form_would_be_seen():
    """KL(q(z1|x) || p(z1|z2)) with z2 from the guide, taken as it stands, differs: the test above can fail."""
    mine, data = two_layers(BottomUp)
    x, (model, guide) = data["x"], (mine.model, mine.guide)
    normal, kl = torch.distributions.Normal, torch.distributions.kl_divergence
    gaps = []
    with torch.no_grad():
        for _ in range(400):
            q1 = normal(guide.first(x), 0.5)
            z1 = q1.sample()
            z2 = normal(guide.second(z1), 0.8).sample()
            p1 = normal(model.up(z2), 1.0)
            gaps.append((kl(q1, p1) - q1.log_prob(z1) + p1.log_prob(z1)).sum())
    gaps = torch.stack(gaps)
    assert gaps.mean().abs() > 10 * gaps.std() / 20
    # The gap is cov(z1, z2) under the guide: 0.5^2 * 3 in each of two coordinates of eight data.
    assert (gaps.mean() - 0.25 * 3 * L * 8).abs() < SE * gaps.std() / 20


@pytest.mark.slow
def test_top_down_guide_may_use_the_closed_form():
    mine, data = two_layers(TopDown)
    R = 600
    analytic, analytic_grads = repeated(mine, ELBO(kl="analytic"), data, R)
    sampled, sampled_grads = repeated(mine, ELBO(kl="sampled"), data, R)
    assert (analytic.mean() - sampled.mean()).abs() < SE * ((analytic.var() + sampled.var()) / R).sqrt()
    off = (analytic_grads.mean(0) - sampled_grads.mean(0)).abs()
    assert (off <= SE * ((analytic_grads.var(0) + sampled_grads.var(0)) / R).sqrt() + 1e-4).all()
    assert analytic.var() < sampled.var()


def test_no_closed_form():
    class Laplace(Model):
        def forward(self, x=None, size=None):
            with pyro.plate("data", rows(x, size), dim=-1):
                z = pyro.sample("z", dist.StudentT(3.0, self.loc, 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)

    mine = Pair(Laplace(), Guide())
    with pytest.raises(
        PairError, match=r"site 'z': expected a KL in closed form; got no closed form for Independent and"
    ):
        ELBO(kl="analytic").loss(*mine.programs(), **batch())
    assert torch.isfinite(ELBO().loss(*mine.programs(), **batch()))


@pytest.mark.parametrize("auto", [AutoNormal, AutoMultivariateNormal])
@pytest.mark.parametrize("kl", ["auto", "sampled"])
def test_autoguide_with_a_change_of_variables_agrees_with_pyro(auto, kl):
    model = Regression()
    mine, data = Pair(model, auto(model)), regression_data(10)
    mine.check(data)
    for ours, theirs in ((ELBO(kl=kl), Trace_ELBO()),):
        found = []
        for objective in (ours, theirs):
            torch.manual_seed(2)
            found.append(float(objective.loss(*mine.programs(), **data)))
        assert found[0] == pytest.approx(found[1], rel=1e-5)


# -- latents that cannot be reparameterised ---------------------------------------------------------------------------


def enumerated_bound(mine, x):
    """The bound of the switch, summed over data, its two values of k written out."""
    model, guide = mine.model, mine.guide
    q = torch.sigmoid(guide.net(x)[..., 0])
    p = torch.sigmoid(model.logit)
    terms = []
    for k, (weight, prior) in enumerate(((1 - q, 1 - p), (q, p))):
        log_x = torch.distributions.Normal(model.loc[k], 1.0).log_prob(x[:, 0])
        terms.append(weight * (log_x + prior.log() - weight.log()))
    return sum(terms).sum()


@pytest.mark.slow
@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("kl", ["auto", "sampled"])
def test_score_function_gradient_against_enumeration(particles, kl):
    torch.manual_seed(0)
    mine = Pair(Switch(), SwitchGuide())
    data = {"x": torch.tensor([[-1.5], [0.2], [2.0]])}
    truth = -enumerated_bound(mine, data["x"])
    losses, grads = repeated(mine, ELBO(particles, kl=kl), data, 4000 // particles)
    agree(losses, truth.detach(), "value")
    agree(grads, gradients(mine, truth), "gradient")
    net = slice(3, 5)
    assert (grads[:, net].std(0) > 0).all()


@pytest.mark.slow
def test_baseline_of_other_particles_lessens_the_noise():
    torch.manual_seed(0)
    mine = Pair(Switch(), SwitchGuide())
    data = {"x": torch.tensor([[-3.5], [0.2], [4.0]])}
    _, one = repeated(mine, ELBO(1, kl="sampled"), data, 800)
    _, four = repeated(mine, ELBO(4, kl="sampled"), data, 800)
    net = slice(3, 5)
    assert (four[:, net].var(0) < one[:, net].var(0) / 4).all()  # four times less without it, and less yet with it


@pytest.mark.slow
@pytest.mark.parametrize("particles", [1, 4])
def test_score_function_gradient_of_a_shared_latent(particles):
    mine, x = Pair(SharedSwitch(), SharedSwitchGuide()), torch.tensor([[-0.5], [0.2], [1.0]])
    model, q = mine.model, torch.sigmoid(mine.guide.logit)
    p = torch.sigmoid(model.logit)
    truth = torch.zeros(())
    for k, (weight, prior) in enumerate(((1 - q, 1 - p), (q, p))):
        log_x = torch.distributions.Normal(model.loc[k], 1.0).log_prob(x[:, 0]).sum()
        truth = truth - weight * (log_x + prior.log() - weight.log())
    losses, grads = repeated(mine, ELBO(particles, kl="sampled"), {"x": x}, 4000 // particles)
    agree(losses, truth.detach(), "value")
    agree(grads, gradients(mine, truth), "gradient")


@pytest.mark.slow
def test_two_discrete_latents_against_enumeration():
    """The second is drawn given the first, and both feed the likelihood: each site's score carries the whole reward."""

    class Chain(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.tensor([-1.0, 0.5, 1.0, 2.0]))

        def forward(self, x=None, size=None):
            with pyro.plate("data", rows(x, size), dim=-1):
                a = pyro.sample("a", dist.Bernoulli(0.3))
                b = pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))
                loc = self.loc[(2 * a + b).long()]
                return pyro.sample("x", dist.Normal(loc.unsqueeze(-1), 1.0).to_event(1), obs=x)

    class ChainGuide(PyroModule):
        def __init__(self):
            super().__init__()
            self.first = nn.Parameter(torch.tensor(0.3))
            self.second = nn.Parameter(torch.tensor([-0.4, 0.6]))

        def forward(self, x=None, size=None):
            with pyro.plate("data", rows(x, size), dim=-1):
                a = pyro.sample("a", dist.Bernoulli(logits=self.first))
                pyro.sample("b", dist.Bernoulli(logits=self.second[a.long()]))

    mine, x = Pair(Chain(), ChainGuide()), torch.tensor([[-0.5], [1.2]])
    bernoulli, truth = torch.distributions.Bernoulli, torch.zeros(())
    for a, b in itertools.product((0.0, 1.0), repeat=2):
        a, b = torch.tensor(a), torch.tensor(b)
        log_q = bernoulli(logits=mine.guide.first).log_prob(a) + bernoulli(logits=mine.guide.second[a.long()]).log_prob(
            b
        )
        log_p = bernoulli(0.3).log_prob(a) + bernoulli(0.2 + 0.5 * a).log_prob(b)
        log_x = torch.distributions.Normal(mine.model.loc[(2 * a + b).long()], 1.0).log_prob(x[:, 0])
        truth = truth - (log_q.exp() * (log_x + log_p - log_q)).sum()
    losses, grads = repeated(mine, ELBO(2), {"x": x}, 2500)
    agree(losses, truth.detach(), "value")
    agree(grads, gradients(mine, truth), "gradient")


# -- scales, masks and weights ----------------------------------------------------------------------------------------


def subsampling(size, subsample_size=None, subsample=None):
    """A pair in a plain script, its plate drawing rows of `full` by itself."""
    full = batch(size)["x"]
    model, guide = Model(), Guide()

    def run_model():
        with pyro.plate("data", size, subsample_size, subsample=subsample, dim=-1) as index:
            z = pyro.sample("z", dist.Normal(model.loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(model.net(z), model.scale).to_event(1), obs=full[index])

    def run_guide():
        with pyro.plate("data", size, subsample_size, subsample=subsample, dim=-1) as index:
            pyro.sample("z", dist.Normal(guide.net(full[index]), guide.scale).to_event(1))

    return Pair(run_model, run_guide).programs(), Pair(model, guide).programs(), full


@pytest.mark.slow
@pytest.mark.parametrize("particles", [1, 3])
def test_subsampling_plate_scales_the_bound(particles):
    torch.manual_seed(0)
    subsampled, programs, full = subsampling(12, 4)
    draws = torch.stack([ELBO(particles).loss(*subsampled) for _ in range(1500)])
    reference = torch.stack([ELBO().loss(*programs, x=full) for _ in range(1500)])
    assert (draws.mean() - reference.mean()).abs() < SE * ((draws.var() + reference.var()) / 1500).sqrt()


def test_subsampled_rows_are_the_same_in_model_and_guide():
    torch.manual_seed(0)
    subsampled, programs, full = subsampling(12, subsample=torch.tensor([1, 7, 8]))
    torch.manual_seed(4)
    found = ELBO().loss(*subsampled)
    torch.manual_seed(4)
    torch.testing.assert_close(found, 4 * ELBO().loss(*programs, x=full[[1, 7, 8]]))


@pytest.mark.slow
@pytest.mark.parametrize("kl", ["analytic", "sampled"])
def test_mask_leaves_data_out(kl):
    mine, x = pair(), batch(6)["x"]
    kept = torch.tensor([True, False, True, True, False, True])
    masked = [poutine.mask(program, mask=kept) for program in mine.programs()]
    R = 600
    all_rows = torch.stack([ELBO(kl=kl).loss(*masked, x=x) for _ in range(R)])
    few_rows = torch.stack([ELBO(kl=kl).loss(*mine.programs(), x=x[kept]) for _ in range(R)])
    assert (all_rows.mean() - few_rows.mean()).abs() < SE * ((all_rows.var() + few_rows.var()) / R).sqrt()
    weights = poutine.mask(mine.model, mask=kept), poutine.mask(mine.guide, mask=kept)
    assert (Pair(*weights).log_weights({"x": x}, 2)[:, ~kept] == 0).all()


@pytest.mark.parametrize("kl", ["analytic", "sampled"])
def test_scale_from_outside(kl):
    mine, data = pair(), batch(6)
    torch.manual_seed(0)
    whole = ELBO(kl=kl).loss(*mine.programs(), **data)
    torch.manual_seed(0)
    half = ELBO(kl=kl).loss(*(poutine.scale(program, scale=0.5) for program in mine.programs()), **data)
    torch.testing.assert_close(half, whole / 2)


@pytest.mark.slow
@pytest.mark.parametrize("objective", [ELBO(), ELBO(kl="sampled"), ELBO(2), Trace_ELBO(), TraceMeanField_ELBO()])
def test_weight_on_the_kl_reaches_both_programs(objective):
    mine, data = pair(), batch(6)
    values = {}
    for beta in (0.0, 0.25, 1.0):
        torch.manual_seed(0)
        weight = KLWeight(torch.tensor(beta))
        values[beta] = float(objective.loss(*(weight(program) for program in mine.programs()), **data))
    # Linear in the weight; at zero only the distortion is left.
    assert values[0.25] == pytest.approx(0.75 * values[0.0] + 0.25 * values[1.0], rel=1e-4)
    torch.manual_seed(0)
    sampled = torch.stack([ELBO().distortion_and_rate(*mine.programs(), **data)["distortion"] for _ in range(300)])
    assert abs(values[0.0] - sampled.mean()) < 6 * sampled.std()  # one draw of it


# -- in the hands of Pyro ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_plain_svi_script_reaches_the_closed_form_maximum():
    # s and b are PPCA's own; equal names in model and guide would be one parameter in a plain script, and these differ.
    torch.manual_seed(0)
    x = torch.randn(200, L) @ torch.randn(L, D) + 0.4 * torch.randn(200, D)
    model, guide = PPCA(D, L), LinearGaussian(D, L)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), loss=ELBO())
    losses = [svi.step(x=x) for _ in range(500)]
    assert isinstance(losses[0], float)
    best = exact.log_marginal(x, *exact.ppca_maximum_likelihood(x, L)).mean()
    assert model.log_marginal(x).mean() > best - 0.05
    assert svi.evaluate_loss(x=x) / 200 == pytest.approx(-float(best), abs=0.1)


def test_called_on_a_model_and_a_guide_it_is_a_module():
    model, guide = PPCA(D, L), LinearGaussian(D, L)
    bound = ELBO(2)(model, guide)
    loss = bound(x=batch()["x"])
    loss.backward()
    assert {id(p) for p in bound.parameters()} == {id(p) for p in [*model.parameters(), *guide.parameters()]}
    assert all(p.grad is not None for p in bound.parameters())


@pytest.mark.slow
def test_shared_latents_agree_with_pyro():
    mine, data = Pair(Shared(), SharedGuide()), batch(6)
    R = 400
    for particles in (1, 3):
        ours = torch.stack([ELBO(particles).loss(*mine.programs(), **data) for _ in range(R)])
        theirs = torch.tensor([Trace_ELBO().loss(*mine.programs(), **data) for _ in range(R)])
        assert (ours.mean() - theirs.mean()).abs() < SE * ((ours.var() + theirs.var()) / R).sqrt()


# -- no read-back -----------------------------------------------------------------------------------------------------


def step_of(mine, objective, **options):
    optimizer = torch.optim.Adam(mine.parameters(), lr=1e-3, fused=True)
    return TrainingStep(mine, objective, optimizer, **options)


@pytest.mark.parametrize("name", ["ppca-linear", "vae-bernoulli-full", "vae-normal-decoder", "vae-conv-bernoulli"])
@pytest.mark.parametrize("particles", [1, 3])
def test_a_step_reads_nothing_back(name, particles):
    case = PAIRS[name]
    mine, data = Pair(*case.build()), case.batch()
    step = step_of(mine, ELBO(particles), compile="off", clip_norm=1.0, weighted=True)
    with isolated():
        step(data)  # the optimiser makes its state in the first step
        with Operations() as operations:
            step.set(lr=1e-3, kl_weight=0.5)
            step(data)
    assert len(operations.names) > 50
    assert operations.read_backs == []


def test_a_read_back_would_be_seen():
    mine, data = pair(), batch()
    step = step_of(mine, Trace_ELBO())
    with isolated(), Operations() as operations:
        step(data)
    assert operations.read_backs


@pytest.mark.parametrize("discrete", [True, False])
def test_other_kinds_of_latents_read_nothing_back(discrete):
    mine = Pair(Switch(), SwitchGuide()) if discrete else Pair(Shared(), SharedGuide())
    data = {"x": torch.randn(6, 1)} if discrete else batch(6)
    step = step_of(mine, ELBO(2), compile="off", data_size=None if discrete else 60)
    with isolated():
        step(data)
        with Operations() as operations:
            step(data)
    assert operations.read_backs == []


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_bad_arguments():
    with pytest.raises(InputError, match=r"num_particles: expected an integer >= 1; got 0"):
        ELBO(0)
    with pytest.raises(InputError, match=r"unknown kl: expected one of .*, sampled; got 'analytical'; try 'analytic'"):
        ELBO(kl="analytical")


def test_a_plain_script_with_sites_that_do_not_match():
    with pytest.raises(PairError, match=r"site 'z2': expected every latent sampled by the guide; got a guide"):
        ELBO().loss(TwoLayers(), no_latents, **batch())

    def guide(x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("z2", dist.Normal(0.0, 1.0))

    with pytest.raises(PairError, match=r"site 'z2': expected only latents of the model in the guide; got one"):
        ELBO().loss(Model(), guide, **batch())


def test_a_kl_of_two_scales_is_sampled():
    """A closed form has one scale: with another in the model, log p(z) and log q(z) must be weighed apart."""
    model, guide = PAIRS["ppca-linear"].build()
    batch = PAIRS["ppca-linear"].batch()

    class Half(type(model)):
        def forward(self, x=None, size=None):
            with pyro.poutine.scale(scale=0.5):
                return super().forward(x, size)

    model.__class__ = Half
    K = 4000
    with torch.no_grad():
        run = trace_pair(*Pair(model, guide).programs(), (), batch, K)
        terms = [site["fn"].log_prob(site["value"]) for site in run.guide.values()]
        terms += [-0.5 * site["fn"].log_prob(site["value"]) for site in run.model.values()]
        wanted = sum(terms).sum(-1)
        got = torch.stack([ELBO(num_particles=200).loss(*Pair(model, guide).programs(), **batch) for _ in range(20)])
    error = (wanted.var() / K + got.var() / 20).sqrt()
    assert abs(got.mean() - wanted.mean()) < 4 * error
    with pytest.raises(PairError, match="got another scale or mask in the model than in the guide"):
        ELBO(kl="analytic").loss(*Pair(model, guide).programs(), **batch)
