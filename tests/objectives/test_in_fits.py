"""Every objective in the hands of the engine, of Pyro and of the command line; and what is refused, in words."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from operations import Operations
from own_pairs import (
    BottomUp,
    Guide,
    L,
    Mixture,
    Model,
    Shared,
    SharedGuide,
    Switch,
    SwitchGuide,
    TwoLayers,
    batch,
    no_latents,
    pair,
    rows,
)
from pairs import PAIRS
from pyro import poutine
from pyro.infer import SVI
from pyro.nn import PyroModule
from tiers import fast_in
from torch import nn

import ppl_vae
from ppl_vae import Pair, PairError
from ppl_vae.cli import parse
from ppl_vae.core import config
from ppl_vae.core.errors import InputError
from ppl_vae.core.process import isolated
from ppl_vae.objectives import CIWAE, ELBO, IWELBO, MIWAE, PIWAE, Renyi, ReweightedWakeSleep
from ppl_vae.pairs.handlers import KLWeight
from ppl_vae.training.step import TrainingStep

OBJECTIVES = {
    "elbo": ELBO(3),
    "elbo-stl": ELBO(3, "sampled", "stl"),
    **{f"iwelbo-{gradient}": IWELBO(3, gradient) for gradient in IWELBO.GRADIENTS},
    **{f"renyi-{gradient}": Renyi(0.5, 3, gradient) for gradient in Renyi.GRADIENTS},
    "renyi-max": Renyi(-math.inf, 3),
    **{f"ciwae-{gradient}": CIWAE(0.3, 3, gradient) for gradient in CIWAE.GRADIENTS},
    **{f"miwae-{gradient}": MIWAE(2, 2, gradient) for gradient in MIWAE.GRADIENTS},
    **{f"piwae-{gradient}": PIWAE(2, 2, gradient) for gradient in PIWAE.GRADIENTS},
    **{f"wake-{gradient}": ReweightedWakeSleep(3, gradient=gradient) for gradient in ReweightedWakeSleep.GRADIENTS},
    "wake-sleep": ReweightedWakeSleep(3, insomnia=0.5),
}


class DiscreteAndNormal(PyroModule):
    """k ~ Bernoulli, summed out by the guide, z ~ N(0, I), x ~ N(net(z) + shift_k, I)."""

    def __init__(self):
        super().__init__()
        self.net, self.shift = nn.Linear(L, 5), nn.Parameter(torch.tensor([-1.0, 1.0]))

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.3)))
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            shift = self.shift[k.long()].unsqueeze(-1)
            return pyro.sample("x", dist.Normal(self.net(z) + shift, 1.0).to_event(1), obs=x)


class DiscreteAndNormalGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.logit, self.net, self.shift = nn.Linear(5, 1), nn.Linear(5, L), nn.Parameter(torch.tensor([0.1, -0.4]))

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            k = pyro.sample("k", dist.Bernoulli(logits=self.logit(x)[..., 0]), infer={"enumerate": "parallel"})
            z = self.net(x) + self.shift[k.long()].unsqueeze(-1)
            pyro.sample("z", dist.Normal(z, 0.5).to_event(1))


def scalars(size, seed):
    return {"x": batch(size, seed)["x"][:, :1]}


SUMMED_BY_GUIDE = (lambda: Pair(DiscreteAndNormal(), DiscreteAndNormalGuide()), batch)
SUMMED_BY_MODEL = (lambda: Pair(Mixture(), no_latents), scalars)


def cases():
    two_layers = (lambda: Pair(TwoLayers(), BottomUp()), batch)
    for name, objective in OBJECTIVES.items():
        yield pytest.param(objective, *two_layers, id=name)
        if name in ("elbo", "elbo-stl", "iwelbo-stl", "iwelbo-vimco", "renyi-dreg", "piwae-dreg", "wake-sleep"):
            yield pytest.param(objective, *SUMMED_BY_GUIDE, id=f"{name}-summed by the guide")
    for name in ("iwelbo-vimco", "wake-score", "wake-sleep", "elbo"):
        yield pytest.param(OBJECTIVES[name], *SUMMED_BY_MODEL, id=f"{name}-summed by the model")
        yield pytest.param(OBJECTIVES[name], lambda: Pair(Switch(), SwitchGuide()), scalars, id=f"{name}-drawn")


def fast_cases(few):
    """Return the cases, those marked as slow whose names are not in `few`."""
    for case in cases():
        yield case if case.id in few else pytest.param(*case.values, id=case.id, marks=pytest.mark.slow)


def steps(objective, make, data, path, weighted):
    torch.manual_seed(0)
    mine = make()
    optimizer = torch.optim.SGD(mine.parameters(), 1e-2)
    step = TrainingStep(mine, objective, optimizer, compile=path, weighted=weighted)
    losses = []
    with isolated(3):
        for i in range(3):
            step.set(lr=1e-2, kl_weight=(i + 1) / 3 if weighted else 1.0)
            losses.append(step(data(6, seed=i)))
    return step, torch.stack(losses), torch.cat([p.detach().flatten() for p in mine.parameters()])


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("objective", "make", "data"),
    fast_cases(
        {
            "elbo",
            "iwelbo-dreg",
            "wake-sleep",
            "elbo-summed by the guide",
            "iwelbo-vimco-summed by the model",
            "elbo-drawn",
        }
    ),
)
def test_recorded_and_eager_are_equal(objective, make, data):
    weighted = not isinstance(objective, ReweightedWakeSleep) and make is not SUMMED_BY_MODEL[0]
    _, wanted, there = steps(objective, make, data, "off", weighted)
    step, got, here = steps(objective, make, data, "graph", weighted)
    assert step.paths == {6: "graph"}
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("objective", "make", "data"), list(cases()))
def test_a_step_reads_nothing_back(objective, make, data):
    mine = make()
    step = TrainingStep(mine, objective, torch.optim.SGD(mine.parameters(), 1e-2), compile="off")
    with isolated():
        step(data(6, seed=0))
        with Operations() as operations:
            step(data(6, seed=0))
    assert operations.read_backs == []


@pytest.mark.parametrize("name", OBJECTIVES)
def test_new_tensors_are_on_the_device_of_the_pair(name):
    """Run on torch's device without memory, which takes no tensor of another device beside its own."""
    vae = PAIRS["vae-bernoulli"]
    kinds = [(Pair(*vae.build()), vae.batch()), (Pair(Mixture(), no_latents), scalars(4, 0))]
    if name in ("elbo", "iwelbo-vimco", "wake-score", "wake-sleep"):
        kinds.append((Pair(Switch(), SwitchGuide()), scalars(4, 0)))
    with pyro.validation_enabled(False):
        for mine, data in kinds:
            there = {key: value.to("meta") for key, value in data.items()}
            loss = OBJECTIVES[name].differentiable_loss(*mine.to("meta").programs(), **there)
            loss.backward()
            assert loss.device.type == "meta"


