"""The pair's contract: what a user's own pair may be, and the error message of each mistake in one."""

from __future__ import annotations

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from own_pairs import (
    D,
    Guide,
    L,
    Mixture,
    Model,
    Regression,
    Shared,
    SharedGuide,
    batch,
    no_latents,
    pair,
    regression_data,
    rows,
)
from pairs import PAIRS
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule
from torch import nn

import ppl_vae
from ppl_vae import InputError, Pair, PairError
from ppl_vae.objectives import ELBO
from ppl_vae.pairs.pair import as_pair

# -- a user's own pairs ---------------------------------------------------------------------------------------------


def test_equal_names_in_model_and_guide_do_not_clash():
    mine = pair()
    names = {name for name, _ in mine.named_parameters()}
    assert {"model.net.weight", "guide.net.weight", "model.scale_unconstrained", "guide.scale_unconstrained"} <= names
    ELBO().differentiable_loss(*mine.programs(), **batch()).backward()
    assert mine.model.net.weight.grad.shape == (D, L)
    assert mine.guide.net.weight.grad.shape == (L, D)
    assert all(p.grad is not None and p.grad.any() for p in mine.parameters())


def test_log_weights_are_log_p_minus_log_q():
    mine, x = pair(), batch()["x"]
    torch.manual_seed(0)
    weights = mine.log_weights({"x": x}, 3)
    torch.manual_seed(0)
    z = mine.posterior({"x": x}, 3)["z"]
    normal = torch.distributions.Normal
    model, guide = mine.model, mine.guide
    by_hand = (
        normal(0.0, 1.0).log_prob(z).sum(-1)
        + normal(model.net(z), model.scale).log_prob(x).sum(-1)
        - normal(guide.net(x), guide.scale).log_prob(z).sum(-1)
    )
    torch.testing.assert_close(weights, by_hand, rtol=1e-5, atol=1e-5)


def test_plain_functions_make_a_pair():
    def model(x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))

    mine = Pair(model, guide)
    x = torch.linspace(-2, 2, 6).unsqueeze(-1)
    exact = torch.distributions.Normal(0.0, 2**0.5).log_prob(x[:, 0])
    torch.testing.assert_close(mine.log_weights({"x": x}, 4), exact.expand(4, -1))  # the guide is the exact posterior
    assert mine.generate(3)["x"].shape == (3, 1)
    assert not list(mine.parameters())


def test_arguments_are_those_both_programs_take():
    mine = pair()
    both = batch() | {"y": torch.zeros(24, dtype=torch.int64)}
    assert mine.arguments(both).keys() == {"x"}
    assert mine.takes("size")
    assert not mine.takes("y")


def test_conditions_reach_both_programs():
    mine = Pair(Regression(), AutoNormal(Regression()))
    data = regression_data()
    assert mine.arguments(data).keys() == {"u", "x"}
    contract = mine.check(data)
    assert contract.observed == ("x",)
    assert contract.shares_latents
    assert contract.latent_dim == 0
    assert mine.generate(u=data["u"])["x"].shape == data["x"].shape


@pytest.mark.slow
@pytest.mark.parametrize("auto", [AutoNormal, AutoMultivariateNormal, AutoDelta])
def test_autoguides_fit_shared_latents(auto):
    model = Regression()
    mine, data = Pair(model, auto(model)), regression_data()
    run = ppl_vae.fit(mine, data, epochs=150, batch_size=20, lr=0.05, progress=False)
    assert run.history["train_bound"][-1] > run.history["train_bound"][0] + 1
    draws = mine.posterior(data, 200)
    assert draws["w"].shape == (200, 1, 3)
    u, x = data["u"], data["x"]
    ridge = torch.linalg.solve(u.T @ u + 0.3**2 * torch.eye(3), u.T @ x)[:, 0]
    # Posterior sd of each weight is about 0.3 / sqrt(40) = 0.05.
    assert (draws["w"].mean((0, 1)) - ridge).abs().max() < 0.15
    assert list(pyro.get_param_store().keys()) == []


def test_shared_and_local_latents_together():
    mine, data = Pair(Shared(), SharedGuide()), batch(10)
    contract = mine.check(data)
    assert contract.shares_latents
    assert contract.latent_dim == L  # of a datum
    draws = mine.posterior(data, 4)
    assert draws["b"].shape == (4, 1, D)
    assert draws["z"].shape == (4, 10, L)
    assert mine.reconstruct(data)["x"].shape == (10, D)
    assert mine.generate(6)["x"].shape == (6, D)