@pytest.mark.slow
@pytest.mark.parametrize("name", fast_in({"elbo", "iwelbo-dreg", "wake-sleep"}, OBJECTIVES))
def test_fits(name):
    """Fits, reports its own bound of the validation data, and comes back from its description."""
    objective = OBJECTIVES[name]
    data = ppl_vae.data.from_tensors(PAIRS["vae-bernoulli"].batch(60))
    mine = Pair(*PAIRS["vae-bernoulli"].build())
    run = ppl_vae.fit(mine, data, objective=objective, epochs=4, batch_size=16, lr=2e-2, compile="graph")
    assert set(run.config["step"]["paths"].values()) == {"graph"}
    bounds = run.history["train_bound"]
    assert bounds[-1] > bounds[0]
    assert all(math.isfinite(bound) for bound in run.history["validation_bound"])
    if name != "renyi-max":  # JSON has no infinity
        again = config.rebuild(config.describe(objective))
        assert type(again) is type(objective)
        assert vars(again) == vars(objective)


@pytest.mark.slow
@pytest.mark.parametrize("name", fast_in({"elbo", "iwelbo-dreg", "wake-sleep"}, OBJECTIVES))
def test_plain_svi_script(name):
    class Script(Guide):
        """The guide, its parameters under names that the model does not have."""

        def __init__(self):
            PyroModule.__init__(self)
            self.encode = nn.Linear(5, L)

        def forward(self, x=None, size=None):
            with pyro.plate("data", rows(x, size), dim=-1):
                pyro.sample("z", dist.Normal(self.encode(x), 0.7).to_event(1))

    torch.manual_seed(0)
    model, guide, data = Model(), Script(), batch()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), loss=OBJECTIVES[name])
    losses = [svi.step(**data) for _ in range(120)]
    assert isinstance(losses[0], float)
    assert sum(losses[-10:]) < sum(losses[:10]) - 100
    assert svi.evaluate_loss(data["x"]) < losses[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_called_on_a_model_and_a_guide_it_is_a_module(name):
    torch.manual_seed(0)
    model, guide = TwoLayers(), BottomUp()
    OBJECTIVES[name](model, guide)(**batch(4)).backward()
    assert all(parameter.grad is not None for parameter in [*model.parameters(), *guide.parameters()])


def test_by_name_with_options():
    objective = parse.objective("iwelbo", parse.settings("--objective-option", ["num_particles=50", "gradient=dreg"]))
    assert isinstance(objective, IWELBO)
    assert (objective.num_particles, objective.gradient) == (50, "dreg")
    assert parse.objective("renyi", parse.settings("--objective-option", ["alpha=-inf"])).alpha == -math.inf
    for name in ("ciwae", "elbo", "iwelbo", "miwae", "piwae", "renyi", "reweightedwakesleep"):
        assert parse.objective(name, {}).num_particles >= 1


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: IWELBO(0), r"num_particles: expected an integer >= 1; got 0"),
        (lambda: IWELBO(2.5), r"num_particles: expected an integer >= 1; got 2.5"),
        (lambda: MIWAE(3, 0), r"num_groups: expected an integer >= 1; got 0"),
        (lambda: IWELBO(3, "drag"), r"unknown gradient: expected one of dreg, reparameterised, stl, vimco; got 'drag'"),
        (lambda: PIWAE(3, 3, "vimco"), r"unknown gradient: expected one of dreg, reparameterised, stl; got 'vimco'"),
        (lambda: ELBO(gradient="dreg"), r"unknown gradient: expected one of reparameterised, stl; got 'dreg'"),
        (
            lambda: ELBO(gradient="stl"),
            r"gradient 'stl': expected kl='sampled', .*; got kl='auto'; try ELBO\(kl=",
        ),
        (lambda: Renyi(float("nan")), r"alpha: expected a number; got nan; try alpha=0.5"),
        (lambda: Renyi("half"), r"alpha: expected a number; got 'half'"),
        (
            lambda: Renyi(math.inf, 3, "dreg"),
            r"gradient 'dreg': expected a finite alpha: .*; got alpha=inf",
        ),
        (lambda: CIWAE(1.5), r"beta: expected a number from 0 to 1; got 1.5; try beta=0.5"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if not name.startswith("elbo")])