def test_deterministic_and_factor_sites_are_no_latents():
    class Annotated(Model):
        def forward(self, x=None, size=None):
            with pyro.plate("data", rows(x, size), dim=-1):
                z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
                mean = pyro.deterministic("mean", self.net(z), event_dim=1)
                pyro.factor("penalty", -(z**2).sum(-1))
                return pyro.sample("x", dist.Normal(mean, self.scale).to_event(1), obs=x)

    mine, plain = Pair(Annotated(), Guide()), pair()
    mine.load_state_dict(plain.state_dict())
    assert mine.check(batch()).observed == ("x",)
    weights = []
    for each in (mine, plain):
        torch.manual_seed(0)
        weights.append(each.log_weights(batch(), 3))
    torch.manual_seed(0)
    z = plain.posterior(batch(), 3)["z"]
    torch.testing.assert_close(weights[0], weights[1] - (z**2).sum(-1), rtol=1e-5, atol=1e-5)


def test_a_latent_that_training_sums_out_is_drawn_from_the_prior_and_cancels():
    mine = Pair(Mixture(), no_latents)
    x = torch.tensor([[-2.0], [0.3], [2.5]])
    K = 20000
    mine.check({"x": x})
    with torch.no_grad():
        weights = mine.log_weights({"x": x}, K).exp()
        exact = mine.model.log_prob(x).exp()
    assert ((weights.mean(0) - exact).abs() < 5 * weights.std(0) / K**0.5).all()


def test_as_pair():
    mine = pair()
    assert as_pair(mine) is mine

    class Both:
        model, guide = mine.model, mine.guide

    for form in ((mine.model, mine.guide), Both()):
        assert as_pair(form).model is mine.model
        assert as_pair(form).guide is mine.guide
    with pytest.raises(InputError, match=r"pair: expected a Pair, or a model and a guide; got int; try ppl_vae.Pair"):
        as_pair(3)


def test_posterior_and_posterior_mean():
    mine, data = pair(), batch()
    K = 3000
    draws = mine.posterior(data, K)["z"]
    assert draws.shape == (K, 24, L)
    mean = mine.posterior_mean(data)["z"]
    assert ((draws.mean(0) - mean).abs() < 5 * draws.std(0) / K**0.5).all()
    torch.testing.assert_close(mean, mine.guide.net(data["x"]).detach())


def test_a_value_without_a_mean_stands_for_itself():
    class Heavy(Model):
        def forward(self, x=None, size=None):
            with pyro.plate("data", rows(x, size), dim=-1):
                z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
                return pyro.sample("x", dist.Cauchy(self.net(z), self.scale).to_event(1), obs=x)

    decoded = Pair(Heavy(), Guide()).decode({"z": torch.zeros(4, L)})["x"]
    assert decoded.shape == (4, D)
    assert torch.isfinite(decoded).all()


# -- mistakes ---------------------------------------------------------------------------------------------------------


class Faulty(Model):
    """The model of `own_pairs` with one thing about it changed."""

    def __init__(self, body, latent_dim=L):
        super().__init__(latent_dim=latent_dim)
        self.body = body

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            return self.body(self, x)


class FaultyGuide(Guide):
    def __init__(self, body, latent_dim=L):
        super().__init__(latent_dim=latent_dim)
        self.body = body

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            self.body(self, x)


def prior(model):
    return pyro.sample("z", dist.Normal(model.loc, 1.0).to_event(1))


def likelihood(model, z, x):
    return pyro.sample("x", dist.Normal(model.net(z), model.scale).to_event(1), obs=x)


def encoder(guide, x):
    return dist.Normal(guide.net(x), guide.scale)


def second_latent(model, x):
    z = prior(model)
    pyro.sample("extra", dist.Normal(torch.zeros(()), 1.0))
    return likelihood(model, z, x)


def second_in_guide(guide, x):
    pyro.sample("z", encoder(guide, x).to_event(1))
    pyro.sample("extra", dist.Normal(torch.zeros(()), 1.0))


def observed_in_guide(guide, x):
    pyro.sample("z", encoder(guide, x).to_event(1))
    pyro.sample("x", dist.Normal(x, 1.0).to_event(1))


def no_event_x(model, x):
    return pyro.sample("x", dist.Normal(model.net(prior(model)), model.scale), obs=x)


def no_event_z(model, x):
    return likelihood(model, pyro.sample("z", dist.Normal(model.loc, 1.0)), x)


def own_parameter(model, x):
    z = prior(model)
    return pyro.sample("x", dist.Normal(model.net(z), pyro.param("noise", torch.ones(D))).to_event(1), obs=x)


def unbounded_prior(model, x):
    return likelihood(model, pyro.sample("z", dist.LogNormal(model.loc, 1.0).to_event(1)), x)


MISTAKES = {
    "missing site": (
        Faulty(second_latent),
        Guide(),
        r"site 'extra': expected the guide to sample every latent site of the model; got a guide that samples z; try "
        r"pyro.sample\('extra', …\) in the guide",
    ),
    "extra site": (
        Model(),
        FaultyGuide(second_in_guide),
        r"site 'extra': expected only latent sites of the model in the guide; got a site the model lacks \(it has z\)",
    ),
    "observed site in the guide": (
        Model(),
        FaultyGuide(observed_in_guide),
        r"site 'x': expected a latent site; got one that the model observes; try dropping it from the guide",
    ),
    "event shape": (
        Model(latent_dim=4),
        Guide(latent_dim=2),
        r"site 'z': expected event shape \(4,\) as in the model; got \(2,\) in the guide; try the same latent_dim",
    ),
    "forgotten to_event on x": (
        Faulty(no_event_x),
        Guide(),
        r"site 'x': expected batch shape with 3, the size of the plate 'data', at dim -1; got 5; try .to_event\(1\)",
    ),
    "forgotten to_event on z": (
        Faulty(no_event_z),
        Guide(),
        r"site 'z': expected batch shape with 3, the size of the plate 'data', at dim -1; got 2; try .to_event\(1\)",
    ),
    "forgotten to_event on z of three": (
        Faulty(no_event_z, latent_dim=3),
        FaultyGuide(lambda guide, x: pyro.sample("z", encoder(guide, x)), latent_dim=3),
        r"site 'z': expected batch shape with 4, the size of the plate 'data', at dim -1; got 3; try .to_event\(1\)",
    ),
    "forgotten to_event in the guide": (
        Model(),
        FaultyGuide(lambda guide, x: pyro.sample("z", encoder(guide, x))),
        r"site 'z': expected batch shape with 3, the size of the plate 'data', at dim -1; got 2; try .to_event\(1\)",
    ),
    "guide outside the support of the prior": (
        Faulty(unbounded_prior),
        Guide(),
        r"site 'z': expected values in the support of its distribution in the model "
        r"\(GreaterThan\(lower_bound=0.0\)\); got values in \[-",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_a_pair(mistake):
    model, guide, line = MISTAKES[mistake]
    with pytest.raises(PairError, match=line) as caught:
        Pair(model, guide).check(batch())
    assert "\n" not in str(caught.value)


def bare(plate):
    """A pair whose plate has another name, or that has none."""

    class Bare(Model):
        def forward(self, x=None, size=None):
            n = rows(x, size)
            with pyro.plate(plate, n, dim=-1) if plate else poutine.block(hide=[]):
                z = pyro.sample("z", dist.Normal(torch.zeros(n, L), 1.0).to_event(1))
                return likelihood(self, z, x)

    class BareGuide(Guide):
        def forward(self, x=None, size=None):
            with pyro.plate(plate, len(x), dim=-1) if plate else poutine.block(hide=[]):
                pyro.sample("z", encoder(self, x).to_event(1))

    torch.manual_seed(0)
    return Pair(Bare(), BareGuide())


def test_no_plate():
    line = r"site '[xz]': expected a local site, inside pyro.plate\('data', B, dim=-1\); got batch shape \(3,\) "
    with pytest.raises(PairError, match=line):
        bare(None).check(batch())


def test_programs_that_do_not_run_on_the_batch():
    with pytest.raises(PairError, match=r"pair: expected programs that run on the batch; got .* \(for x \(3, 7\)\)"):
        pair().check({"x": torch.randn(10, 7)})


class Loaded(Model):
    """A likelihood over a grid of two values, whose support does not depend on the latent."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", rows(x, size), dim=-1):
            return pyro.sample("x", dist.Bernoulli(logits=self.net(prior(self))).to_event(1), obs=x)


def test_values_outside_the_support_beyond_the_first_rows():
    x = torch.zeros(20, D)
    x[17, 2] = 0.5
    line = (
        r"x: expected values in the support of its likelihood \(Boolean\); got 1 rows outside, the first row 17 with "
        r"values in \[0, 0.5\]; try another likelihood, or binarization='fixed' for grey values"
    )
    with pytest.raises(InputError, match=line):
        Pair(Loaded(), Guide()).check({"x": x})


class Dice(PyroModule):
    """A likelihood whose event is a single number."""

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Poisson(z[..., 0].exp()), obs=x)


def test_observation_of_another_shape():
    def guide(x=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))

    mine = Pair(Dice(), guide)
    mine.check({"x": torch.ones(6)})
    with pytest.raises(InputError, match=r"x: expected shape \(N, \); got \(6, 2\)"):
        mine.check({"x": torch.ones(6, 2)})


BAD_BATCHES = {
    "NaN": (
        {"x": torch.randn(9, D).index_fill(0, torch.tensor([4, 7]), torch.nan)},
        rf"x: expected finite values; got {2 * D} NaN or infinite, the first in row 4; try removing or imputing",
    ),
    "infinity": ({"x": torch.full((4, D), torch.inf)}, rf"x: expected finite values; got {4 * D} NaN or infinite"),
    "empty": ({"x": torch.zeros(0, D)}, r"x: expected at least one datum; got shape \(0, 5\)"),
    "missing argument": (
        {"images": torch.zeros(3, D)},
        r"batch: expected tensors named x; got images; try naming the tensors as the arguments of model and guide",
    ),
    "nothing": ({}, r"batch: expected tensors named x; got an empty mapping"),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_bad_batches(name):
    data, line = BAD_BATCHES[name]
    with pytest.raises(InputError, match=line):
        pair().check(data)


def test_lengths_that_differ():
    mine = Pair(Regression(), AutoNormal(Regression()))
    with pytest.raises(InputError, match=r"batch: expected tensors of one leading length; got u 3, x 4"):
        mine.check({"u": torch.zeros(3, 3), "x": torch.zeros(4, 1)})


def test_required_argument_that_is_missing():
    mine = Pair(Regression(), AutoNormal(Regression()))
    with pytest.raises(InputError, match=r"batch: expected tensors named u; got x; try naming the tensors"):
        mine.check({"x": torch.zeros(4, 1)})


def test_model_that_cannot_generate():
    class Scorer(Model):
        def forward(self, x=None):
            with pyro.plate("data", x.shape[-2], dim=-1):
                return likelihood(self, prior(self), x)

    class Demanding(Model):
        def forward(self, x):
            with pyro.plate("data", x.shape[-2], dim=-1):
                return likelihood(self, prior(self), x)

    line = (
        r"model: expected a program that generates when called with size=n and no observation; got .*; try `def forward"
    )
    for model in (Scorer(), Demanding()):
        mine = Pair(model, Guide())
        mine.check(batch())
        ppl_vae.fit(mine, batch(), epochs=1, progress=False)  # it can still be fitted and evaluated
        assert torch.isfinite(ppl_vae.log_likelihood(mine, batch(), num_particles=5).values).all()
        for use in (
            lambda mine=mine: mine.generate(3),
            lambda mine=mine: mine.reconstruct(batch()),
            lambda mine=mine: mine.decode({"z": torch.zeros(2, L)}),
            lambda mine=mine: ppl_vae.to_arviz(mine, batch(), num_samples=8),
        ):
            with pytest.raises(PairError, match=line):
                use()


def test_bad_numbers():
    with pytest.raises(InputError, match=r"num_particles: expected an integer >= 1; got 0; try num_particles=100"):
        pair().log_weights(batch(), 0)
    with pytest.raises(InputError, match=r"size: expected an integer >= 1; got 0"):
        pair().generate(0)
    with pytest.raises(InputError, match=r"unknown latent: expected one of .*; got 'zz'; try 'z'"):
        pair().decode({"zz": torch.zeros(2, L)})


def test_shared_latents_have_no_log_weight_per_datum():
    mine = Pair(Shared(), SharedGuide())
    with pytest.raises(PairError, match=r"site 'b': expected every site inside pyro.plate\('data', B, dim=-1\)"):
        mine.log_weights(batch(), 2)


def test_programs_that_are_not_programs():
    with pytest.raises(
        PairError, match=r"model: expected a PyroModule or a function; got .*Model'>; try an instance, as in"
    ):
        Pair(Model, Guide())
    with pytest.raises(PairError, match=r"guide: expected a PyroModule or a function; got 3"):
        Pair(Model(), 3)


# -- nothing global changes -------------------------------------------------------------------------------------------


def test_settings_of_the_process_come_back_after_success_and_failure():
    for validation in (True, False):
        with pyro.validation_enabled(validation):
            pair().check(batch())
            with pytest.raises(PairError):
                Pair(Model(latent_dim=4), Guide()).check(batch())
            assert torch.distributions.Distribution._validate_args is validation
            assert torch.is_grad_enabled()


def test_evaluation_restores_each_module_s_mode():
    mine = pair()
    mine.model.train()
    mine.guide.eval()
    mine.generate(2)
    mine.posterior(batch())
    assert mine.model.training
    assert mine.model.net.training
    assert not mine.guide.training
    assert not mine.guide.net.training


def test_a_model_without_latents_is_fitted_by_maximum_likelihood():
    class Plain(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(D))

        def forward(self, x=None, size=None):
            with pyro.plate("data", rows(x, size), dim=-1):
                return pyro.sample("x", dist.Normal(self.loc, 1.0).to_event(1), obs=x)

    mine, data = Pair(Plain(), no_latents), batch()
    ppl_vae.fit(mine, data, epochs=100, lr=0.5, optimizer="sgd", progress=False)
    torch.testing.assert_close(mine.model.loc.detach(), data["x"].mean(0), rtol=1e-5, atol=1e-5)
    estimate = ppl_vae.log_likelihood(mine, data, num_particles=3)
    exact = torch.distributions.Normal(mine.model.loc.detach(), 1.0).log_prob(data["x"]).sum(-1)
    torch.testing.assert_close(estimate.values, exact.double(), rtol=1e-6, atol=1e-6)


def test_device_and_dtype_of_a_pair_without_parameters():
    mine = Pair(Dice(), no_latents)
    assert mine.device == torch.device("cpu")
    assert mine.dtype is torch.float32
    assert pair().to(torch.float64).dtype is torch.float64
    assert isinstance(mine.guide, nn.Module)


def test_what_is_no_batch_is_told():
    mine = pair()
    x = batch()["x"]
    for given, got in ((x, "Tensor"), ({"x": x.numpy()}, "values that are no tensors")):
        with pytest.raises(InputError, match=f"batch: expected a mapping of argument names to tensors; got {got}; try"):
            mine.posterior(given)
    with pytest.raises(InputError, match="latents: expected a mapping of sites to tensors; got Tensor"):
        mine.decode(torch.zeros(3, L))
    with pytest.raises(InputError, match="size: expected how many to generate; got none; try size=64"):
        mine.generate()


def test_an_argument_that_one_program_lacks_is_told():
    class Conditional(Model):
        def forward(self, x=None, c=None, size=None):
            return super().forward(x, size)

    mine = Pair(Conditional(), Guide())
    with pytest.raises(
        PairError, match=r"argument 'c': expected both programs to take it, .* got a guide that does not"
    ):
        mine.check(batch() | {"c": torch.zeros(len(batch()["x"]))})


def test_batches_are_moved_to_the_pairs_floating_type():
    mine = pair().double()
    assert mine.posterior(batch())["z"].dtype is torch.float64


def test_a_deterministic_site_in_the_guide_is_nothing_to_the_bound():
    class Telling(Guide):
        def forward(self, x=None, size=None):
            pyro.deterministic("noted", torch.zeros(()))
            return super().forward(x, size)

    mine = Pair(Model(), Telling())
    mine.check(batch())
    assert ELBO().loss(*mine.programs(), **batch()).isfinite()


def test_a_single_datum_is_no_batch():
    mine, x = pair(), batch()["x"]
    mine.check({"x": x})
    with pytest.raises(InputError, match=r"x: expected 2 dimensions, the first one data; got shape .*; try x\[None\]"):
        mine.log_weights({"x": x[0]}, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda mine: mine.generate(5, c=None), "c: expected a tensor; got None; try c=torch.tensor(…)"),
        (lambda mine: mine.generate(c=[1, 2]), "c: expected a tensor; got [1, 2]; try c=torch.tensor(…)"),
        (lambda mine: mine.decode({"z": torch.zeros(1, L)}, c=1), "c: expected a tensor; got 1; try …"),
        # Raised while Pyro traces, which adds the shapes of sites to the text.
        (lambda mine: mine.generate(c=torch.tensor([0, 9])), "c: expected labels 0 to … got 9 in row 1; try …"),
    ],
)
def test_bad_conditions(call, message):
    with pytest.raises(InputError) as caught:
        call(Pair(*PAIRS["cvae-labels"].build()))
    assert re.fullmatch(re.escape(message).replace("…", ".*"), str(caught.value))