def test_latents_that_the_data_share_are_refused(name):
    with pytest.raises(PairError, match=r"site 'b': expected a local site, inside .*; got a site outside it"):
        OBJECTIVES[name].loss(*Pair(Shared(), SharedGuide()).programs(), **batch(4))


@pytest.mark.parametrize(
    "name", [n for n in OBJECTIVES if n not in ("elbo", "iwelbo-vimco", "wake-score", "wake-sleep")]
)
def test_a_discrete_latent_is_refused(name):
    line = r"site 'k': expected a latent with a reparameterised sampler, for gradient='.*'; got Bernoulli; try "
    mine = Pair(Switch(), SwitchGuide())
    for method in ("loss", "differentiable_loss"):
        with pytest.raises(PairError, match=line):
            getattr(OBJECTIVES[name], method)(*mine.programs(), x=torch.zeros(3, 1))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_sites_that_do_not_match_are_refused(name):
    with pytest.raises(PairError, match=r"site 'z2': expected every latent sampled by the guide; got a guide"):
        OBJECTIVES[name].loss(TwoLayers(), no_latents, **batch())

    def guide(x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("z9", dist.Normal(0.0, 1.0))

    with pytest.raises(
        PairError, match=r"site 'z9': expected only latents of the model in the guide; got one it lacks"
    ):
        OBJECTIVES[name].loss(Model(), guide, **batch())


class TwoViews(PyroModule):
    """Two observed sites, the second one weighed."""

    def forward(self, x=None, c=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            with poutine.scale(scale=3.0):
                pyro.sample("c", dist.Normal(z, 1.0).to_event(1), obs=c)


class TwoViewsGuide(PyroModule):
    def forward(self, x=None, c=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def test_observed_sites_of_different_scales_are_refused():
    data = {"x": batch(4)["x"], "c": batch(4)["x"]}
    with pytest.raises(PairError, match=r"site 'c': expected the scale of 'x': one for all observed sites"):
        IWELBO(3).loss(TwoViews(), TwoViewsGuide(), **data)
    assert torch.isfinite(ELBO().loss(TwoViews(), TwoViewsGuide(), **data))


def test_a_scale_in_the_model_alone_is_refused():
    model, guide = pair().programs()
    with pytest.raises(PairError, match=r"site 'z': expected one scale in model and guide; got 2 and 1; try the same"):
        IWELBO(3).loss(poutine.scale(model, scale=2.0), guide, **batch(4))


def test_dreg_needs_one_weight_for_all_latents():
    class Weighed(BottomUp):
        def forward(self, x=None, size=None):
            with pyro.plate("data", rows(x, size), dim=-1):
                z1 = pyro.sample("z1", dist.Normal(self.first(x), 0.5).to_event(1))
                with poutine.scale(scale=0.5):
                    pyro.sample("z2", dist.Normal(self.second(z1), 0.8).to_event(1))

    class WeighedModel(TwoLayers):
        def forward(self, x=None, size=None):
            with pyro.plate("data", rows(x, size), dim=-1):
                with poutine.scale(scale=0.5):
                    z2 = pyro.sample("z2", dist.Normal(torch.zeros(L), 1.0).to_event(1))
                z1 = pyro.sample("z1", dist.Normal(self.up(z2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.out(z1), 1.0).to_event(1), obs=x)

    mine = Pair(WeighedModel(), Weighed())
    assert torch.isfinite(IWELBO(3, "stl").differentiable_loss(*mine.programs(), **batch(4)))
    with pytest.raises(PairError, match=r"site 'z2': expected the scale and mask of 'z1', for gradient='dreg'"):
        IWELBO(3, "dreg").differentiable_loss(*mine.programs(), **batch(4))


def test_a_weight_on_the_kl_leaves_the_closed_form_in_place_for_many_particles():
    """The particles' plate must not make another tensor of the weight for each site."""
    mine = Pair(*PAIRS["ppca-linear"].build())
    weight = KLWeight(torch.tensor(0.5))
    programs = [weight(program) for program in mine.programs()]
    loss = ELBO(4, kl="analytic").loss(*programs, **PAIRS["ppca-linear"].batch())
    assert torch.isfinite(loss)
